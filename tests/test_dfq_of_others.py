"""Equalization and absorption in networks of others: whatever torch.fx can trace keeps its function."""

import copy

import pytest
import torch
from by_hand import Written, conv, same_function
from torch import nn

from equilib import dfq, int8
from equilib.equivariance import relative_difference, run_model
from equilib.pcam import input_range


@pytest.mark.parametrize(
    "make, pairs",
    [
        (lambda: nn.Sequential(conv(3, 12), nn.ReLU(), nn.Linear(12, 5)), 0),
        (lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)), 0),
        (lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), 1),
        (lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(2), nn.Linear(144, 2)), 0),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(144, 3), nn.ReLU(), nn.Linear(3, 2)), 0),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 6), nn.ReLU(), nn.Linear(6, 2)), 1),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1)), 0),
        (lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2), nn.ReLU(), conv(6, 2)), 0),
        (lambda: nn.Sequential(conv(3, 6), nn.Softplus(), conv(6, 2)), 0),
        (lambda: Written(lambda s, x: s.b(torch.relu(s.a(x))), a=conv(3, 6), b=conv(6, 2)), 1),
        (lambda: Written(lambda s, x: s.b(s.a(x).clamp(0, 1)), a=conv(3, 6), b=conv(6, 2)), 0),
        (lambda: Written(lambda s, x: s.b(s.a(x).permute(0, 2, 3, 1).relu()), a=conv(3, 6), b=nn.Linear(6, 2)), 0),
        (lambda: Written(lambda s, x: s.b(torch.relu(s.a(x)).mean((2, 3))), a=conv(3, 6), b=nn.Linear(6, 2)), 1),
        (lambda: Written(lambda s, x: s.b(s.a(x).view(x.size(0), -1)), a=conv(3, 1), b=nn.Linear(144, 2)), 0),
        (lambda: Written(lambda s, x: s.b(torch.cat([s.a(x)] * 2, 1)), a=conv(3, 6), b=conv(12, 2)), 0),
        (lambda: Written(lambda s, x: s.b(torch.add(s.a(x), s.c(x), alpha=3)), a=conv(3, 6), b=conv(6, 2), c=conv(3, 6)), 0),
        (lambda: Written(lambda s, x: s.b(s.r(input=s.a(input=x))), a=conv(3, 6), b=conv(6, 2), r=nn.ReLU()), 1),
        (lambda: Written(lambda s, x: nn.functional.conv2d(s.a(x), s.b.weight), a=conv(3, 6), b=conv(6, 2)), 0),
    ],
)  # fmt: skip
def test_networks_of_others_keep_their_function(make, pairs):
    network = make()
    folded = dfq.fold_batch_norm(network, input_shape=(3, 12, 12))
    equalized, report = dfq.equalize(folded)
    assert len(report.pairs) == pairs
    x = torch.randn(2, 3, 12, 12)
    same_function(network, equalized, x, tolerance=1e-5)
    same_function(network, dfq.absorb_high_bias(equalized)[0], x, tolerance=1e-5)


def test_single_and_half_precision_are_equalized_too():
    network = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 2)).eval()
    x = torch.randn(4, 3, 8, 8)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 0.05)):
        equalized, _ = dfq.equalize(dfq.fold_batch_norm(copy.deepcopy(network).to(dtype)))
        assert next(equalized.parameters()).dtype == dtype
        same_function(network, equalized.float(), x, tolerance)


@pytest.mark.parametrize(
    "pool, second, absorbs",
    [
        (nn.AvgPool2d(2, divisor_override=1), conv(4, 2), False),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), conv(4, 2), False),
        (nn.AvgPool2d(3, 2, ceil_mode=True), conv(4, 2), True),
        (nn.MaxPool2d(3, 2, 1, dilation=1), conv(4, 2, 3, padding="valid"), True),
        (nn.Identity(), conv(4, 2, 3, padding="same"), False),
        (nn.Identity(), conv(4, 2, 3, padding=1, padding_mode="reflect"), True),
        (nn.Identity(), conv(4, 2, 3, padding=2, dilation=2), False),
        (nn.Identity(), conv(4, 2, 3, dilation=2), True),
    ],
)
def test_absorption_only_where_the_shift_arrives(pool, second, absorbs):
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), pool, copy.deepcopy(second)).double().eval()
    with torch.no_grad():
        network[1].bias.fill_(40.0)
    folded = dfq.fold_batch_norm(network)
    absorbed, report = dfq.absorb_high_bias(folded)
    assert bool(report.absorbed) == absorbs
    same_function(folded, absorbed, torch.randn(2, 3, 9, 9, dtype=torch.float64))


def test_layers_called_by_keyword_and_networks_without_layers(tissue):
    """What torch allows in a forward: the names of arguments; nothing to scale is no error."""
    network = Written(
        lambda self, x: self.second(input=self.relu(input=self.first(input=x))).mean((2, 3)),
        first=conv(3, 4),
        relu=nn.ReLU(),
        second=conv(4, 2),
    ).eval()
    folded = dfq.fold_batch_norm(network)
    rounded = int8.quantize(folded, input_range(), ranges=int8.calibrated_ranges(folded, tissue))
    assert relative_difference(run_model(folded, tissue), run_model(rounded, tissue)) < 0.2
    pooling = dfq.fold_batch_norm(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    equalized, report = dfq.equalize(pooling)
    assert report.pairs == () and torch.equal(run_model(equalized, tissue), run_model(pooling, tissue))
