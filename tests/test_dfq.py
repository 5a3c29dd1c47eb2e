"""Equalization and absorption: the function stays, in closed form and in whole networks; scales are bounded where they must be."""

import copy

import pytest
import torch
from by_hand import conv, same_function
from conftest import randomize
from torch import nn

from equilib import device, dfq, int8
from equilib.bias_correction import response_to_constant
from equilib.equivariance import assert_equivariant, relative_difference, run_model
from equilib.mobilenet import MobileNetConfig, build, exported
from equilib.pcam import Patches, input_range, network_inputs
from equilib.plain import facts
from equilib.synthetic import ensure_dataset
from equilib.training import shipped_network


def test_folding_preserves_the_function_and_keeps_the_statistics(network, tissue):
    x = tissue.double()
    folded = dfq.fold_batch_norm(network)
    same_function(network, folded, x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    stem, norm = folded.get_submodule("features.stem.conv"), network.features.stem.norm
    assert torch.equal(facts(stem).mean, norm.bias) and torch.equal(facts(stem).std, norm.weight.abs())


@pytest.mark.parametrize("per_field", [False, True])
def test_equalization_preserves_the_function(network, tissue, per_field):
    if per_field and facts(network.features.stem.conv).field_size is None:
        pytest.skip("a conventional network has no fields")
    folded = dfq.fold_batch_norm(network)
    before = copy.deepcopy(folded.state_dict())
    equalized, report = dfq.equalize(folded, per_field=per_field)
    same_function(folded, equalized, tissue.double())
    assert report.change <= 1e-9
    assert all(torch.equal(before[k], v) for k, v in folded.state_dict().items()), "the argument was changed"
    if not per_field:
        for pair in report.pairs:
            if not pair.through_maximum:
                r1 = dfq.ranges_by_output(equalized.get_submodule(pair.first))
                r2 = dfq.ranges_by_input(equalized.get_submodule(pair.second))
                assert torch.allclose(r1, r2, rtol=1e-6)


def test_the_closed_form_of_a_chain():
    """1x1 -> depthwise -> 1x1: every range becomes (r1 r2 r3)^(1/3)."""
    generator = torch.Generator().manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).double()
    with torch.no_grad():
        for layer in (chain[0], chain[2], chain[4]):
            scale = torch.exp(2 * torch.randn(layer.weight.shape[0], generator=generator, dtype=torch.float64))
            layer.weight.mul_(scale.view(-1, 1, 1, 1))
    r1, r2, r3 = dfq.ranges_by_output(chain[0]), dfq.ranges_by_output(chain[2]), dfq.ranges_by_input(chain[4])
    equalized, _ = dfq.equalize(dfq.trace(chain))
    expected = (r1 * r2 * r3) ** (1 / 3)
    assert torch.allclose(dfq.chain_fixed_point(r1, r2, r3), expected)
    for ranges in (
        dfq.ranges_by_output(equalized.get_submodule("0")),
        dfq.ranges_by_output(equalized.get_submodule("2")),
        dfq.ranges_by_input(equalized.get_submodule("4")),
    ):
        assert torch.allclose(ranges, expected, rtol=1e-8)


def test_equalization_undoes_any_rescaling():
    chain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    spoiled = copy.deepcopy(chain)
    scale = torch.tensor([1e-3, 1e2, 1, 5, 0.2, 30], dtype=torch.float64)
    dfq._scale_outputs(spoiled[0], scale)
    dfq._scale_inputs(spoiled[2], 1 / scale)
    ranges = [dfq.equalize(dfq.trace(c))[1].after for c in (chain, spoiled)]
    for name in ranges[0]:
        assert torch.allclose(ranges[0][name], ranges[1][name], rtol=1e-9)


def test_grouped_convolution_is_the_same_layer_written_as_dense():
    grouped = nn.Conv2d(6, 4, 3, groups=2).double()
    dense = nn.Conv2d(6, 4, 3).double()
    with torch.no_grad():
        dense.weight.zero_(), dense.bias.copy_(grouped.bias)
        dense.weight[:2, :3], dense.weight[2:, 3:] = grouped.weight[:2], grouped.weight[2:]
    assert torch.equal(dfq.ranges_by_input(grouped), dfq.ranges_by_input(dense))
    constant = torch.rand(6, dtype=torch.float64)
    assert torch.allclose(response_to_constant(grouped, constant), response_to_constant(dense, constant))
    scale = torch.rand(6, dtype=torch.float64) + 0.5
    dfq._scale_inputs(grouped, scale), dfq._scale_inputs(dense, scale)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    assert torch.allclose(grouped(x), dense(x))


