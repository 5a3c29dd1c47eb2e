"""What the figures of an experiment mean, on models small enough to know the answer."""

from contextlib import contextmanager
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from equilib import experiment
from equilib.pcam import Patches, network_inputs, split_path


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Black patches with a white corner pixel: none, one, or a symmetric four of them."""
    root = tmp_path_factory.mktemp("corners")
    images = np.zeros((10, 96, 96, 3), np.uint8)
    images[1::2, 0, 0] = 255  # half of the patches look different from every side
    images[8:, [0, 0, -2, -2], [0, -2, 0, -2]] = 255  # the corners of the 95 pixels that are left after the crop
    with h5py.File(split_path(root, "test", "x"), "w") as file:
        file["x"] = images
    with h5py.File(split_path(root, "test", "y"), "w") as file:
        file["y"] = (np.arange(10, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
    return Patches(root, "test")


def corner(x):
    """Two logits that depend on the top left pixel; it is white at one of four quarter turns."""
    return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0]], 1)


def test_identical_means_under_all_three_turns_and_in_all_logits(patches):
    """A pixel in one corner changes one of four answers: under two of three rotations nothing differs from black."""
    # Patches 0, 2, 4, 6 (black), 8 and 9 (four corners) look alike from all sides; 1, 3, 5 and 7 do not.
    for batch_size in (64, 3):
        assert experiment.identical_under_quarter_turns(corner, patches, 95, batch_size=batch_size) == 0.6

    def opposite(x):  # sees the corner that a white top left pixel reaches by 180 degrees only
        return corner(x.flip((-2, -1)))

    # Two of the three rotations leave the answer as it is; that is not enough.
    assert experiment.identical_under_quarter_turns(opposite, patches, 95) == 0.6

    def always(x):
        return torch.ones(len(x), 2)

    assert experiment.identical_under_quarter_turns(always, patches, 95) == 1.0


def test_a_change_of_the_last_bit_is_a_change(patches):
    def nearly(x):
        logits = torch.ones(len(x), 2)
        logits[:, 1] += torch.finfo(torch.float32).eps * (x[:, 0, 0, 0] > 0)
        return logits

    assert experiment.identical_under_quarter_turns(nearly, patches, 95) == 0.6


@pytest.mark.parametrize("batch_size", [3, 7, 64])
def test_every_patch_is_answered_once_and_in_order(patches, batch_size):
    whole = corner(network_inputs(patches, range(10), 95))
    assert torch.equal(experiment.predict(corner, patches, 95, batch_size=batch_size), whole)


def test_metrics_in_closed_form():
    """Four patches, three right; one pair of the classes' four pairs is out of order."""
    margin = torch.tensor([-2.0, 1.0, 0.5, 3.0])
    labels = torch.tensor([0, 0, 1, 1])
    metrics = experiment.classification_metrics(torch.stack([torch.zeros(4), margin], 1), labels)
    assert metrics["accuracy"] == 0.75 and metrics["auc"] == 0.75
    signed = torch.where(labels == 1, margin, -margin)
    assert metrics["cross_entropy"] == pytest.approx((1 + (-signed).exp()).log().mean().item())
    # All four fall into bins of their own: the mean distance between confidence and truth.
    confidence = margin.abs().sigmoid()
    right = (signed > 0).float()
    assert metrics["calibration_error"] == pytest.approx((confidence - right).abs().mean().item(), abs=1e-6)


def test_differences_are_those_of_the_second_logit_over_the_first(patches):
    scores = experiment.score(corner, lambda x: -corner(x), patches, 95)
    white = [i for i in range(10) if patches.images([i])[0, 0, 0, 0] == 255]
    assert scores["label"] == [0, 1] * 5
    assert [i for i, value in enumerate(scores["fp32"]) if value > 0] == white
    assert scores["int8"] == [-value for value in scores["fp32"]]


def test_the_spread_of_ranges_is_the_largest_over_the_smallest():
    conv = nn.Conv2d(2, 3, 1)
    conv.weight.data = torch.tensor([[1.0, -4.0], [0.5, 0.1], [-2.0, 1.0]]).view(3, 2, 1, 1)
    assert experiment.range_spread(nn.Sequential(conv)) == {"0": 8.0}
    conv.weight.data[1] = 0
    assert experiment.range_spread(nn.Sequential(conv)) == {"0": 0.0}


def test_the_table_shows_the_worst_exact_rotation():
    errors = [
        dict(degrees=30, rms=0.9),
        dict(degrees=90, rms=0.1),
        dict(degrees=180, rms=0.3),
        dict(degrees=270, rms=0.2),
    ]
    figures = {
        "parameters": 7,
        "accuracy": {"fp32": {"accuracy": 0.9}, "int8": {"accuracy": 0.8}, "int8 naive, simulated": {"accuracy": 0.5}},
        "equivariance": {"exported": errors, "int8": [e | {"rms": 10 * e["rms"]} for e in errors]},
    }
    (row,) = experiment.table({"models": {"equivariant": figures}})
    assert row == {
        "model": "equivariant",
        "parameters": 7,
        "FP32 accuracy": 0.9,
        "INT8 accuracy": 0.8,
        "naive INT8 accuracy": 0.5,
        "FP32 error at 90°": 0.3,
        "INT8 error at 90°": 3.0,
    }


def test_a_short_record_keeps_the_class_of_each_patch():
    logits = torch.tensor([[0.0, 3e-6], [3e-6, 0.0], [1.0, 1.0], [0.0, 1.23456], [0.5, 0.0]])
    found = experiment._per_patch(torch.tensor([1, 0, 0, 1, 0]), {"fp32": logits})["fp32"]
    assert [value > 0 for value in found] == (logits.argmax(1) == 1).tolist()
    assert found[2:] == [0.0, 1.2346, -0.5]


def test_the_bar_of_measuring_ends_where_it_said(patches, tmp_path, monkeypatch, shallow):
    """Its estimate rests on the number of answers, which `measure` has to know before the first of them."""
    from equilib.mobilenet import MobileNetConfig, build, estimate_statistics
    from equilib.training import TrainConfig, TrainResult

    answered = []

    @contextmanager
    def bar(*, total, words, unit):
        answered.append(-total)
        yield SimpleNamespace(update=lambda count=1: answered.append(count))

    monkeypatch.setattr(experiment, "bar", bar)
    config = TrainConfig("conventional", MobileNetConfig(width=0.1, group="C4", input_size=31), str(patches.root))
    network = estimate_statistics(build(config.kind, config.network), torch.randn(8, 3, 31, 31)).eval()
    trained = TrainResult(network, tmp_path / "none", 1, (), {}, 0)
    figures = experiment.measure(
        trained, config, tmp_path / "x.onnx", angles=(90,), measured=4, further={"again": patches}
    )
    assert len(figures["per_patch"]["label"]) == 10 and figures["measured_patches"] == 4
    assert sum(answered) == 0 and sum(count < 0 for count in answered) == 2, (
        "one for the steps to INT8, one for patches"
    )
    for start in (0, next(index for index, count in enumerate(answered) if count < 0 and index)):
        ended = next((index for index, count in enumerate(answered) if count < 0 and index > start), len(answered))
        assert sum(answered[start:ended]) == 0
