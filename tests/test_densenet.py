"""The DenseNet of the paper's third row: equivariant, exported, of the published size."""

import pytest
import torch
from conftest import randomize
from torch import nn

from equilib.densenet import DenseNet, DenseNetConfig, EquivariantDenseNet
from equilib.equivariance import assert_equivariant, run_model
from equilib.mobilenet import count_costs, count_parameters


@pytest.fixture(scope="module")
def images(tissue):
    """Of 96 x 96 pixels: the disc of 95 is not this network's."""
    return nn.functional.interpolate(tissue, size=(96, 96), mode="bilinear")[:4]


@pytest.mark.parametrize("group, growth", [("C4", 8), ("D4", 16)])
def test_equivariant_before_and_after_export(group, growth, images):
    network = randomize(EquivariantDenseNet(DenseNetConfig(growth, group)), images).double()
    doubles = images.double()
    assert_equivariant(network, doubles, tolerance=1e-10)
    plain = network.export().double()
    expected, actual = run_model(network, doubles), run_model(plain, doubles)
    assert (expected - actual).abs().max() <= 1e-10 * expected.std()
    assert not any("e2cnn" in type(module).__module__ for module in plain.modules())
    if group == "D4":
        assert (run_model(network, doubles.flip(-1)) - expected).abs().max() <= 1e-9 * expected.std()


def test_the_plain_network_is_not_equivariant(images):
    network = randomize(DenseNet(DenseNetConfig()), images)
    with pytest.raises(AssertionError, match="not equivariant under 90 degrees"):
        assert_equivariant(network, images)


def test_both_networks_have_the_same_layers_and_about_the_same_parameters():
    """Eight fields of D4 (64 channels) train about as many weights as 24 plain channels: fewer by a tenth."""
    wide = DenseNetConfig(growth=64)
    exported = EquivariantDenseNet(wide).export()
    assert count_costs(exported, 96) == count_costs(DenseNet(wide), 96)
    plain, equivariant = (
        count_parameters(network) for network in (DenseNet(DenseNetConfig()), EquivariantDenseNet(wide))
    )
    weights = 9 * 24 * (3 + 24 * 15) + 24**2 * (4 + 9 + 16 + 25)  # 3 x 3 of stem and blocks, 1 x 1 of transitions
    norms = 2 * 24 * (1 + 2 + 2 + 3 + 3 + 4 + 4 + 5 + 5 + 6)
    assert plain == weights + norms + 2 * 144 + 2
    assert 0.85 < equivariant / plain < 0.95


def test_grids_are_those_of_the_published_network():
    assert DenseNetConfig().grids == (94, 92, 44, 20, 8, 2)


def test_the_mean_and_the_1x1_convolution_change_places_freely():
    """…since one acts on space and the other on channels; in the published network the convolution stands first."""
    x, conv, pool = (
        torch.randn(2, 6, 8, 8, dtype=torch.float64),
        nn.Conv2d(6, 4, 1, bias=False).double(),
        nn.AvgPool2d(2),
    )
    assert torch.allclose(conv(pool(x)), pool(conv(x)), atol=1e-12)


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(growth=0), "growth"),
        (dict(group="C12"), "band_limit=False"),
        (dict(input_size=95), "use input_size=96"),
        (dict(input_size=97), "leaves a grid of 93 pixels"),
        (dict(input_size=32), "input_size"),
        (dict(classes=0), "classes"),
        (dict(dropout=1.0), "dropout"),
    ],
)
def test_configurations_that_make_no_network_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        DenseNetConfig(**bad)


def test_channels_that_make_no_whole_fields_are_refused():
    with pytest.raises(ValueError, match=r"growth=20 is no multiple of \|D4\| = 8"):
        EquivariantDenseNet(DenseNetConfig(growth=20))
