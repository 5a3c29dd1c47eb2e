import pytest
import torch
from conftest import randomize
from torch import nn

from equilib import device, dfq, int8
from equilib.equivariance import relative_difference, run_model
from equilib.mobilenet import MobileNetConfig, build, exported
from equilib.plain import facts

RANGE = (-4.0, 4.0)


def test_weights_take_256_levels_and_the_error_is_half_a_step():
    conv = nn.Conv2d(8, 8, 3)
    quantized = int8.QuantizedLayer(conv, torch.tensor(0.1))
    with torch.no_grad():
        levels = int8.rounded_weight(conv)
    assert (levels - conv.weight).abs().max() <= quantized.scale / 2 * (1 + 1e-5)
    integers = levels / quantized.scale
    assert torch.allclose(integers, integers.round(), atol=1e-4) and integers.abs().max().round() == 127
    assert len(levels.unique()) <= 255


def test_activation_range_includes_zero_exactly():
    quantizer = int8.FakeQuantize(0.7, 3.0)
    assert quantizer(torch.zeros(1)) == 0
    x = torch.linspace(0, 3, 1001)
    assert (quantizer(x) - x).abs().max() <= 3 / 255 / 2 * 1.001
    assert int8.FakeQuantize(0.0, 0.0)(torch.zeros(2)).abs().sum() == 0
    with pytest.raises(ValueError, match="finite"):
        int8.FakeQuantize(0.0, float("inf"))


