"""The command as a whole: options from the dataclasses, one sentence for everything that goes wrong."""

import csv
import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from equilib import results, training
from equilib.__main__ import explain, main
from equilib.budget import BUDGETS
from equilib.cli.options import described
from equilib.cli.predict import open_model
from equilib.densenet import DenseNetConfig
from equilib.mobilenet import MobileNetConfig
from equilib.runs import TrainConfig

MODEL = Path(__file__).parent.parent / "results" / "pcam_C4_w0.35_20000_seed0.onnx"


@pytest.fixture
def patch(tmp_path):
    path = tmp_path / "patch.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path)
    return path


def one_sentence(capsys, *words):
    error = capsys.readouterr().err
    assert error.startswith("equilib: ") and error.count("\n") == 1 and "Traceback" not in error, error
    assert all(word in error for word in words), error


# --- options ---


@pytest.fixture
def asked(monkeypatch):
    """asked(*options): the configuration that `equilib train` would train."""

    def ask(*options):
        seen = []
        monkeypatch.setattr(training, "train", lambda config, *rest, **more: seen.append(config) or 1 / 0)
        assert main(["train", "equivariant", "--folder", "run", "--data", "data", *options]) != 0
        return seen[0]

    return ask


def test_without_options_a_run_has_the_librarys_defaults(asked):
    assert asked() == TrainConfig("equivariant", data="data")


def test_a_preset_is_a_start_and_options_win(asked):
    paper = BUDGETS["paper"]
    config = asked("--preset", "paper", "--learning-rate", "0.01")
    assert (config.network.width, config.network.group) == (paper.width, paper.group)
    assert (config.epochs, config.batch_size, config.learning_rate) == (300, 64, 0.01)
    assert asked("--preset", "smoke").network == MobileNetConfig(width=0.35, group="C4")


def test_every_value_of_a_run_can_be_given(asked):
    """…by the name and type that it has in the library, whatever is added there."""
    fixed = {"kind", "network", "data", "classes"}
    others = {
        "group": "D4",
        "group_pooling": "max",
        "depthwise": "strict",
        "strides": (2, 1, 2, 2, 1, 1, 1, 1),
        "input_size": 93,
    }
    for of in (MobileNetConfig, TrainConfig):
        values = {value.name: value for value in dataclasses.fields(of) if value.name not in fixed}
        assert set(values) <= set(described(of)), "each value is described"
        for name, value in values.items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(value.default, bool):
                new, words = not value.default, [option if not value.default else option.replace("--", "--no-", 1)]
            else:
                new = others.get(name, {"divisor": 8, "train_limit": 7, "valid_limit": 7}.get(name))
                new = (
                    new if new is not None else (0.5 if isinstance(value.default, float) else (value.default or 0) + 2)
                )
                words = [option, *(map(str, new) if isinstance(new, tuple) else [str(new)])]
            with_it = {"band_limit": ["--group", "C4"], "input_size": ["--allow-inexact"]}
            with_it["strided_padding"] = with_it["input_size"]
            config = asked(*words, *with_it.get(name, []))
            assert getattr(config if of is TrainConfig else config.network, name) == new, name
    assert asked("--any-angle").any_angle == 1.0


def test_a_densenet_is_asked_for_by_its_family(asked):
    """With its own defaults, and what is given; a preset says how it is trained, not what it is."""
    assert asked("--family", "densenet").network == DenseNetConfig()
    words = ["--family", "densenet", "--growth", "32", "--group", "C4", "--dropout", "0.1", "--band-limit"]
    config = asked(*words, "--preset", "paper")
    assert config.network == DenseNetConfig(growth=32, group="C4", dropout=0.1, band_limit=True)
    assert config.epochs == BUDGETS["paper"].epochs


@pytest.mark.parametrize(
    "words",
    [["--growth", "24"], ["--family", "densenet", "--width", "0.5"], ["--family", "densenet", "--divisor", "8"]],
)
def test_what_the_family_does_not_have_is_refused_by_name(capsys, words):
    assert main(["train", "equivariant", "--folder", "run", "--data", "data", *words]) == 1
    one_sentence(capsys, words[-2], "no such value")


