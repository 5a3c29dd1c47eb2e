import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equilib import device, live, results, study, training
from equilib.deploy import deploy
from equilib.equivariance import relative_difference, run_model
from equilib.fields import rotate
from equilib.images import read_images
from equilib.mobilenet import count_parameters

SHIPPED = Path(__file__).parent.parent / "results"


def test_results_are_read_without_the_training_stack():
    code = "import sys, equilib.study; print([name for name in ('torch', 'lightning', 'e2cnn') if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(SHIPPED.parent)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), results.written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.txt", "before")]
    with results.written_whole(path) as one, results.written_whole(path) as two:
        one.write_text("one"), two.write_text("two")
        assert path.read_text() == "before"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.txt", "one")]


def test_shipped_results():
    contents = results.shipped_results("pcam-subset-4k_C12_width1")
    assert contents["data"]["label"].startswith("PCam subset")
    with pytest.raises(FileNotFoundError, match="no results named 'x'"):
        results.shipped_results("x")


def test_results_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="x.json is missing"):
        results.read_results(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="x.json is no JSON"):
        results.read_results(tmp_path / "x.json")


def test_shipped_networks_are_verified(tmp_path, monkeypatch):
    names = [name for name, entry in results.shipped_results("checkpoints").items() if "sha256" in entry]
    assert len(names) >= 2 and {f"{name}.pt" for name in names} == {path.name for path in SHIPPED.glob("*.pt")}
    for name in names:
        network = training.shipped_network(name)
        assert not network.training and count_parameters(network) > 0
    damaged = tmp_path / f"{name}.pt"
    damaged.write_bytes(b"half a file")
    monkeypatch.setattr(results, "_shipped", lambda n, pattern: damaged if pattern == "*.pt" else SHIPPED / f"{n}.json")
    with pytest.raises(ValueError, match="is damaged.*restore it"):
        training.shipped_network(name)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="no results named 'none'; there are"):
        training.shipped_network("none")


ENTRIES = results.shipped_results("checkpoints")
BOTH = [name for name, entry in ENTRIES.items() if {"sha256", "int8 sha256"} <= set(entry)]


# One of each kind each time; the others by night.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if names.index(name) else [])
        for names in ([n for n in BOTH if ("conventional" in n) == plain] for plain in (False, True))
        for name in names
    ],
)
def test_shipped_int8_models_are_those_of_their_networks(name, tmp_path, tissue):
    shipped = run_model(device.session(results.shipped_int8(name)), tissue)
    made = run_model(deploy(training.shipped_network(name), tmp_path / "made.onnx").session, tissue)
    # Made anew on another processor, a weight may fall on the other side of a rounding.
    assert relative_difference(made, shipped) < 0.05


def test_shipped_int8_models_are_listed_and_verified(tmp_path, monkeypatch):
    listed = {f"{name}.onnx" for name, entry in ENTRIES.items() if "int8 sha256" in entry}
    assert listed == {path.name for path in SHIPPED.glob("*.onnx")} and len(BOTH) >= 3
    name = BOTH[0]
    damaged = tmp_path / f"{name}.onnx"
    damaged.write_bytes(b"half a file")
    monkeypatch.setattr(
        results, "_shipped", lambda n, pattern: damaged if pattern == "*.onnx" else SHIPPED / f"{n}.json"
    )
    with pytest.raises(ValueError, match="is damaged.*restore it"):
        results.shipped_int8(name)


@pytest.mark.parametrize(
    "name", [name for name, entry in results.shipped_results("checkpoints").items() if "int8 sha256" in entry]
)
def test_a_shipped_file_answers_as_its_record_says(name):
    """…on the twelve test patches that come with the project, the first of all; and the same however they lie."""
    figures = study.shipped_run(name).figures
    record, labels = (figures["per_patch"][key][:12] for key in ("int8", "label"))
    left = {word: iter(range(1, 7)) for word in ("no-tumour", "tumour")}
    words = ["tumour" if label else "no-tumour" for label in labels]
    paths = [live.PAGE / "patches" / f"{word}-{next(left[word])}.png" for word in words]
    images = torch.cat([image for path in paths for _, image in read_images(path, 95)])
    session = device.session(results.shipped_int8(name))
    logits = run_model(session, images)
    answers = (logits[:, 1] - logits[:, 0]).tolist()
    # Four digits are on record; on another processor one level of an activation may be rounded the other way.
    assert answers == pytest.approx(record, abs=0.1)
    assert [answer > 0 for answer in answers if abs(answer) > 0.1] == [one > 0 for one in record if abs(one) > 0.1]
    same = [torch.equal(run_model(session, rotate(images, degrees)), logits) for degrees in (90, 180, 270)]
    assert same == [live.describe(name)["kind"] == "equivariant"] * 3


def test_results_stay_small():
    """Everything in results/: below 12 MiB.  `python experiments/grid.py pack` compresses the records of new runs."""
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 12 * 2**20