def test_scales_per_field_are_constant_within_fields_and_commute(tissue):
    config = MobileNetConfig(width=0.35, group="C12", depthwise="strict")  # field-wise takes long in double precision
    network = exported(randomize(build("equivariant", config), tissue)).double()
    folded = dfq.fold_batch_norm(network)
    for per_field in (True, False):
        equalized, _ = dfq.equalize(folded, per_field=per_field)
        spreads = []
        for name, module in equalized.named_modules():
            if name.endswith("depthwise.conv"):
                ratio = dfq.ranges_by_output(module) / dfq.ranges_by_output(folded.get_submodule(name))
                ratio = ratio.unflatten(0, (-1, 12))
                spreads.append((ratio.amax(1) / ratio.amin(1)).max().item())
        assert (max(spreads) < 1 + 1e-9) == per_field


def test_scales_per_field_need_fields():
    chain = dfq.trace(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)))
    with pytest.raises(ValueError, match="field_size"):
        dfq.equalize(chain, per_field=True)


def test_absorption_keeps_the_function_where_the_relu_is_linear():
    """Pre-activations above c on both sides: exactly the same function; the bias moves on."""
    chain = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)).double().eval()
    with torch.no_grad():
        chain[1].bias.fill_(50.0)
        chain[1].weight.copy_(torch.tensor([1, -1, 0.5, -0.5, 1, 1]))
    folded = dfq.fold_batch_norm(chain)
    absorbed, report = dfq.absorb_high_bias(folded)
    (amount,) = report.absorbed.values()
    assert torch.allclose(amount, 50 - 3 * facts(folded.get_submodule("0")).std), "|gamma| counts, not gamma"
    x = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    same_function(folded, absorbed, x)
    assert absorbed.get_submodule("0").bias.max() < folded.get_submodule("0").bias.min()


def test_absorption_of_a_gaussian_costs_what_theory_says():
    """E|change| = |gamma| (phi(3) - 3 (1 - Phi(3))) for pre-activations N(beta, gamma^2)."""
    chain = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0), nn.ReLU(), nn.Conv2d(1, 1, 1))
    chain = chain.double().eval()
    with torch.no_grad():
        chain[0].weight.fill_(1), chain[1].bias.fill_(5.0), chain[3].weight.fill_(1), chain[3].bias.fill_(0)
    folded = dfq.fold_batch_norm(chain)
    absorbed, _ = dfq.absorb_high_bias(folded)
    x = torch.randn(1, 1, 1500, 1500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = (run_model(folded, x) - run_model(absorbed, x)).abs().mean().item()
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    three = torch.tensor(3.0, dtype=torch.float64)
    expected = (normal.log_prob(three).exp() - 3 * (1 - normal.cdf(three))).item()
    assert change == pytest.approx(expected, rel=0.05)


def test_absorption_keeps_equivariance(tissue):
    """Fields with a large common bias: absorption moves something, and moves it alike for all channels of a field."""
    network = randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("norm.bias"):
                parameter[::2] = 6.0
    folded = dfq.fold_batch_norm(network.double().export().double())
    absorbed, report = dfq.absorb_high_bias(folded)
    amounts = [amount for amount in report.absorbed.values() if amount.max() > 0]
    assert len(amounts) > 5
    for amount in amounts:
        fields = amount.unflatten(0, (-1, 4))
        assert torch.allclose(fields.amax(1), fields.amin(1))
    assert_equivariant(absorbed, tissue.double(), tolerance=1e-6)  # the biases leave little spread to compare with


def test_absorption_leaves_padded_layers_alone(network, tissue):
    folded = dfq.fold_batch_norm(network)
    _, report = dfq.absorb_high_bias(folded)
    for pair in report.absorbed:
        second = folded.get_submodule(pair.second)
        assert isinstance(second, nn.Linear) or second.padding == (0, 0)
    assert any("pads with zeros" in reason for reason in report.skipped.values())
    padded = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    with torch.no_grad():
        padded[1].bias.fill_(9.0)
    folded = dfq.fold_batch_norm(padded)
    absorbed, report = dfq.absorb_high_bias(folded)
    assert not report.absorbed
    same_function(folded, absorbed, torch.randn(2, 3, 5, 5), tolerance=0)


def test_dead_channels_are_left_alone():
    chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    with torch.no_grad():
        chain[0].weight[1] = 0
        chain[2].weight[:, 2] = 0
    equalized, report = dfq.equalize(dfq.trace(chain))
    assert torch.isfinite(torch.cat([p.flatten() for p in equalized.parameters()])).all()
    same_function(chain, equalized, torch.randn(2, 3, 5, 5, dtype=torch.float64))


def test_a_shared_layer_is_refused_and_a_flattened_one_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="conv is used 2 times.*copy.deepcopy"):
        dfq.trace(Twice())
    flattened = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 2)).double()
    equalized, report = dfq.equalize(dfq.trace(flattened))
    assert not report.pairs
    same_function(flattened, equalized, torch.randn(2, 3, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1)])
