"""What data-free quantization promises of ranges and statistics, on networks of a few layers."""

import pytest
import torch
from torch import nn

from equilib import dfq
from equilib.plain import GroupMax, facts, note


def trained(*, padding=(0, 0), field_size=None):
    """Conv, norm, ReLU, conv, norm, ReLU, conv, in double precision; nothing is left at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=padding), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 2, 1),
    )
    network = network.double().eval()
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(8, generator=generator, dtype=torch.float64))
                module.running_var.copy_(0.5 + torch.rand(8, generator=generator, dtype=torch.float64))
    for name in ("0", "3"):
        if field_size:
            note(network.get_submodule(name), field_size=field_size)
    return network


def folded(**options):
    return dfq.fold_batch_norm(trained(**options))


def test_folding_leaves_the_function_and_keeps_beta_and_the_size_of_gamma():
    before = trained()
    after = dfq.fold_batch_norm(before)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(before(x), after(x), rtol=1e-12, atol=1e-12)
    for conv, norm in (("0", before[1]), ("3", before[4])):
        assert torch.equal(facts(after.get_submodule(conv)).mean, norm.bias)
        assert torch.equal(facts(after.get_submodule(conv)).std, norm.weight.abs())
        assert (norm.weight < 0).any()


def test_one_scale_a_field_where_a_maximum_over_the_field_follows():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), GroupMax(4), nn.Conv2d(2, 5, 1)).double()
    note(network[0], field_size=4)
    with torch.no_grad():
        network[0].weight.mul_(torch.linspace(0.1, 5, 8, dtype=torch.float64).view(8, 1, 1, 1))
    equalized, report = dfq.equalize(dfq.trace(network))
    (scale,) = report.scales.values()
    fields = scale.unflatten(0, (2, 4))
    assert torch.equal(fields, fields[:, :1].expand(2, 4)) and (scale.log().abs() > 0.05).any()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(network(x), equalized(x), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="maximum over each field"):
        dfq.rescale(dfq.trace(network), {next(iter(report.scales)): torch.arange(1.0, 9.0)})


def test_the_reported_scales_are_those_of_all_sweeps():
    before = folded()
    after, report = dfq.equalize(before)
    assert report.sweeps > 2
    again = dfq.rescale(before, report.scales)
    for name, parameter in after.named_parameters():
        assert torch.allclose(parameter, again.get_parameter(name), rtol=1e-9), name
    for bad in (-1.0, 0.0, float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            dfq.rescale(before, {pair: torch.full((8,), bad) for pair in report.scales})


def test_statistics_follow_the_scales():
    """Outputs divided by S have mean and standard deviation divided by S; a ReLU's range is read from them."""
    before = folded()
    after, report = dfq.equalize(before)
    assert len(report.scales) == 2
    for pair, scale in report.scales.items():
        assert (scale.log().abs() > 0.05).any()
        old, new = before.get_submodule(pair.first), after.get_submodule(pair.first)
        assert torch.allclose(facts(new).mean * scale, facts(old).mean, rtol=1e-9)
        assert torch.allclose(facts(new).std * scale, facts(old).std, rtol=1e-9)
        assert torch.allclose(new.bias * scale, old.bias, rtol=1e-9)


def test_tied_scales_make_the_largest_ranges_of_each_field_equal():
    before = folded(field_size=4)
    after, report = dfq.equalize(before, per_field=True)
    for pair in report.scales:
        first, second = after.get_submodule(pair.first), after.get_submodule(pair.second)
        out, into = dfq.ranges_by_output(first).unflatten(0, (-1, 4)), dfq.ranges_by_input(second).unflatten(0, (-1, 4))
        assert torch.allclose(out.amax(1), into.amax(1), rtol=1e-6)


def test_ranges_are_largest_absolute_weights():
    conv = nn.Conv2d(2, 2, (1, 2), bias=False)
    conv.weight.data = torch.tensor([[1.0, -5.0, 2.0, 0.0], [0.5, 0.5, -3.0, 1.0]]).view(2, 2, 1, 2)
    assert dfq.ranges_by_output(conv).tolist() == [5, 3] and dfq.ranges_by_input(conv).tolist() == [5, 3]
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, -5.0, 2.0], [-4.0, 0.5, 0.0]])
    assert dfq.ranges_by_output(linear).tolist() == [5, 4] and dfq.ranges_by_input(linear).tolist() == [4, 5, 2]


def test_only_high_biases_are_absorbed_and_statistics_keep_up():
    before = folded()
    first = before.get_submodule("0")
    std = facts(first).std
    note(first, mean=torch.cat((4 * std[:4], 2.9 * std[4:])))  # four are high enough, the other four are not
    after, report = dfq.absorb_high_bias(before)
    amount = next(amount for pair, amount in report.absorbed.items() if pair.first == "0")
    assert torch.allclose(amount[:4], facts(first).std[:4]) and not amount[4:].any()
    new = after.get_submodule("0")
    assert torch.equal(new.bias, first.bias - amount) and torch.equal(facts(new).mean, facts(first).mean - amount)
    assert torch.equal(facts(new).std, facts(first).std), "a shift changes no spread"
    second = before.get_submodule("3")
    gain = second.weight.sum((2, 3)) @ amount
    assert torch.allclose(after.get_submodule("3").bias, second.bias + gain)


@pytest.mark.parametrize("padding", [(0, 1), (1, 0), (1, 1)])
def test_padding_along_one_axis_keeps_biases_where_they_are(padding):
    before = folded(padding=padding)
    first = before.get_submodule("0")
    note(first, mean=9 * facts(first).std)
    after, report = dfq.absorb_high_bias(before)
    assert [pair.first for pair in report.skipped] == ["0"]
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(before(x), after(x)) or "0" not in [pair.first for pair in report.absorbed]
    assert torch.equal(after.get_submodule("0").bias, first.bias)


def test_behind_a_residual_sum_variances_add():
    """The expected shift there is that of a clipped Gaussian with the summed mean and variance, in closed form."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.b, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.relu, self.last = nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.last(self.relu(self.an(self.a(x)) + self.bn(self.b(x))))

    network = Net().double().eval()
    with torch.no_grad():
        network.an.weight.fill_(3.0), network.bn.weight.fill_(-4.0)
        network.an.bias.fill_(0.5), network.bn.bias.fill_(-0.25)
    given = dfq.fold_batch_norm(network)
    _, report = dfq.correct_bias(given, lambda layer: layer.weight.detach() + 0.01, 5)
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    mean, std = torch.tensor(0.25, dtype=torch.float64), 5.0  # 3, 4, 5
    expected = std * normal.log_prob(mean / std).exp() + mean * normal.cdf(mean / std)
    assert torch.allclose(report.corrected["last"], (0.04 * expected).expand(2), rtol=1e-9)
