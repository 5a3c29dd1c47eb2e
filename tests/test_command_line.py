"""What users type wrong: each slip is answered in one line that names the option or the file, before work begins."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from equilib import experiment
from equilib.__main__ import main
from equilib.pcam import SPLITS, split_path
from equilib.results import shipped_folder, shipped_int8

CHECKPOINT = shipped_folder() / "synthetic_equivariant_C4_w0.35.pt"
MODEL = shipped_int8("pcam_C4_w0.35_20000_seed0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four patches a split, of both classes; an empty file beside them; a picture of floating-point values."""
    root = tmp_path_factory.mktemp("typed")
    for split in SPLITS:
        write(root, split, [0, 1, 0, 1])
    (root / "file.txt").touch()
    (root / "exported.onnx").write_bytes(b"\x08\x08")
    Image.fromarray(np.zeros((96, 96), np.float32)).save(root / "deep.tif")
    return root


def write(root, split, labels):
    for key, values in (
        ("x", np.zeros((len(labels), 96, 96, 3), np.uint8)),
        ("y", np.reshape(labels, (-1, 1, 1, 1)).astype(np.uint8)),
    ):
        with h5py.File(split_path(root, split, key), "w") as file:
            file[key] = values


def said(capsys, command, status):
    """What a command ends with; it is one line, and nothing else."""
    try:
        assert main([str(word) for word in command]) == status
    except SystemExit as stop:  # of argparse
        assert stop.code == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("equilib"), error
    return error


TRAIN = ["train", "equivariant", "--data", "{}", "--folder", "{}/run"]


@pytest.mark.parametrize(
    "command, words",
    [
        (
            [*TRAIN, "--epoch", "1"],
            "equilib train: '--epoch' is no option or argument of it; do you mean --epochs; see",
        ),
        (["predict", MODEL, "x.png", "--strid=3"], "'--strid=3' is no option or argument of it; do you mean --stride;"),
        ([*TRAIN, "--epochs", "1.5"], "argument --epochs: '1.5' is no whole number; see equilib train --help"),
        (["train", "equivariant", "--folder", ""], "argument --folder: the name is empty"),
        ([*TRAIN, "--data", ""], "argument --data: the name is empty"),
        (["predict", MODEL, ""], "argument images: the name is empty"),
        (["predict", MODEL, "{}", "--map", ""], "argument --map: the name is empty"),
        (["quantize", CHECKPOINT, "-o", ""], "argument -o/--output: the name is empty"),
        (
            ["--debgu", "doctor"],
            "equilib: '--debgu' is no option or argument of it; do you mean --debug; see equilib --help",
        ),
        (["guess"], "invalid choice: 'guess'"),
    ],
)
def test_a_command_line_that_cannot_be_read(folder, capsys, command, words):
    error = said(capsys, [str(word).format(folder) for word in command], 2)
    assert words in error and len(error) < 250, error


@pytest.mark.parametrize(
    "command, words",
    [
        ([*TRAIN, "--train-limit", "5"], ["--train-limit must lie between 1 and the 4 patches of train, got 5"]),
        ([*TRAIN, "--any-angle", "1.5"], ["--any-angle must be a share"]),
        ([*TRAIN, "--workers", "-1"], ["--workers must not be negative"]),
        ([*TRAIN, "--precision", "8"], ["--precision must be one of"]),
        ([*TRAIN, "--input-size", "10"], ["--input-size 10 is too small for this network: a window"]),
        ([*TRAIN, "--input-size", "119"], ["--input-size 119 is larger than PCam's patches of 96 x 96 pixels"]),
        (
            [*TRAIN, "--batch-size", "8"],
            ["--batch-size 8 on 1 process(es) is larger than the 4 patches; take a smaller"],
        ),
        (
            ["train", "equivariant", "--data", "{}/file.txt", "--folder", "{}/run"],
            ["file.txt is a file; name the folder"],
        ),
        ([*TRAIN[:-1], "{}/file.txt/run"], ["file.txt", "a part of this path is a file; name another place"]),
        (
            ["compare", "--data", "{}", "--folder", "{}/r", "--output", "{}/o.json", "--measured", "1"],
            ["--measured must"],
        ),
        (["quantize", CHECKPOINT, "-o", "{}/file.txt/o.onnx"], ["file.txt: it is a file, not a folder; name another"]),
        (
            ["quantize", "{}/exported.onnx", "-o", "{}/o.onnx"],
            ["it is named like an ONNX file, which has been exported"],
        ),
        (["quantize", CHECKPOINT, "-o", "{}/o.onnx", "--fp32", "--no-equalize"], ["does not go with --no-equalize"]),
        (["quantize", CHECKPOINT, "-o", "{}/o.onnx", "--per-field", "--no-equalize"], ["--per-field", "--no-equalize"]),
        (["quantize", CHECKPOINT, "-o", "{}/file.txt/deeper/o.onnx"], ["file.txt: it is a file, not a folder"]),
        (
            ["predict", MODEL, "{}/deep.tif", "--map", "{}/map.png"],
            ["--map", "map.png is named like a picture; name the"],
        ),
        (["predict", MODEL, "{}/deep.tif"], ["deep.tif has values of type float32, not 8-bit ones"]),
    ],
)
def test_what_does_not_fit(folder, capsys, command, words):
    before = sorted(path.name for path in folder.iterdir())
    error = said(capsys, [str(word).format(folder) for word in command], 1)
    assert all(word in error for word in words), error
    assert {path.name for path in folder.iterdir()} - set(before) <= {"run"}, "a file was left behind"


