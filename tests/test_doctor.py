"""A report that can be pasted: complete, short, and honest about what is broken."""

import os
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from equilib import doctor
from equilib.__main__ import main
from equilib.pcam import split_path
from equilib.synthetic import ensure_dataset


def test_the_report_names_versions_runtimes_and_data(tmp_path):
    lines = dict(doctor.report(tmp_path / "nothing"))
    assert {"equilib", "python", "processor", "packages", "onnxruntime", "OpenVINO", "PCam", "shipped models"} <= set(
        lines
    )
    assert "torch 2." in lines["packages"] and "missing" not in lines["onnxruntime"]
    assert "./data_download.sh" in lines["PCam"]
    assert lines["shipped models"].endswith("same bits under quarter turns")
    text = doctor.as_text(list(lines.items()))
    assert len(text.splitlines()) == len(lines) <= 20, "one screen"
    assert str(Path.home()) not in text and os.getcwd() not in text, "nothing of whose machine it is"


def test_a_damaged_model_and_a_wrong_budget_are_told(monkeypatch):
    def damaged(name):
        raise ValueError("x.onnx is damaged")

    monkeypatch.setattr("equilib.results.shipped_int8", damaged)
    monkeypatch.setenv("EQUILIB_BUDGET", "huge")
    lines = dict(doctor.report(None))
    assert "x.onnx is damaged" in lines["shipped models"]
    assert "EQUILIB_BUDGET must be one of" in lines["budget"] and "PCam" not in lines
    faults = {name for name, value in lines.items() if isinstance(value, doctor.Fault)}
    assert faults == {"shipped models", "budget"}


def test_the_exit_status_says_whether_something_is_wrong(monkeypatch, tmp_path, capsys):
    """…for set-ups that ask; data that nobody has downloaded is not wrong, a folder that was named and is not there is."""
    monkeypatch.setattr(doctor, "_same_bits", lambda running, images: True)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0 and not capsys.readouterr().err
    assert main(["doctor", "--data", "nowhere"]) == 1
    assert "wrong here: PCam" in capsys.readouterr().err
    folder = Path(doctor.DATA)
    folder.mkdir(parents=True)  # begun, and nothing there yet
    assert main(["doctor"]) == 0
    drawn = ensure_dataset({"train": 1, "valid": 2, "test": 3})
    for split in ("valid", "test"):  # a part of it, as `data_download.sh --only` brings
        for key in "xy":
            shutil.copy(split_path(drawn, split, key), split_path(folder, split, key))
    capsys.readouterr()
    assert main(["doctor"]) == 0
    assert "train not there; valid 2; test 3" in capsys.readouterr().out
    split_path(folder, "train", "x").write_bytes(b"half a file")
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "wrong here: PCam" in said.err and "valid 2; test 3" in said.out


def test_an_equivariant_model_that_is_not_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_same_bits", lambda running, images: False)
    told = dict(doctor.report(None))["shipped models"]
    assert "pcam_C4_w0.35_20000_seed0: its logits change under quarter turns" in told
    assert "pcam_conventional" not in told, "of a conventional network nobody expects it"


@pytest.mark.parametrize("name, packages", [("openvino", "openvino"), ("executorch", "executorch torchao")])
def test_a_missing_runtime_says_how_to_get_it(monkeypatch, name, packages):
    monkeypatch.setattr(doctor, "_version", lambda distribution: "missing" if distribution == name else "1")
    assert any(value == f"missing (pip install {packages})" for _, value in doctor.report(None))


def test_a_machine_without_proc_has_a_report_too(monkeypatch):
    """As macOS and Windows; and an older torch, which does not say what the processor is called."""
    read = Path.read_text

    def nothing_under_proc(path, *arguments, **options):
        if path.parts[:2] == ("/", "proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", nothing_under_proc)
    monkeypatch.setattr("equilib.results._capabilities", lambda: {})
    monkeypatch.setattr(doctor, "_same_bits", lambda running, images: True)
    lines = dict(doctor.report(None))
    assert platform.machine() in lines["processor"] and "cores" in lines["processor"]
    assert lines["shipped models"].endswith("same bits under quarter turns")


def test_whether_a_model_may_change_its_answers_is_asked_of_its_run(monkeypatch):
    """…not read out of the name of its file."""
    monkeypatch.setattr(doctor, "_same_bits", lambda running, images: False)
    conventional = SimpleNamespace(variant=SimpleNamespace(conventional=True))
    monkeypatch.setattr("equilib.study.shipped_run", lambda name: conventional)
    assert dict(doctor.report(None))["shipped models"].endswith("same bits under quarter turns")


def test_what_cannot_be_asked_hides_nothing_else(monkeypatch, tmp_path):
    """A cache that is nowhere, a list of shipped models that cannot be read: each is its own line."""

    def broken(name):
        raise ValueError("checkpoints.json is no JSON file")

    monkeypatch.setattr("equilib.results.shipped_results", broken)
    monkeypatch.setenv("EQUILIB_CACHE", "~nobody-of-this-name/x")
    found = dict(doctor.report(None))
    for name, words in (("shipped models", "checkpoints.json is no JSON"), ("synthetic tissue", "EQUILIB_CACHE=")):
        assert words in found[name] and isinstance(found[name], doctor.Fault)
    assert found["budget"] and not isinstance(found["budget"], doctor.Fault)
