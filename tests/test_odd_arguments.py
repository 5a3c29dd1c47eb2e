"""What a function cannot mean is refused in one sentence, by the argument's name; and what is handed out may be changed."""

import numpy as np
import pytest
import torch
from torch import nn

from equilib import bootstrap, dfq, equivariance, experiment, fields, filters, grids, int8, mobilenet, pcam, windows
from equilib.densenet import DenseNetConfig
from equilib.plain import Crop

FIELD = torch.rand(1, 8, 5, 5)
PATCHES = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
PICTURE = np.zeros((9, 9, 3), np.uint8)
TINY = mobilenet.MobileNetConfig(width=0.25, input_size=31)


def plain():
    return mobilenet.build("conventional", TINY).eval()


def folded():
    return dfq.fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: fields.Group(0), "rotations must be a whole number, at least 1"),
        (lambda: fields.Group(2.5), "rotations must be"),
        (lambda: fields.Group(4, "no"), "reflections must be True or False"),
        *((lambda r=r: fields.rotate_field(FIELD, "C4", r), "rotation must be a whole number") for r in (0.5, 2.0, "1")),
        (lambda: fields.channel_permutation(fields.Group(4), 0.5), "rotation must be"),
        (lambda: fields.representation_matrix("C4", "regular", 0.5), "rotation must be"),
        (lambda: fields.transform_field(FIELD, "C8", "irrep1", float("nan")), "rotation must be"),
        *((lambda d=d: fields.rotate(FIELD, d), "degrees must be a finite number") for d in (float("nan"), "90", True)),
        (lambda: fields.rotate(FIELD, 45, order=7), "order must be 0, 1, 2 or 3, got 7"),
        *((lambda n=n: fields.disc_mask(n), "size must be") for n in (0, 9.5, True)),
        (lambda: windows.Windows(95, 95, 0), "size must be"),
        (lambda: windows.Windows(95, 95.5, 33), "width must be"),
        (lambda: windows.Windows(95, 95, 33, stride=1.5), "stride must be"),
        (lambda: windows.probability_map(lambda x: x.flatten(1)[:, :2], PICTURE, windows.Windows(9, 9, 9), normalized=True), "normalized=True says"),
        (lambda: grids.Window(2.5), "kernel must be"),
        (lambda: grids.Window(3, padding=-1), "padding must be a whole number, at least 0"),
        *((lambda ask=ask: ask(grids.Window(7, 2)), "kernel 7 does not fit on 3 pixels") for ask in (lambda w: w.exact(3), lambda w: w.remainder(3), lambda w: w.sampled(3))),
        *((lambda m=m: Crop(m), "margin must be") for m in (0, -1, 1.0)),
        *((lambda n=n: mobilenet.count_costs(plain(), n), "input_size must be|takes no image of|takes 31 x 31 pixels") for n in (0, 2, 95.0)),
        (lambda: mobilenet.estimate_statistics(plain(), []), "images is empty"),
        (lambda: mobilenet.estimate_statistics(plain(), torch.full((2, 3, 31, 31), float("nan"))), "NaN or infinite"),
        *((lambda d=d: int8.activation_ranges(folded(), (-1, 1), deviations=d), "deviations must be a finite number above 0") for d in (-1, 0, float("nan"), "6")),
        (lambda: int8.activation_ranges(plain(), (-1, 1)), "MobileNetV2 is not traced yet"),
        *((lambda values=values: int8.quantize(folded(), values), "input_range must be two finite numbers, .* got") for values in (2.5, None, (1,), "ab", (2, -2))),
        (lambda: int8.calibrated_ranges(plain(), torch.rand(1, 3, 31, 31)), "MobileNetV2 is not traced yet"),
        (lambda: int8.calibrated_ranges(folded(), torch.full((1, 3, 9, 9), float("inf"))), "NaN or infinite"),
        (lambda: dfq.find_pairs(plain()), "MobileNetV2 is not traced yet"),
        (lambda: dfq.equalize(folded(), per_field="no"), "per_field must be True or False"),
        (lambda: dfq.equalize(folded(), sweeps=2.5), "sweeps must be"),
        *((lambda low=low, high=high: int8.FakeQuantize(low, high), "range must be finite .*, the lowest value first") for low, high in ((1.0, -1.0), (float("nan"), 1.0), (0.0, 1e39))),
        *((lambda one=one: bootstrap.area_under_curve([0.1, 0.2], one), "labels must be 0 or 1") for one in ([0, 0.5], ["0", "1"], [1, 2])),
        (lambda: bootstrap.area_under_curve([0.1, 0.2], [0, 1, 1]), r"labels has shape \(3,\), and there are 2"),
        *((lambda one=one: experiment.classification_metrics(torch.rand(2, 2), torch.tensor(one)), "labels ") for one in ([0, 2], [0, 1, 1], [[0], [1]], [-1, 1])),
        (lambda: equivariance.run_model(nn.Identity(), FIELD[0]), r"images\[None\] makes a batch"),
        (lambda: equivariance.run_model(nn.Identity(), FIELD.numpy()), "images must be a torch tensor, got ndarray"),
        *((lambda n=n: equivariance.run_model(nn.Identity(), FIELD, batch_size=n), "batch_size must be") for n in (0, -1, 2.5)),
        *((lambda images=images: pcam.normalize(images), words) for images, words in ((PATCHES / 255, "from 0 to 1"), (PATCHES.to(torch.int8), "numbers from 0 to 255, got -1"), (PATCHES[0], r"shape \(B, 3, n, n\)"), (PATCHES[:, :1], r"got \(2, 1, 9, 9\)"))),
        (lambda: pcam.vary_stain(PATCHES[0], 0.1, torch.Generator()), r"shape \(B, 3, n, n\)"),
        *((lambda kind=kind: mobilenet.build(kind, DenseNetConfig())(torch.rand(1, 3, 95, 95)), "this network takes 96 x 96 pixels, got 95 x 95") for kind in ("conventional", "equivariant")),
    ],
)  # fmt: skip
def test_refused(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_integers_cannot_hold_arrows():
    with pytest.raises(TypeError, match="irrep1 turns fields into real numbers, got torch.uint8"):
        fields.transform_field((FIELD * 255).byte(), "C8", "irrep1", 1)
    whole = (FIELD * 255).byte()
    assert torch.equal(fields.transform_field(whole, "C4", "regular", 1), fields.rotate_field(whole, "C4", 1))


def test_pixels_of_every_kind_that_is_meant():
    assert torch.equal(pcam.normalize(PATCHES), pcam.normalize(PATCHES.float()))
    assert torch.equal(pcam.normalize(0 * PATCHES.float()), pcam.normalize(0 * PATCHES)), "black is black in both"


def test_a_dark_patch_is_none_that_is_scaled_to_1():
    dark = (PATCHES % 2).float()
    assert torch.equal(pcam.normalize(dark), pcam.normalize(PATCHES % 2)), "whole numbers"
    varied = pcam.vary_stain(0 * PATCHES, 0.1, torch.Generator().manual_seed(1))
    assert varied.max() < 2 and pcam.standardize(varied).isfinite().all(), "as a training step takes it"
    assert torch.equal(pcam.normalize(PATCHES.to(torch.uint16)), pcam.normalize(PATCHES))


def test_probabilities_may_be_of_8_bits_and_of_any_type_and_missing():
    places = windows.Windows(9, 18, 9, 9)
    wide = np.zeros((9, 18, 3), np.uint8)
    for dtype in (torch.float64, torch.float16):
        answers = torch.tensor([[128 / 255, 126 / 255], [float("nan"), 1.0]], dtype=dtype)
        found = windows.probability_map(lambda x, answers=answers: answers, wide, places, normalized=True)
        assert found[0, 0] == answers[0, 1] and found[0, 1].isnan()


def test_an_angle_may_be_a_number_of_torch_or_numpy():
    for degrees in (np.float32(90), torch.tensor(90.0), np.int64(90)):
        assert torch.equal(fields.rotate(FIELD, degrees), fields.rotate(FIELD, 90))


def test_what_is_kept_for_a_whole_number_is_not_given_for_another_kind():
    fields.channel_permutation(fields.Group(4), 2), fields.disc_mask(9)
    for ask in (lambda: fields.channel_permutation(fields.Group(4), 2.0), lambda: fields.disc_mask(9.0)):
        with pytest.raises(ValueError, match="must be a whole number"):
            ask()


def test_a_range_too_narrow_for_single_precision_still_has_a_scale():
    assert torch.equal(int8.FakeQuantize(0.0, 1e-50)(torch.tensor([0.0, 1e-40])), torch.zeros(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: fields.disc_mask(9),
        lambda: filters.steerable_basis(fields.Group(4), "trivial", "regular", 3),
        lambda: filters.pixel_basis(fields.Group(4), "regular", 3),
    ],
)
def test_a_tensor_that_is_kept_is_not_handed_out(make):
    expected = make().clone()
    make().zero_()
    assert expected.any() and torch.equal(make(), expected)