def test_a_packed_file_is_read_by_the_same_name(tmp_path):
    values = {"a": [1, 2.5], "é": None}
    for name in ("x", "y"):
        results.write_json(tmp_path / f"{name}.json", values)
    before = (tmp_path / "x.json").stat().st_mtime
    os.utime(tmp_path / "y.json", (before - 99, before - 99))
    packed = [results.pack(tmp_path / f"{name}.json").read_bytes() for name in ("x", "y")]
    assert packed[0] == packed[1], "the same content, the same file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json.bz2", "y.json.bz2"]
    assert results.read_results(tmp_path / "x.json") == results.read_results(tmp_path / "x.json.bz2") == values
    assert results.is_stored(tmp_path / "x.json") and not results.is_stored(tmp_path / "z.json")
    results.write_json(tmp_path / "y.json", {"newer": 1})
    (tmp_path / "y.json.123.part").write_text("half")
    assert results.read_results(tmp_path / "y.json") == {"newer": 1}
    assert results.results_files(tmp_path) == [tmp_path / "x.json", tmp_path / "y.json"]
    whole = (tmp_path / "x.json.bz2").read_bytes()
    for damaged in (whole[:-9], b"text", b"", whole[:20] + bytes([whole[20] ^ 255]) + whole[21:]):
        (tmp_path / "x.json.bz2").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x.json.bz2 (cannot be unpacked|is no JSON file) .*") as error:
            results.read_results(tmp_path / "x.json")
        assert "\n" not in str(error.value)


def test_json_comes_back_and_lists_of_numbers_take_one_line(tmp_path):
    values = {"a": [1, 2.5, -3e-7], "b": [], "c": ["x, [1]", "\n"], "d": [{"e": [1, 2]}, [[3], [4, 5]]], "f": None}
    results.write_json(tmp_path / "x.json", values)
    assert json.loads((tmp_path / "x.json").read_text()) == values
    assert '"a": [1, 2.5, -3e-07],' in (tmp_path / "x.json").read_text()


def test_vnni_is_what_the_processor_says(monkeypatch):
    x86, arm = {"avx2": True, "avx512_vnni": False, "avx_vnni": False}, {"neon": True, "dot": True, "i8mm": True}
    for capabilities, expected in (
        (x86, False),
        (x86 | {"avx512_vnni": True}, True),
        (x86 | {"avx_vnni": True}, True),  # of processors without AVX-512
        (arm, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert results.has_vnni() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert results.has_vnni()


@pytest.mark.parametrize(
    "found, name, instructions",
    [
        ({"cpu_name": "Cortex-A76", "dot": True, "i8mm": False}, "Cortex-A76", "DEFAULT with dotprod"),
        ({"cpu_name": "Apple M2", "dot": True, "i8mm": True}, "Apple M2", "DEFAULT with dotprod and i8mm"),
        ({"cpu_name": "AMD EPYC", "avx512_vnni": True}, "AMD EPYC", "DEFAULT with VNNI"),
        ({"cpu_name": "", "avx2": True}, "asked elsewhere", "DEFAULT"),
    ],
)
def test_every_processor_is_named(monkeypatch, found, name, instructions):
    """…as torch finds it; where it finds no name, as the system does."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(results.Path, "read_text", lambda path, encoding=None: "model name : asked elsewhere\n")
    assert (results.processor(), results.instructions()) == (name, instructions)
    monkeypatch.setattr(results.Path, "read_text", lambda path, encoding=None: "")
    monkeypatch.setattr(results.platform, "processor", lambda: "")
    monkeypatch.setattr(results.platform, "machine", lambda: "riscv64")
    assert results.processor() == (found["cpu_name"] or "riscv64")


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux lists the flags in a file")
def test_vnni_agrees_with_the_flags_of_linux():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    assert results.has_vnni() == ("avx512_vnni" in flags or "avx_vnni" in flags)


def test_a_file_is_written_where_a_file_can_be(tmp_path):
    (tmp_path / "folder").mkdir(), (tmp_path / "target").write_text("old")
    pipes = [("pipe", "no ordinary file")] if hasattr(os, "mkfifo") else []  # Windows has none
    for name, _ in pipes:
        os.mkfifo(tmp_path / name)
    (tmp_path / "link").symlink_to("target")
    before = {path.name for path in tmp_path.iterdir()}
    for name, words in (("folder", "is a folder"), *pipes, ("none/x", "no such folder")):
        with pytest.raises(OSError, match=words) as error, results.written_whole(tmp_path / name):
            raise AssertionError("nothing is begun")
        assert error.value.filename.endswith(name.removesuffix("/x"))
    with results.written_whole(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_full_disk_is_named_with_the_file_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match="No space left.*x.json") as error,
        results.written_whole(tmp_path / "x.json") as t,
    ):
        t.write_text("half")
        raise OSError(28, "No space left on device")
    assert error.value.filename.endswith("x.json") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[1, 2]", b"[" * 100_000, b"3" * 5000, b'{"a": '])
def test_what_is_no_results_file_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="x.json is no"):
        results.read_results(tmp_path / "x.json")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_revision_is_of_the_code_that_measures(tmp_path, monkeypatch):
    """What it saves on the way is no other revision; a line of code is."""
    files = (
        "equilib/results.py",
        "results/a.json",
        "benchmarks/b.json",
        "benchmarks/c.py",
        "benchmarks/README.md",
        "README.md",
    )
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(results, "__file__", str(tmp_path / "equilib" / "results.py"))
    clean = results._revision()
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    for name in files:
        (tmp_path / name).write_text("2")
        (tmp_path / f"{name}.new").write_text("untracked")
        assert results._revision() == (f"{clean}-dirty" if name.endswith(".py") else clean), name
        (tmp_path / name).write_text("1")