def test_a_size_that_patches_do_not_have_is_no_advice(folder, capsys):
    """Patches have 96 pixels: with paddings that want more, another padding is the way out."""
    error = said(capsys, [word.format(folder) for word in [*TRAIN, "--strided-padding", "5"]], 1)
    advised = error.split("Use ")[1]
    assert advised.startswith("another strided_padding") or int(advised.split()[1].strip(",")) <= 96, error
    assert "near side block" not in error, "sentences run together"


COMPARE = ["compare", "--data", "{}", "--folder", "{}/runs", "--output", "{}/o.json", "--width", "0.1", "--no-progress"]


def test_compare_builds_both_networks_before_it_trains_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "train", lambda *_, **__: pytest.fail("it trains"))
    error = said(capsys, [word.format(folder) for word in [*COMPARE, "--depthwise", "grouped"]], 1)
    assert "--depthwise 'grouped' is the conventional network's" in error


def test_compare_wants_patches_of_both_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "train", lambda *_, **__: pytest.fail("it trains"))
    for split in SPLITS:
        write(tmp_path, split, [1, 1, 1, 1] if split == "test" else [0, 1, 0, 1])
    error = said(capsys, [word.format(tmp_path) for word in COMPARE], 1)
    assert "_test_x.h5 holds patches of one class alone (labels 1)" in error


def test_debug_shows_where_a_file_was_refused(tmp_path, capsys):
    assert main(["predict", "--debug", str(MODEL), str(tmp_path / "none.png")]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "image_files" in error
    assert error.splitlines()[-1] == f"equilib: {tmp_path / 'none.png'} is missing"


def test_pictures_of_one_size_are_warned_of_once(folder, capsys):
    x = str(split_path(folder, "test", "x"))
    assert main(["predict", str(MODEL), x, "--stride", "31"]) == 0
    told = capsys.readouterr()
    assert len(list(csv.reader(io.StringIO(told.out)))) == 1 + 4
    assert told.err.count("strides near it that fit") == 1 and f"{x}[0]" in told.err


def test_help_names_the_exit_statuses(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "Exit status: 0 done; 1 a file" in " ".join(capsys.readouterr().out.split())


def test_an_option_alone_says_what_it_means(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "without a number 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["seed=1/epochs=3/best.ckpt", "width=0.5\\best.ckpt", "a  b.ckpt"])
def test_names_of_files_are_told_as_they_are(tmp_path, monkeypatch, capsys, name):
    """Folders are often called like options, by tools that start many runs."""
    monkeypatch.chdir(tmp_path)
    assert name in said(capsys, ["quantize", name, "-o", "x.onnx"], 1)


@pytest.mark.parametrize(
    "command, status, words",
    [
        (["predict", str(MODEL), "x.png", "--threads", "99999999999"], 2, "must be at most"),
        (["train", "conventional", "--data", "{}", "--folder", "{}/r", "--width", "1e300"], 1, "--width must be"),
        (["train", "conventional", "--data", "{}", "--folder", "{}/r", "--strided-padding", "-1"], 1, "--strided-padding must"),
        (["train", "equivariant", "--data", "{}", "--folder", "{}/r", "--group", "C" + "9" * 23], 1, "--group must be"),
    ],
)  # fmt: skip
def test_numbers_beyond_all_machines(folder, capsys, command, status, words):
    assert words in said(capsys, [word.format(folder) for word in command], status)


def test_a_cache_of_nobody(monkeypatch, capsys):
    monkeypatch.setenv("EQUILIB_CACHE", "~nosuchuser/x")
    assert main(["doctor"]) == 1 and "EQUILIB_CACHE=~nosuchuser/x names no folder" in capsys.readouterr().out


def test_a_link_to_itself(tmp_path, capsys):
    (tmp_path / "loop.png").symlink_to("loop.png")
    command = ["predict", str(MODEL), str(tmp_path / "loop.png"), "--map", str(tmp_path / "maps")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("loop.png") == 1 and "bug" not in error


ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_without_error_output_nothing_is_mixed_into_the_answers(folder, tmp_path):
    """…as under some daemons, where Python has no sys.stderr, and print() would take the output instead."""
    x = split_path(folder, "test", "x")
    command = f'exec "{sys.executable}" -m equilib predict "{MODEL}" none.png "{x}" 2>&-'
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert [line.count(",") for line in ended.stdout.splitlines()] == [2] * 5


@pytest.mark.slow
def test_python_without_docstrings_runs_the_commands():
    ended = subprocess.run(
        [sys.executable, "-OO", "-m", "equilib", "train", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "") and "--epochs" in ended.stdout


@pytest.mark.slow
def test_scripts_say_in_one_sentence_what_is_missing(tmp_path):
    command = [
        sys.executable,
        "experiments/grid.py",
        "train",
        "--label",
        "x",
        "--data",
        "/nosuch",
        "--folder",
        str(tmp_path),
    ]
    ended = subprocess.run(
        [*command, "--only", "C12_w1_20000_seed2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("grid.py: ") and "/nosuch" in ended.stderr
