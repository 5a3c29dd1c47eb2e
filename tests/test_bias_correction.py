"""Bias correction against draws of what it expects."""

import copy

import pytest
import torch
from by_hand import Written, conv, same_function
from torch import nn

from equilib import dfq
from equilib.equivariance import run_model
from equilib.plain import facts


def test_a_clipped_gaussian_against_monte_carlo():
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([-2.0, -0.5, 0, 1, 4], dtype=torch.float64)
    std = torch.tensor([1.0, 0.5, 2, 3, 0], dtype=torch.float64)
    draws = (mean + std * torch.randn(400_000, 5, generator=generator, dtype=torch.float64)).relu()
    expected_mean, expected_std = dfq.clipped_gaussian(mean, std)
    assert torch.allclose(draws.mean(0), expected_mean, atol=0.02)
    assert torch.allclose(draws.std(0), expected_std, atol=0.02)


@pytest.mark.parametrize("padding, groups", [(0, 1), (1, 1), (1, 4)])
def test_bias_correction_against_monte_carlo(padding, groups):
    """On inputs that are what batch normalization says, coarse weights shift the mean output; corrected ones do not."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=padding, groups=groups)
    ).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, 11, 11, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[1].bias.uniform_(0, 2), net[1].weight.uniform_(0.5, 1.5)
        net[1].momentum = 1.0
        net(x)
    folded = dfq.fold_batch_norm(net.eval())

    def coarse(layer):
        step = layer.weight.detach().abs().max() / 3
        return (layer.weight.detach() / step).round() * step

    corrected, report = dfq.correct_bias(
        folded, lambda layer: coarse(layer) if layer.kernel_size == (3, 3) else layer.weight.detach(), 11
    )
    assert set(report.corrected) == {"0", "3"}

    def mean_shift(network):
        rounded = copy.deepcopy(network)
        last = rounded.get_submodule("3")
        last.weight.data = coarse(last)
        return (run_model(rounded, x) - run_model(folded, x)).mean((0, 2, 3))

    before, after = mean_shift(folded).abs().max(), mean_shift(corrected).abs().max()
    assert before > 0.05 and after < 0.1 * before


def test_bias_correction_of_the_whole_network_and_what_it_leaves_alone(network, tissue):
    folded = dfq.fold_batch_norm(network)
    unchanged, report = dfq.correct_bias(folded, lambda layer: layer.weight.detach(), 95)
    same_function(folded, unchanged, tissue.double())
    by_max = network.config.group_pooling == "max"  # the mean of a maximum is not known
    assert list(report.skipped) == ["classifier"] * by_max and len(report.corrected) == 53 - by_max
    max_pooled = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 2, 1)
    ).eval()
    _, report = dfq.correct_bias(dfq.fold_batch_norm(max_pooled), lambda layer: 0 * layer.weight.detach(), 8)
    assert "not known" in report.skipped["4"]


def test_bias_correction_of_a_residual_sum_against_monte_carlo():
    """Variances add, not standard deviations: both branches are independent here."""
    network = Written(
        lambda s, x: s.last(s.relu(s.an(s.a(x)) + s.bn(s.b(x)))),
        a=conv(8, 8, bias=False, groups=2), an=nn.BatchNorm2d(8), b=conv(8, 8, bias=False, groups=2), bn=nn.BatchNorm2d(8),
        relu=nn.ReLU(), last=conv(8, 6),
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, 11, 11, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        network.a.weight[:, 2:], network.b.weight[:, :2] = 0, 0  # no input is read by both
        for norm in (network.an, network.bn):
            norm.bias.uniform_(-0.5, 0.5), norm.weight.uniform_(0.5, 1.5)
            norm.momentum = 1.0
        network(x)
    folded = dfq.fold_batch_norm(network.eval())
    coarse = lambda layer: (layer.weight.detach() * 4).round() / 4
    rounded = lambda layer: coarse(layer) if layer.out_channels == 6 else layer.weight.detach()
    corrected, _ = dfq.correct_bias(folded, rounded, 11)

    def mean_shift(model):
        model = copy.deepcopy(model)
        model.get_submodule("last").weight.data = coarse(model.get_submodule("last"))
        return (run_model(model, x) - run_model(folded, x)).mean((0, 2, 3)).abs().max()

    assert mean_shift(folded) > 0.05 and mean_shift(corrected) < 0.05 * mean_shift(folded)


def test_bias_correction_behind_a_flattened_map_and_where_it_has_no_rule():
    network = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2)
    ).eval()
    folded = dfq.fold_batch_norm(network)
    _, report = dfq.correct_bias(folded, lambda layer: 0 * layer.weight.detach(), (12, 16))
    mean, _ = dfq.clipped_gaussian(facts(folded.get_submodule("0")).mean, facts(folded.get_submodule("0")).std)
    weight = network[5].weight.detach()
    assert torch.allclose(report.corrected["5"], -(weight @ mean.repeat_interleave(4)), rtol=1e-5)
    others = (
        nn.Sequential(conv(3, 12), nn.BatchNorm2d(12), nn.ReLU(), nn.Linear(12, 2)),
        Written(lambda s, x: s.b(nn.functional.conv2d(x, s.w.weight).relu()), w=conv(3, 8), b=conv(8, 2)),
        nn.Sequential(nn.ReLU(), conv(3, 2)),
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.AvgPool2d(2, divisor_override=1), conv(8, 2)),
    )
    for network in others:
        folded = dfq.fold_batch_norm(network.eval(), input_shape=(3, 12, 12))
        corrected, report = dfq.correct_bias(folded, lambda layer: 0 * layer.weight.detach(), 12)
        assert len(report.skipped) == 1
        assert all(torch.isfinite(parameter).all() for parameter in corrected.parameters())
