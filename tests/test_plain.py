"""The plain layers by themselves: what each one computes, against the definition in words."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from equilib.fields import Group, channel_permutation, disc_mask, mirror_permutation
from equilib.filters import solve_constraint
from equilib.plain import BlurredConv2d, DiscMask, DiscMean, FieldDropout, GroupMax, QuarterTurn, Residual


def test_a_residual_adds_what_it_was_given():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(Residual(nn.ReLU())(x), x + x.relu())


def test_the_mask_takes_everything_outside_the_disc_and_nothing_inside():
    x = 1 + torch.rand(2, 3, 11, 11)
    masked = DiscMask(11)(x)
    inside = disc_mask(11).bool()
    assert torch.equal(masked[..., inside], x[..., inside]) and not masked[..., ~inside].any()
    with pytest.raises(ValueError, match="11 x 11 pixels, got 9 x 9"):
        DiscMask(11)(x[..., :9, :9])


@pytest.mark.parametrize("size", [1, 5, 8])
def test_the_mean_is_that_of_the_pixels_inside_the_disc(size):
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    expected = x[..., disc_mask(size).bool()].mean(-1)
    assert torch.allclose(DiscMean(size).double()(x), expected, atol=1e-6)


def test_the_maximum_is_taken_over_each_field():
    x = torch.randn(2, 12, 3, 3)
    expected = torch.stack([x[:, 4 * field : 4 * field + 4].max(1).values for field in range(3)], 1)
    assert torch.equal(GroupMax(4)(x), expected)


def test_fields_are_dropped_whole_and_one_by_one():
    """Each field alone with probability p; the channels of a field together; what stays is scaled by 1 / (1 - p)."""
    dropped = FieldDropout(0.5, 4)(torch.ones(2000, 12)).unflatten(1, (3, 4))
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped)) and set(dropped.unique().tolist()) == {0, 2}
    first, second, third = (dropped[..., 0] == 0).double().unbind(1)
    # Three standard errors of a correlation of 2000 independent pairs.
    for a, b in ((first, second), (second, third), (first, third)):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 3 / math.sqrt(2000)
    assert torch.equal(FieldDropout(0.5, 4).eval()(torch.ones(2, 12)), torch.ones(2, 12))


def turn_of(name, **sides):
    group = Group.parse(name)
    parts = 4 if group.rotations % 4 == 0 else 2
    return QuarterTurn(360 // parts, channel_permutation(group, group.rotations // parts), **sides)


@pytest.mark.parametrize("name", ["C2", "C4", "D4"])
@pytest.mark.parametrize("in_repr", ["trivial", "regular"])
def test_a_turn_leaves_equivariant_filters_alone_and_others_not(name, in_repr):
    """Filters from linear algebra (no code of the layers): the rotation of pixels and channels gives the same filter."""
    group = Group.parse(name)
    basis = solve_constraint(group, in_repr, "regular", 3)
    weight = torch.einsum("u,uoihw->oihw", torch.randn(len(basis), dtype=torch.float64), basis)
    turn = turn_of(name, inputs=in_repr == "regular", outputs=True)
    assert torch.allclose(turn.apply(weight), weight, atol=1e-12)
    assert torch.allclose(turn.tie(weight), weight, atol=1e-12)
    other = torch.randn_like(weight)
    assert not torch.allclose(turn.apply(other), other, atol=0.1)
    with pytest.raises(ValueError, match="not rotated copies"):
        turn.tie(other)


@pytest.mark.parametrize("name", ["C2", "C4", "C6", "C12", "D4"])
def test_tied_weights_are_invariant_to_the_bit(name):
    """…from copies that differ by the rounding of float32, wherever in its orbit a weight starts."""
    group = Group.parse(name)
    turn = turn_of(name, inputs=False, outputs=True)
    copies = [torch.randn(2 * group.order, 1, 3, 3)]
    while len(copies) < 360 // turn.degrees:
        copies.append(turn.apply(copies[-1]))
    noisy = sum(copies) * (1 + 1e-6 * torch.randn(copies[0].shape))
    assert not torch.equal(turn.apply(noisy), noisy)
    tied = turn.tie(noisy)
    assert torch.equal(turn.apply(tied), tied) and torch.allclose(tied, noisy, rtol=1e-4, atol=1e-5)
    bias = torch.randn(group.order // len(copies)).repeat(len(copies))  # the same for all channels of an orbit
    if not group.reflections:
        assert torch.equal(turn.apply(bias), bias) and torch.equal(turn.tie(bias), bias)


def test_reflections_leave_weights_alone_and_are_tied_too():
    """To the bit, from copies that differ by the rounding of float32; filters of C4 alone are refused."""
    group = Group.parse("D4")
    turn = replace(turn_of("D4", inputs=True, outputs=True), mirror=mirror_permutation(group))
    basis = solve_constraint(group, "regular", "regular", 3)
    weight = torch.einsum("u,uoihw->oihw", torch.randn(len(basis), dtype=torch.float64), basis)
    assert torch.allclose(turn.reflect(weight), weight, atol=1e-12)
    noisy = (weight * (1 + 1e-6 * torch.randn_like(weight))).float()
    assert not torch.equal(turn.reflect(noisy), noisy)
    tied = turn.tie(noisy)
    assert torch.equal(turn.reflect(tied), tied) and torch.equal(turn.apply(tied), tied)
    assert torch.allclose(tied, noisy, rtol=1e-4, atol=1e-5)
    bias = torch.full((8,), 2.0)
    assert torch.equal(turn.tie(bias), bias)
    rotated_only = turn_of("D4", inputs=True, outputs=True).tie(_orbit_mean(turn, torch.randn(8, 8, 3, 3)))
    with pytest.raises(ValueError, match="not rotated copies"):
        turn.tie(rotated_only)
    assert mirror_permutation(Group.parse("C4")) is None


def _orbit_mean(turn, weight):
    copies = [weight]
    while len(copies) < 4:
        copies.append(turn.apply(copies[-1]))
    return sum(copies) / 4


def test_a_turn_acts_on_inputs_and_outputs_as_the_fields_do():
    """The layer with the turned weight does to the turned field what the layer does to the field, then turned."""
    from equilib.fields import rotate_field

    turn = turn_of("C4", inputs=True, outputs=True)
    weight = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    field = torch.randn(1, 4, 7, 7, dtype=torch.float64)
    turned = nn.functional.conv2d(rotate_field(field, "C4", 1), turn.apply(weight))
    assert torch.allclose(turned, rotate_field(nn.functional.conv2d(field, weight), "C4", 1), atol=1e-12)


def test_weights_with_one_entry_that_is_no_copy_are_not_tied():
    turn = turn_of("C4", inputs=False, outputs=True)
    weight = torch.ones(4, 1, 3, 3)
    assert torch.equal(turn.tie(weight), weight)
    for wrong in (0.5, 1.5):
        weight[2, 0, 0, 1] = wrong
        with pytest.raises(ValueError, match="not rotated copies"):
            turn.tie(weight)


def test_a_blurred_filter_keeps_what_it_says_of_plane_waves():
    """Constants pass; the fastest pattern of pixels, which a stride would take for a constant, does not."""
    conv = BlurredConv2d(2, 3, 3, padding=2, bias=True)
    weight = conv.filter()
    assert weight.shape == (3, 2, 5, 5)
    assert torch.allclose(weight.sum((-2, -1)), conv.weight.sum((-2, -1)), atol=1e-6)
    signs = (-1.0) ** torch.arange(5)
    for wave in (signs.expand(5, 5), signs[:, None].expand(5, 5), signs[:, None] * signs):
        assert (weight * wave).sum((-2, -1)).abs().max() < 1e-6
    x = torch.randn(2, 2, 9, 9)
    plain = conv.export()
    assert type(plain) is nn.Conv2d and torch.equal(plain(x), conv(x))
