"""The Python of the README and of the model card, run as a reader runs it."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from torch import nn

from equilib import device, results
from equilib.images import read_images
from equilib.pcam import MEAN, STD

ROOT = Path(__file__).parent.parent
PATCHES = ROOT / "equilib" / "live" / "page" / "patches"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_ten_lines_and_the_file_that_comes_of_them(tmp_path, monkeypatch, capsys):
    idea, deployed = blocks("README.md")[:2]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(idea, names)
    (_, conventional), (kind, equivariant) = (line.split() for line in capsys.readouterr().out.splitlines())
    assert float(conventional) > 0.5 and kind == "equivariant" and float(equivariant) < 1e-4
    exec(deployed, names)
    model, images = names["model"], names["patches"][:4]
    assert all(hasattr(model, name) for name in re.findall(r"\.(\w+)", deployed.split("#")[1]))
    turns = [torch.rot90(images, turn, (2, 3)).numpy() for turn in range(4)]
    answers = [model.session.run(None, {"images": np.ascontiguousarray(turned)})[0] for turned in turns]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    (own,) = (block for block in blocks("README.md") if "mine" in block)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    mine = nn.Sequential(*layers, nn.Linear(8, 2)).eval()
    images = torch.randn(4, 3, 95, 95).clamp(-3, 1.7)
    names = {"mine": mine, "images": images.numpy()}
    exec(own, names)
    with torch.no_grad():
        assert np.abs(names["logits"] - mine(images).numpy()).max() < 0.05


def test_an_onnx_file_by_itself(monkeypatch):
    (alone,) = blocks("results/model_card.md")
    monkeypatch.chdir(ROOT)
    names = {}
    exec(alone, names)
    path = ROOT / re.search(r"results/\w+\.onnx", alone)[0]
    ((_, images),) = list(read_images(ROOT / re.search(r'"(equilib/live/\S+\.png)"', alone)[1], 95))
    (logits,) = device.session(path).run(None, {"images": images.numpy()})
    assert np.abs(logits - names["logits"]).max() < 1e-3
    assert abs(torch.from_numpy(logits).softmax(1)[0, 1].item() - names["probability"]) < 1e-3
    assert names["MEAN"] == tuple(round(value, 4) for value in MEAN)
    assert names["STD"] == tuple(round(value, 4) for value in STD)


def test_what_the_model_card_says_of_all_files():
    said = re.search(r"Opset (\d+), IR version (\d+), any batch", (ROOT / "results/model_card.md").read_text("utf-8"))
    for path in (ROOT / "results").glob("*.onnx"):
        model = onnx.load(path)
        assert [(model.opset_import[0].version), model.ir_version] == list(map(int, said.groups()))
        (given,), (answer,) = model.graph.input, model.graph.output
        sizes = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
        assert (given.name, sizes, answer.name) == ("images", ["batch", 3, 95, 95], "logits")


def test_bits_hold_from_the_level_on_that_the_model_card_names():
    path = results.shipped_int8("pcam_C12_fieldwise_20000_epochs24_seed0")
    ((_, images),) = list(read_images(PATCHES / "tumour-4.png", 95))
    turns = [np.ascontiguousarray(torch.rot90(images, turn, (2, 3)).numpy()) for turn in range(4)]
    same = {}
    for level in ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = SessionOptions()
        options.graph_optimization_level = getattr(GraphOptimizationLevel, level)
        options.add_session_config_entry("session.x64quantprecision", "1")
        running = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        first, *others = (running.run(None, {"images": turned})[0] for turned in turns)
        same[level] = all(np.array_equal(first, other) for other in others)
    assert same == {"ORT_ENABLE_BASIC": False, "ORT_ENABLE_EXTENDED": True, "ORT_ENABLE_ALL": True}