def test_pooling_between_layers(pool):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), pool, nn.Conv2d(4, 2, 1)).double().eval()
    with torch.no_grad():
        net[1].bias.fill_(40.0)
    folded = dfq.fold_batch_norm(net)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    equalized, _ = dfq.equalize(folded)
    same_function(folded, equalized, x)
    same_function(folded, dfq.absorb_high_bias(equalized)[0], x)


def test_bad_networks_are_explained():
    with pytest.raises(ValueError, match="ReLU6"):
        dfq.fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()))
    with pytest.raises(ValueError, match="does not follow a convolution"):
        dfq.fold_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))
    broken = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    broken[1].running_var[0] = float("nan")
    with pytest.raises(ValueError, match="1 holds NaN"):
        dfq.fold_batch_norm(broken)
    broken = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    broken[0].weight.data[0] = float("inf")
    with pytest.raises(ValueError, match="0 has weights that are NaN"):
        dfq.equalize(dfq.trace(broken))
    with pytest.raises(ValueError, match="exported first"):
        dfq.fold_batch_norm(build("equivariant", MobileNetConfig(width=0.35, group="C4")))


@pytest.mark.parametrize("per_field", [False, True])
def test_any_positive_scales_leave_the_function_and_equalization_repairs_them(tissue, per_field):
    """De-equalize, then equalize: the same ranges again, per channel or per field."""
    plain = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue)).double()
    folded = dfq.fold_batch_norm(plain)
    scales = {}
    for pair in dfq.find_pairs(folded):
        channels = folded.get_submodule(pair.first).weight.shape[0]
        scale = torch.exp(2 * torch.randn(channels // 4, dtype=torch.float64)) if per_field else None
        scales[pair] = (
            scale.repeat_interleave(4) if per_field else torch.exp(2 * torch.randn(channels, dtype=torch.float64))
        )
    spoiled = dfq.rescale(folded, scales)
    same_function(folded, spoiled, tissue.double())
    ranges = [dfq.equalize(network, per_field=per_field)[1].after for network in (folded, spoiled)]
    for name in ranges[0]:
        assert torch.allclose(ranges[0][name], ranges[1][name], rtol=1e-6), name
    equalized, report = dfq.equalize(folded, per_field=per_field)
    again = dfq.rescale(folded, report.scales)  # the scales of all sweeps at once
    for name, parameter in equalized.named_parameters():
        assert torch.allclose(parameter, again.get_parameter(name), rtol=1e-9), name


def test_bad_scales_are_refused(tissue):
    config = MobileNetConfig(width=0.35, group="C4", group_pooling="max")
    folded = dfq.fold_batch_norm(exported(randomize(build("equivariant", config), tissue)))
    first, last = dfq.find_pairs(folded)[0], dfq.find_pairs(folded)[-1]
    assert last.through_maximum
    with pytest.raises(ValueError, match="positive"):
        dfq.rescale(folded, {first: torch.zeros(folded.get_submodule(first.first).weight.shape[0])})
    with pytest.raises(ValueError, match="maximum over each field"):
        dfq.rescale(folded, {last: 1 + torch.rand(folded.get_submodule(last.first).weight.shape[0])})


# --- scales that are bounded ---

SHIPPED = [
    "synthetic_conventional_C4_w0.35",
    "pcam_C4_w0.35_20000_seed0",
    "pcam_C4_fieldwise_w0.35_m24_20000_seed0",
    "synthetic_equivariant_C12_w0.35",
]


def _with_dead_channels(network, layers, weight, bias, channels):
    network = copy.deepcopy(network)
    for name in layers:
        norm = network.get_submodule(f"features.{name}.norm")
        norm.weight.data[:channels], norm.bias.data[:channels] = weight, bias
    return network


@pytest.fixture(scope="module")
def drawn():
    """Synthetic tissue, (8, 3, 95, 95): on pictures unlike any tissue the INT8 of a trained network means nothing."""
    root = ensure_dataset({"train": 64, "valid": 16, "test": 16}, progress=False)
    return network_inputs(Patches(root, "test"), range(8), 95)


@pytest.mark.parametrize("name", SHIPPED)
def test_equalized_is_never_worse_than_naive(name, drawn):
    """Also where channels (of an equivariant network whole fields) are dead but for their bias."""
    trained = exported(shipped_network(name))
    channels = 3 if "conventional" in name else trained.config.symmetry.order
    cases = {"as trained": trained}
    for layers, weight, bias in ((["block4.expand"], 1e-6, 0.7), (["block4.depthwise", "head"], 0.0, 2.0)):
        cases[f"{layers}, {weight}"] = _with_dead_channels(trained, layers, weight, bias, channels)
    for case, network in cases.items():
        reference = run_model(network, drawn)
        folded = dfq.fold_batch_norm(network)
        equalized, report = dfq.equalize(folded)
        error = lambda model, reference=reference: relative_difference(
            reference, run_model(int8.quantize(model, input_range()), drawn)
        )
        assert error(equalized) <= error(folded) + 0.05, case
        if case == "as trained":
            assert not report.bounded, "the plain fixed point is fine"
        elif "1e-06" in case:
            (first,) = [pair.first for pair in report.bounded if "expand" in pair.first]
            bounded = [numbers for pair, numbers in report.bounded.items() if pair.first == first]
            assert bounded == [tuple(range(channels))]


def test_a_network_that_naive_rounding_harms_is_repaired(drawn):
    """Notebook 05's: in its widest depthwise layer the typical channel lies below one step of the layer."""
    folded = dfq.fold_batch_norm(exported(shipped_network("pcam_C12_fieldwise_20000_epochs24_seed0")))
    ranges = dfq.ranges_by_output(folded.get_submodule("features.block7.body.depthwise.conv"))
    assert ranges.median() < ranges.max() / 127
    reference = run_model(folded, drawn)
    naive, repaired = (
        relative_difference(reference, run_model(int8.quantize(network, input_range()), drawn))
        for network in (folded, dfq.equalize(folded)[0])
    )
    assert repaired < naive / 3


def test_rescue_and_symmetry_go_together(drawn, tmp_path):
    """Naive rounding ruins the answers, and yet they are the same bits in all four poses; so are those of the repaired."""
    folded = dfq.fold_batch_norm(exported(shipped_network("pcam_C12_fieldwise_20000_epochs24_seed0")))
    for name, one in (("naive", folded), ("equalized", dfq.equalize(folded)[0])):
        file = device.export_onnx(int8.quantize(one, input_range()), tmp_path / f"{name}.onnx", 95)
        session = device.session(file)
        assert torch.equal(run_model(session, drawn), run_model(session, torch.rot90(drawn, 1, (2, 3)))), name


def test_a_dead_channel_alone_is_bounded():
    """The other channels end where they would without it, and it no longer sets the range that they share."""
    torch.manual_seed(1)
    network = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3), nn.BatchNorm2d(8)).double()
    dead = copy.deepcopy(network)
    dead[1].weight.data[0], dead[1].bias.data[0] = 1e-7, 0.7
    plain, _ = dfq.equalize(dfq.fold_batch_norm(network.eval()))
    bounded, report = dfq.equalize(dfq.fold_batch_norm(dead.eval()))
    assert list(report.bounded.values()) == [(0,)] and report.change <= 1e-9
    for layer in ("0", "3"):
        weights = [model.get_submodule(layer).weight for model in (plain, bounded)]
        others = [weight[1:] if layer == "0" else weight[:, 1:] for weight in weights]
        assert torch.allclose(*others)
    reach = facts(bounded.get_submodule("0")).mean + 6 * facts(bounded.get_submodule("0")).std
    assert reach[0] <= 1.01 * reach[1:].max()


@pytest.mark.parametrize("per_field", [False, True])
def test_bounds_commute_with_quarter_turns(tissue, per_field):
    network = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue)).double()
    dead = _with_dead_channels(network, ["block4.expand", "block6.body.depthwise"], 1e-6, 0.7, 8)
    equalized, report = dfq.equalize(dfq.fold_batch_norm(dead), per_field=per_field)
    assert report.bounded
    for pair, numbers in report.bounded.items():
        assert set(numbers) == {n for n in range(len(report.scales[pair])) if n // 4 in {m // 4 for m in numbers}}
        fields = report.scales[pair].unflatten(0, (-1, 4))
        assert torch.allclose(fields, fields[:, :1].expand_as(fields), rtol=1e-9)
    int8.tie_rotated_copies(equalized.float())  # refuses weights that are no copies