@pytest.mark.parametrize(
    "words", [["--epochs", "many"], ["--learning-rate", "nan"], ["--threads", "0"], ["--epoch", "3"]]
)
def test_options_that_are_none_are_refused_by_name(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(["train", "equivariant", "--folder", "run", *words])
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


# --- one voice ---


def failing(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("equilib.cli.predict.open_model", fail)


def test_what_nobody_expected_is_called_a_bug(patch, capsys, monkeypatch):
    failing(monkeypatch, KeyError("logits"))
    assert main(["predict", str(MODEL), str(patch)]) == 70
    one_sentence(capsys, "a bug of equilib", "KeyError", "logits", "--debug")
    assert main(["--debug", "predict", str(MODEL), str(patch)]) == 70
    assert "Traceback" in capsys.readouterr().err
    assert main(["predict", str(MODEL), str(patch), "--debug"]) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1].startswith("equilib: ")


@pytest.mark.parametrize(
    "error, words, status",
    [
        (ValueError("first\n  second"), ["first second"], 1),
        (OSError(28, "No space left on device", "a.onnx"), ["a.onnx: No space left", "make room"], 1),
        (PermissionError(13, "Permission denied", "folder"), ["folder: Permission denied", "permissions"], 1),
        (MemoryError(), ["too little memory", "--batch-size"], 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ["too little memory"], 1),
        (ModuleNotFoundError("No module named 'onnxscript'"), ["onnxscript", "pip install ."], 1),
        (ModuleNotFoundError("no runtime: pip install openvino"), ["pip install openvino\n"], 1),
        (Exception("Process 1 ended:\nTraceback (most recent call last):\n  x\nValueError: no file"), ["no file"], 1),
        (KeyboardInterrupt(), ["interrupted"], 130),
    ],
)
def test_each_error_is_one_sentence(patch, capsys, monkeypatch, error, words, status):
    failing(monkeypatch, error)
    assert main(["predict", str(MODEL), str(patch)]) == status
    one_sentence(capsys, *words)


def test_explain_never_fails():
    assert explain(OSError()) == ("", 1) and explain(Exception("\n"))[1] == 70


def test_a_closed_pipe_is_quiet(patch, capfd, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["predict", str(MODEL), str(patch)]) == 141
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_commands_of_all_kinds_end_quietly_where_their_reader_leaves(tmp_path, lines):
    """…whether the pipe is found closed while they print or when Python writes what is left."""
    script = tmp_path / "many.py"
    script.write_text(
        "import sys\nfrom equilib.cli.process import until_closed\n"
        f"sys.exit(until_closed(lambda: print('line\\n' * {lines}, end='') or 3))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(MODEL.parent.parent)}
    whole = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert (whole.returncode, whole.stdout, whole.stderr) == (3, "line\n" * lines, "")
    reading, writing = os.pipe()
    os.close(reading)
    left = subprocess.run([sys.executable, script], env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (left.returncode, left.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_output(patch, capfd, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["predict", str(MODEL), str(patch)]) == 1
    one_sentence(capfd, "No space left on device", "make room")


def test_a_whole_process_ends_without_complaints(patch):
    """What Python itself writes when it ends counts too: into a full disk, a closed pipe, and no output at all."""
    environment = os.environ | {"PYTHONPATH": str(MODEL.parent.parent)}
    command = f"{sys.executable} -m equilib predict {MODEL} {patch}"
    for ending, status, words in (
        (" > /dev/full", 1, "No space left on device"),
        (" | true; exit ${PIPESTATUS[0]}", 141, None),
        (" >&-", 1, "standard output"),
    ):
        ran = subprocess.run(["bash", "-c", command + ending], env=environment, capture_output=True, text=True)
        assert ran.returncode == status and (words or "") in ran.stderr, ran.stderr
        assert ran.stderr.count("\n") == (1 if words else 0), ran.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_output_cannot_hold(patch, monkeypatch, encoding):
    odd = patch.with_name("Gewebe_ä_Ł_\udcff.png")
    patch.rename(odd)
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding=encoding) as output:
        monkeypatch.setattr("sys.stdout", output)
        assert main(["predict", str(MODEL), str(odd)]) == 0
        rows = buffer.getvalue().decode(encoding).splitlines()
    assert len(rows) == 2 and "\\udcff" in rows[1]


def test_the_rest_of_a_folder_is_answered(patch, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(patch, folder / name)
    (folder / "b.png").write_text("x"), (folder / "._c.png").write_text("x")
    assert main(["predict", str(MODEL), str(tmp_path / "none"), str(folder), str(patch)]) == 1
    said = capsys.readouterr()
    assert [row["image"][-5:] for row in csv.DictReader(said.out.splitlines())] == ["a.png", "c.png", "h.png"]
    lines = said.err.splitlines()
    assert len(lines) == 2 and "none is missing" in lines[0] and "b.png is no image" in lines[1]


# --- where files go ---


def test_quantize_looks_where_it_writes_before_it_works(tmp_path, capsys, monkeypatch):
    checkpoint = str(results.shipped_checkpoint("synthetic_conventional_C4_w0.35"))
    shutil.copy(checkpoint, tmp_path / "own.pt")
    monkeypatch.setattr("equilib.runs.load_network", lambda path: 1 / 0)
    pipes = [(tmp_path / "pipe", "no ordinary file")] if hasattr(os, "mkfifo") else []  # Windows has none
    for path, _ in pipes:
        os.mkfifo(path)
    before = {path.name for path in tmp_path.iterdir()}
    for output, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "m.onnx", "no such folder"),
        *pipes,
        (tmp_path / "own.pt", "the checkpoint itself"),
    ):
        source = str(tmp_path / "own.pt") if output.name == "own.pt" else checkpoint
        assert main(["quantize", source, "-o", str(output)]) == 1
        one_sentence(capsys, words)
    assert {path.name for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert main(["quantize", checkpoint, "-o", str(tmp_path / "m.onnx"), "--fp32", "--per-field"]) == 1
    one_sentence(capsys, "--fp32", "--per-field")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--input-size", "96"], ["--input-size 95", "--allow-inexact", "at the near side. Use"]),
        (["--depthwise", "foo"], ["--depthwise must be one of"]),
        (["--group", "C6", "--no-band-limit"], ["--no-band-limit", "C4"]),
    ],
)
def test_what_the_library_says_of_its_arguments_names_the_options(capsys, words, said):
    assert main(["train", "equivariant", "--folder", "run", "--data", "data", *words]) == 1
    one_sentence(capsys, *said)


def test_a_group_without_the_quarter_turns_is_said(capsys, asked):
    for group, words in (("C5", "C5 does not contain"), ("D6", "D6 does not contain"), ("C8", ""), ("D4", "")):
        capsys.readouterr()
        asked("--group", group)
        assert ("does not contain the rotation by 90°" in capsys.readouterr().err) == bool(words), group


def test_a_model_that_is_something_else_is_named_as_what_it_is(tmp_path, patch, capsys):
    (tmp_path / "text.pt").write_text("hello")
    for model, words in (
        (tmp_path, ["is a folder"]),
        (tmp_path / "none.onnx", ["none.onnx is missing", "equilib quantize"]),
        (results.shipped_checkpoint("pcam_C4_w0.35_20000_seed0"), ["is a checkpoint", "equilib quantize"]),
    ):
        assert main(["predict", str(model), str(patch)]) == 1
        one_sentence(capsys, *words)
    assert main(["quantize", str(tmp_path / "text.pt"), "-o", str(tmp_path / "m.onnx")]) == 1
    one_sentence(capsys, "text.pt is no checkpoint", "does not begin like one")


# --- ONNX files from elsewhere ---


def made(path, nodes, *, takes=("batch", 3, 95, 95), kind=TensorProto.FLOAT, gives=("logits",), weights=None):
    """A network: mean over the pixels, two linear outputs, and then the given nodes."""
    weights = np.random.default_rng(0).normal(size=(3, 2)).astype("f4") if weights is None else weights
    first = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["float"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["scores"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in gives]
    graph = helper.make_graph(
        [*first, *nodes],
        "graph",
        [helper.make_tensor_value_info("images", kind, takes)],
        outputs,
        [numpy_helper.from_array(weights, "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


SAME = [helper.make_node("Identity", ["scores"], ["logits"])]
NAN = np.full((3, 2), np.nan, "f4")


@pytest.mark.parametrize(
    "nodes, options, words",
    [
        (SAME, {"takes": [8, 3, 95, 95]}, ["8 patches at once"]),
        (SAME, {"kind": TensorProto.UINT8}, ["uint8", "float32"]),
        (SAME, {"kind": TensorProto.FLOAT16}, ["float16", "float32"]),
        (SAME, {"takes": ["batch", 3, 95, 64]}, ["95 x 64", "square"]),
        (SAME, {"takes": ["batch", 3, "height", "width"]}, ["size of its input"]),
        (SAME, {"takes": ["batch", 1, 95, 95]}, []),
        (SAME, {"takes": ["batch", 3 * 95 * 95]}, []),
        (SAME, {"gives": ["logits", "pooled"]}, ["pooled"]),
        (SAME, {"weights": np.zeros((3, 5), "f4")}, ["(1, 5)", "two logits"]),
        (SAME, {"weights": np.zeros((4, 2), "f4")}, ["m.onnx"]),
        (SAME, {"weights": NAN}, ["nan"]),
    ],
)
def test_networks_of_another_kind_are_refused(tmp_path, patch, capsys, nodes, options, words):
    path = made(tmp_path / "m.onnx", nodes, **options)
    assert main(["predict", str(path), str(patch)]) == 1
    one_sentence(capsys, "m.onnx", *words)


def test_a_softmax_is_not_taken_twice(tmp_path):
    image = torch.randn(1, 3, 95, 95) + 1
    plain = open_model(made(tmp_path / "a.onnx", SAME))
    softmax = [helper.make_node("Softmax", ["scores"], ["logits"], axis=-1)]
    by_hand = [
        helper.make_node("Exp", ["scores"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["sum"], keepdims=1),
        helper.make_node("Div", ["e", "sum"], ["logits"]),
    ]
    for nodes in (softmax, by_hand):
        model = open_model(made(tmp_path / "b.onnx", nodes))
        assert model.normalized and not plain.normalized
        assert torch.allclose(model.probabilities(image), plain.probabilities(image), atol=1e-6)


def test_a_patch_that_overflows_is_named_and_the_others_answered(tmp_path, patch, capsys):
    bright = tmp_path / "bright.png"
    Image.new("RGB", (96, 96), (255, 255, 255)).save(bright)
    # exp(100 x) of the normalised intensities: infinite for white alone.
    nodes = [
        helper.make_node("Mul", ["scores", "scores"], ["squares"]),
        helper.make_node("Mul", ["squares", "squares"], ["powers"]),
        helper.make_node("Exp", ["powers"], ["logits"]),
    ]
    path = made(tmp_path / "m.onnx", nodes, weights=np.full((3, 2), 1.0, "f4"))
    assert main(["predict", str(path), str(bright), str(patch)]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and "patch.png" in said.out
    about_the_file, about_the_patch = said.err.splitlines()
    assert "m.onnx carries no self-test" in about_the_file
    assert "bright.png" in about_the_patch and "no finite numbers" in about_the_patch


@pytest.mark.parametrize("place, words", [("../w.bin", "outside its folder"), ("none.bin", "missing beside it")])
def test_weights_from_outside_the_folder_are_refused(tmp_path, patch, capsys, place, words):
    (tmp_path / "inner").mkdir()
    path = made(tmp_path / "inner" / "m.onnx", SAME, weights=np.zeros((3, 2), "f4"))
    (tmp_path / "w.bin").write_bytes(bytes(24))
    model = onnx.load(path)
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for target in (place, str(tmp_path / "w.bin") if place.startswith("..") else place, "link.bin"):
        del weights.external_data[:]
        weights.external_data.add(key="location", value=target)
        if target == "link.bin" and not (path.parent / target).is_symlink():
            (path.parent / target).symlink_to(path.parent / place)
        path.write_bytes(model.SerializeToString())
        assert main(["predict", str(path), str(patch)]) == 1
        one_sentence(capsys, "m.onnx", words)
    shutil.copy(tmp_path / "w.bin", path.parent / "beside.bin")
    weights.external_data[0].value = "beside.bin"
    path.write_bytes(model.SerializeToString())
    assert main(["predict", str(path), str(patch)]) == 0