def test_ranges_without_data_hold_gaussian_activations():
    """beta ± 6 |gamma| behind the convolution, 0 … behind its ReLU, sums of means and variances behind an addition."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.b, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.relu, self.c = nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.an(self.a(x))
            return self.c(y + self.bn(self.b(self.relu(y))))

    net = Net().eval()
    with torch.no_grad():
        net.an.bias.copy_(torch.tensor([1.0, 2, 3, 4])), net.an.weight.fill_(-0.5)
        net.bn.bias.fill_(1.0), net.bn.weight.fill_(1.2)
    # `y` has two users, so the ReLU reads a tensor that is rounded before it.
    ranges = int8.activation_ranges(dfq.fold_batch_norm(net), (-1, 1))
    assert (ranges["a"].low, ranges["a"].high) == pytest.approx((1 - 3, 4 + 3))
    assert (ranges["relu"].low, ranges["relu"].high) == pytest.approx((0, 7))
    spread = 6 * (0.5**2 + 1.2**2) ** 0.5
    assert (ranges["add"].low, ranges["add"].high) == pytest.approx((2 - spread, 5 + spread))
    quantized = int8.quantize(dfq.fold_batch_norm(net), (-1, 1))
    assert sum(isinstance(m, int8.FakeQuantize) for m in quantized.modules()) == 5


def test_a_network_without_statistics_is_refused():
    network = dfq.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    with pytest.raises(ValueError, match="0 .Conv2d. has no batch-norm statistics"):
        int8.quantize(network, RANGE)


@pytest.mark.parametrize("low, high", [(1.7, -3.3), (0, 0), (float("nan"), 1)])
def test_an_input_range_that_is_none_is_refused(low, high):
    network = dfq.trace(nn.Sequential(nn.ReLU(), nn.Flatten()))
    with pytest.raises(
        ValueError, match="input_range must be two finite numbers, .lowest, highest. of the normalised images, got"
    ):
        int8.quantize(network, (low, high))


def test_quantization_leaves_its_argument_alone(tissue):
    plain = exported(randomize(build("conventional", MobileNetConfig(width=0.35, group="C4")), tissue))
    folded = dfq.fold_batch_norm(plain)
    before = run_model(folded, tissue)
    int8.quantize(folded, RANGE)
    assert torch.equal(before, run_model(folded, tissue))


def test_a_noise_of_1e_7_is_tied_away_and_a_large_one_refused(tissue):
    plain = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue))
    folded = dfq.fold_batch_norm(plain)
    with torch.no_grad():
        for module in folded.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(1 + 1e-7 * torch.randn_like(module.weight))
    int8.tie_rotated_copies(folded)
    for name, module in folded.named_modules():
        turn = facts(module).quarter_turn
        if turn is not None:
            assert torch.equal(turn.apply(module.weight), module.weight), name
            assert turn.inputs and not turn.outputs or torch.equal(turn.apply(module.bias), module.bias), name
    folded.get_submodule("features.block4.depthwise.conv").weight.data[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="block4.depthwise.conv: the weights are not rotated copies"):
        int8.quantize(folded, RANGE)


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rounded_weights_lie_on_their_grid(bits, per_channel, symmetric):
    conv = nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([1, 10, 0.1, 3, 0, 1]).view(-1, 1, 1, 1)).add_(0.05)
        conv.weight[4] = 0
    scheme = int8.Scheme(weight_bits=bits, per_channel=per_channel, symmetric_weights=symmetric)
    rounded = int8.rounded_weight(conv, scheme).double()
    for channels in range(6) if per_channel else [slice(None)]:
        part, original = rounded[channels], conv.weight[channels].double()
        assert len(part.unique()) <= 2**bits
        span = 2 * original.abs().max() if symmetric else original.max().clamp_min(0) - original.min().clamp_max(0)
        step = span / (2**bits - (2 if symmetric else 1))
        # the zero point of the asymmetric grid is rounded too, and cuts up to half a step off one end
        assert (part - original).abs().max() <= step * (0.5 if symmetric else 1) * 1.001
    assert rounded[4].abs().max() == 0 or not per_channel


def test_schemes_out_of_range_and_for_simulation_only(tmp_path):
    for bad in ({"weight_bits": 1}, {"activation_bits": 17}):
        with pytest.raises(ValueError, match="between 2 and 16"):
            int8.Scheme(**bad)
    net = dfq.fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval())
    for options in ({"per_channel": True}, {"weight_bits": 12}, {"activation_bits": 4}, {"symmetric_weights": False}):
        simulated = int8.quantize(net, RANGE, scheme=int8.Scheme(**options))
        assert torch.isfinite(simulated(torch.randn(1, 3, 5, 5))).all()
        with pytest.raises(ValueError, match=f"0 is quantized with {next(iter(options))}.*simulation only"):
            device.export_onnx(simulated, tmp_path / "net.onnx", 5)
    assert not list(tmp_path.iterdir())


def test_more_bits_come_closer(tissue):
    plain = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue))
    folded = dfq.equalize(dfq.fold_batch_norm(plain))[0]
    schemes = [int8.Scheme(weight_bits=bits, activation_bits=bits) for bits in (4, 8, 12, 16)]
    reference = run_model(folded, tissue)
    ranges = int8.calibrated_ranges(folded, tissue)  # nothing is clipped, so that rounding alone is left
    simulated = [int8.quantize(folded, RANGE, scheme=scheme, ranges=ranges) for scheme in schemes]
    errors = [relative_difference(reference, run_model(network, tissue)) for network in simulated]
    assert errors[1] > 2 * errors[2] > 4 * errors[3] and errors[3] < 0.02
    assert errors[0] > errors[1]


def test_calibration_takes_what_it_sees(tissue):
    plain = exported(randomize(build("conventional", MobileNetConfig(width=0.35, group="C4")), tissue))
    folded = dfq.fold_batch_norm(plain)
    ranges = int8.calibrated_ranges(folded, tissue, batch_size=3)
    masked = tissue * folded.get_submodule("input_mask").mask
    assert (ranges["input_mask"].low, ranges["input_mask"].high) == pytest.approx(
        (masked.min().item(), masked.max().item())
    )
    narrower = int8.calibrated_ranges(folded, tissue, outliers=0.01)
    assert narrower["input_mask"].high < ranges["input_mask"].high
    free = int8.activation_ranges(folded, RANGE)
    assert set(free) <= set(ranges)
    assert all(ranges[name].low >= 0 for name in free if name.endswith("relu"))
    reference = run_model(folded, tissue)
    errors = {
        name: relative_difference(reference, run_model(int8.quantize(folded, RANGE, ranges=r), tissue))
        for name, r in (("calibrated", ranges), ("free", free))
    }
    assert errors["calibrated"] < errors["free"], "ranges that fit are finer"
    with pytest.raises(ValueError, match="outliers"):
        int8.calibrated_ranges(folded, tissue, outliers=0.5)
    with pytest.raises(ValueError, match="empty"):
        int8.calibrated_ranges(folded, tissue[:0])
