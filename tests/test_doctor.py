"""A report that can be pasted: complete, short, and honest about what is broken."""

import os
from pathlib import Path

import pytest

from equilib import doctor


def test_the_report_names_versions_runtimes_and_data(tmp_path):
    lines = dict(doctor.report(tmp_path / "nothing"))
    assert {"equilib", "python", "processor", "packages", "onnxruntime", "OpenVINO", "PCam", "shipped models"} <= set(
        lines
    )
    assert "torch 2." in lines["packages"] and "missing" not in lines["onnxruntime"]
    assert "run data_download.sh" in lines["PCam"]
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


def test_an_equivariant_model_that_is_not_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_same_bits", lambda running, images: False)
    told = dict(doctor.report(None))["shipped models"]
    assert "pcam_C4_w0.35_20000_seed0: its logits change under quarter turns" in told
    assert "pcam_conventional" not in told, "of a conventional network nobody expects it"


@pytest.mark.parametrize("name, extra", [("openvino", "equilib[openvino]"), ("executorch", "equilib[executorch]")])
def test_a_missing_runtime_says_how_to_get_it(monkeypatch, name, extra):
    monkeypatch.setattr(doctor, "_version", lambda distribution: "missing" if distribution == name else "1")
    assert any(value == f"missing (pip install {extra})" for _, value in doctor.report(None))
