"""Rounding and ranges by their definitions, on tensors and networks of a few layers."""

import pytest
import torch
from torch import nn

from equilib import dfq, int8
from equilib.plain import DiscMask, DiscMean, QuarterTurn, note


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_activations_take_no_more_levels_than_their_bits(bits, symmetric):
    scheme = int8.Scheme(activation_bits=bits, symmetric_activations=symmetric)
    quantizer = int8.FakeQuantize(-1.0, 3.0, scheme)
    x = torch.linspace(-5, 5, 20_001)
    levels = quantizer(x).unique()
    assert len(levels) <= 2**bits and 0 in levels
    reach = (-3.0, 3.0) if symmetric else (-1.0, 3.0)
    step = (reach[1] - reach[0]) / (2**bits - 1)
    inside = x[(x >= reach[0] + step / 2) & (x <= reach[1] - step / 2)]
    # Half a step, and up to another half where the zero point had to be rounded.
    assert (quantizer(inside) - inside).abs().max() <= step * 1.001
    assert levels.min().item() == pytest.approx(reach[0], abs=step) and levels.max() <= reach[1] + step


def test_symmetric_activations_reach_as_far_on_both_sides():
    scheme = int8.Scheme(symmetric_activations=True)
    for low, high in ((-3.0, 1.0), (-1.0, 3.0), (0.0, 3.0)):
        x = torch.tensor([-3.0, 3.0])
        assert torch.allclose(int8.FakeQuantize(low, high, scheme)(x), x, atol=6 / 255)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_large_negative_weight_sets_the_scale(per_channel):
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[-8.0, 1.0, 0.3, 0.0]])
    rounded = int8.rounded_weight(layer, int8.Scheme(per_channel=per_channel))
    assert torch.allclose(rounded, layer.weight, atol=8 / 127 / 2) and rounded[0, 0] == -8


def test_eight_bits_are_minus_128_to_127():
    assert int8.Scheme().weight_limits == (-128, 127) and int8.Scheme(weight_bits=4).weight_limits == (-8, 7)


def test_each_output_channel_has_a_scale_of_its_own():
    conv = nn.Conv2d(2, 2, 1, bias=False)
    conv.weight.data = torch.tensor([[100.0, 60.0], [0.01, -0.006]]).view(2, 2, 1, 1)
    rounded = int8.rounded_weight(conv, int8.Scheme(per_channel=True))
    assert ((rounded - conv.weight).abs() <= conv.weight.abs().amax((1, 2, 3), True) / 127 / 2 * 1.001).all()


@pytest.mark.parametrize("input_scale", [0.3, 3.0])
def test_biases_are_whole_numbers_of_the_accumulators_unit(input_scale):
    layer = nn.Linear(6, 50)
    before = layer.bias.detach().clone().double()
    quantized = int8.QuantizedLayer(layer, torch.tensor(input_scale))
    unit = input_scale * quantized.scale.double()
    counts = quantized.layer.bias.double() / unit
    assert torch.allclose(counts, counts.round(), atol=1e-4) and counts.round().unique().numel() > 5
    assert ((quantized.layer.bias - before).abs() <= unit / 2 * 1.001).all()


def test_weights_and_biases_are_tied_in_every_layer():
    """Copies that differ in the last bit become equal; a bias belongs to its output channels, so it is tied as they are."""
    turn = QuarterTurn(90, (3, 0, 1, 2), inputs=False, outputs=True)
    conv = nn.Conv2d(1, 8, 3)
    conv.weight.data = sum(_orbit(turn, conv.weight.data)) * (1 + 1e-6 * torch.randn(8, 1, 3, 3))
    conv.bias.data = torch.tensor([1.0, 2.0]).repeat_interleave(4) * (1 + 1e-6 * torch.randn(8))
    note(conv, quarter_turn=turn)
    for values in (conv.weight, conv.bias):
        assert not torch.equal(turn.apply(values), values)
    int8.tie_rotated_copies(nn.Sequential(conv))
    for values in (conv.weight, conv.bias):
        assert torch.equal(turn.apply(values), values)


def _orbit(turn, weight):
    copies = [weight]
    while len(copies) < 4:
        copies.append(turn.apply(copies[-1]))
    return copies


def masked_network():
    network = nn.Sequential(
        DiscMask(5),
        *(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        DiscMean(5),
        nn.Linear(4, 2),
    )
    return dfq.fold_batch_norm(network.eval())


def test_masking_includes_0_and_pooling_keeps_the_range():
    ranges = int8.activation_ranges(masked_network(), (0.5, 2.0))
    by_kind = {}
    network = masked_network()
    for node in network.graph.nodes:
        if node.op == "call_module" and node.name in ranges:
            kind = type(network.get_submodule(node.target)).__name__
            by_kind[kind] = (ranges[node.name].low, ranges[node.name].high)
    assert by_kind["DiscMask"] == (0.0, 2.0)
    assert by_kind["DiscMean"] == by_kind["ReLU"] and by_kind["ReLU"][0] == 0
    (below,) = [r for name, r in int8.activation_ranges(masked_network(), (-2.0, -0.5)).items() if name == "_0"]
    assert (below.low, below.high) == (-2.0, 0.0)


def test_a_tensor_is_rounded_once():
    """Behind the mask, behind each ReLU and behind the pooling; never in between, and not the logits."""
    quantized = int8.quantize(masked_network(), (-2.0, 2.0))
    rounded = []
    for node in quantized.graph.nodes:
        if node.op == "call_module" and isinstance(quantized.get_submodule(node.target), int8.FakeQuantize):
            rounded.append(type(quantized.get_submodule(node.args[0].target)).__name__)
    assert rounded == ["DiscMask", "ReLU", "ReLU", "QuantizedDiscMean"]


def test_calibration_leaves_out_the_share_that_it_is_told_to():
    """Of 1000 different values in a batch and a share of 1 %, the ten least and the ten largest; over all batches."""
    network = dfq.trace(nn.Sequential(nn.Conv2d(1, 1, 1)))
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float()
    images = torch.stack([values, 0.5 * values - 100]).view(2, 1, 20, 50)
    for outliers, low, high in ((0.0, 0.0, 999.0), (0.01, 10.0, 989.0)):
        (one, *_) = int8.calibrated_ranges(network, images[:1], outliers=outliers).values()
        assert (one.low, one.high) == (low, high)
        for order in ([0, 1], [1, 0]):
            (both, *_) = int8.calibrated_ranges(network, images[order], outliers=outliers, batch_size=1).values()
            assert (both.low, both.high) == (0.5 * low - 100, high)
