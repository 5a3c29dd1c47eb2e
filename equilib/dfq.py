"""Data-free quantization: cross-layer equalization and high-bias absorption; the way in for folding and bias correction.

After Nagel et al. 2019, «Data-Free Quantization Through Weight Equalization and Bias Correction», as the paper applies it
(section 4.1).  Everything works on Conv–BN–ReLU networks that ``torch.fx`` can trace.  Every function returns a new
module; the one it is given stays as it was.

A folded convolution carries what batch normalization knew of its output, per channel (:class:`equilib.plain.LayerFacts`):
mean beta and standard deviation |gamma|.  Equalization and absorption keep them up to date, and :mod:`equilib.int8` reads
its data-free activation ranges from them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from equilib.bias_correction import (
    BiasCorrectionReport,
    clipped_gaussian,
    correct_bias,
    in_channels,
    pads_with_zeros,
    response_to_constant,
    takes_means,
)
from equilib.checks import check_count, check_switch
from equilib.folding import fold_batch_norm
from equilib.graph import (
    LAYERS,
    activations,
    called_layers,
    find_input_shape,
    is_flatten,
    is_relu,
    module_of,
    only_user,
    output_shapes,
    own_copy,
    trace,
)
from equilib.plain import DiscMean, GroupMax, facts, note
from equilib.same_function import check_same_function

# What others know by this module's name, as the course tells it.
__all__ = ["BiasCorrectionReport", "activations", "clipped_gaussian", "correct_bias", "fold_batch_norm", "trace"]

# Positively homogeneous, channel by channel: f(s x) = s f(x) for s > 0, so a scale moves through them.
ELEMENTWISE = (nn.Identity, nn.Dropout)
POOLING = (DiscMean, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)

# Rounding an equalized activation may cost so many times what it costs with the scales that are best for it alone.
ACTIVATION_SLACK = 3.0


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing but positively homogeneous functions between them.

    Attributes:
        first, second: names of the layers.
        field_size: the path goes through a maximum over fields of so many channels, which must share their scale; else 1.
        relu: a ReLU stands between them.
    """

    first: str
    second: str
    field_size: int
    relu: bool

    @property
    def through_maximum(self) -> bool:
        """Whether the path goes through a maximum over each field."""
        return self.field_size > 1


def find_pairs(network: fx.GraphModule) -> list[Pair]:
    """All pairs of layers that equalization may rescale against each other, in the order of the network.

    The channels that the first layer writes are those that the second one reads: axis 1 of the tensor between them, all
    the way.  A linear layer along another axis is in no pair.
    """
    shapes = output_shapes(network)
    pairs = []
    for node in network.graph.nodes:
        first = module_of(network, node)
        if not isinstance(first, LAYERS) or not _on_channel_axis(first, shapes.get(node.name)):
            continue
        size, relu, last, follower = 1, False, node, only_user(node)
        while follower is not None and _lets_scales_through(network, follower, shapes.get(last.name), shapes):
            module = module_of(network, follower)
            if isinstance(module, GroupMax):
                if size > 1:
                    break
                size = module.field_size
            relu |= is_relu(network, follower)
            last, follower = follower, only_user(follower)
        second = module_of(network, follower)
        if not isinstance(second, LAYERS) or not _on_channel_axis(second, shapes.get(last.name)):
            continue
        if len(ranges_by_output(first)) == in_channels(second) * size:
            pairs.append(Pair(node.target, follower.target, size, relu))
    return pairs


def _on_channel_axis(layer: nn.Module, shape: torch.Size | None) -> bool:
    """Whether axis 1 of a tensor that the layer reads or writes is the one that it sums over, or gives."""
    return shape is not None and len(shape) == (2 if isinstance(layer, nn.Linear) else 4)


def _lets_scales_through(network: fx.GraphModule, node: fx.Node, before, shapes: dict[str, torch.Size]) -> bool:
    after = shapes.get(node.name)
    module = module_of(network, node)
    if before is None or after is None:  # several tensors, as of a maximum that gives its indices too
        return False
    if is_flatten(network, node):
        return len(after) == 2 and after[1] == before[1]
    if isinstance(module, GroupMax):
        return len(before) >= 2
    if isinstance(module, nn.AvgPool2d) and not takes_means(module):
        return False
    pools = isinstance(module, POOLING) and len(before) == 4
    return pools or isinstance(module, ELEMENTWISE) or is_relu(network, node)


def ranges_by_output(layer: nn.Module) -> Tensor:
    """r1 of section 4.1, over the weights that make a channel (W1, row i): one for each output channel, (out_channels,)."""
    return layer.weight.detach().abs().flatten(1).amax(1)


def ranges_by_input(layer: nn.Module) -> Tensor:
    """r2 of section 4.1, over the weights that read a channel (W2, column i): one for each input channel, (in_channels,)."""
    weight = layer.weight.detach().abs().flatten(2) if layer.weight.ndim > 2 else layer.weight.detach().abs()[..., None]
    groups = getattr(layer, "groups", 1)
    grouped = weight.unflatten(0, (groups, -1))  # (groups, out / groups, in / groups, taps)
    return grouped.amax((1, 3)).flatten()


def _scale_inputs(layer: nn.Module, scale: Tensor) -> None:
    """Multiply the weights by the scale of the input channel that they meet, in place."""
    groups = getattr(layer, "groups", 1)
    shape = (groups, 1, -1) + (1,) * (layer.weight.ndim - 2)
    grouped = layer.weight.data.unflatten(0, (groups, -1)) * scale.view(shape)
    layer.weight.data = grouped.flatten(0, 1)


def _scale_outputs(layer: nn.Module, scale: Tensor) -> None:
    """Multiply the layer's outputs, and what is known of their distribution, in place."""
    layer.weight.data = layer.weight.data * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bias is not None:
        layer.bias.data = layer.bias.data * scale
    known = facts(layer)
    if known.mean is not None:
        note(layer, mean=known.mean * scale, std=known.std * scale)


def _field_size(layer: nn.Module, pair: Pair, per_field: bool) -> int:
    """How many neighbouring channels of the first layer share a scale."""
    if not per_field:
        return pair.field_size
    size = facts(layer).field_size
    if size is None:
        raise ValueError(
            f"{pair.first} carries no partition into fields (field_size), which a scale per field needs; "
            "export an equivariant network, or equalize per channel (per_field=False)"
        )
    if size % pair.field_size:
        raise ValueError(f"{pair.first} has fields of {size} channels, the maximum behind it takes {pair.field_size}")
    return size


@dataclass(frozen=True)
class EqualizationReport:
    """What equalization did.

    Attributes:
        scales: for each pair that was rescaled, the scale S of its channels in all sweeps together: W1 / S, W2 S.
        before, after: for each layer's name, its ``ranges_by_output``.
        sweeps: how often all pairs were visited.
        change: the largest |log scale| of the last sweep; 0 means converged.
        bounded: for each pair with such channels, those (by number) whose scale is bounded by the activation that it
            makes.
    """

    scales: dict[Pair, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    sweeps: int
    change: float
    bounded: dict[Pair, tuple[int, ...]]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs that were rescaled, in the order of the network."""
        return tuple(self.scales)


def rescale(network: fx.GraphModule, scales: dict[Pair, Tensor]) -> fx.GraphModule:
    """Divide the outputs of each pair's first layer by its scale, and multiply the inputs of the second one by it.

    Any positive scales leave the function as it is: ReLU(s x) = s ReLU(x); this is checked on random images.  Equalization
    is one choice of them.

    Args:
        network: from :func:`fold_batch_norm`.
        scales: (channels,) for pairs of :func:`find_pairs`.

    Raises:
        ValueError: a scale that is not positive and finite, or differs within a field behind which stands a maximum; or
            another function.
    """
    rescaled = own_copy(network, torch.float64)
    for pair, scale in scales.items():
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"the scales between {pair.first} and {pair.second} must be positive and finite")
        _apply_scale(rescaled, pair, scale.double())
    return _verified(network, rescaled, "rescaling")


def _verified(network: fx.GraphModule, changed: fx.GraphModule, what: str) -> fx.GraphModule:
    """The changed network, in the precision of the one that it was made from, once both are seen to be one function."""
    changed.meta["input_shape"] = find_input_shape(network)
    before = deepcopy(network).double()
    check_same_function(before, changed, what, traced=before)
    changed = changed.to(next(network.parameters(), torch.zeros(())).dtype)
    for name, layer in called_layers(changed):
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"{name}: its rescaled weights do not fit into {layer.weight.dtype}; use network.float()")
    return changed


def _apply_scale(network: fx.GraphModule, pair: Pair, scale: Tensor) -> None:
    first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
    fields = scale.unflatten(0, (-1, pair.field_size))
    if (fields != fields[:, :1]).any():
        raise ValueError(f"between {pair.first} and {pair.second} stands a maximum over each field: scale it as one")
    _scale_outputs(first, 1 / scale)
    _scale_inputs(second, fields[:, 0])


def equalize(
    network: fx.GraphModule, *, per_field: bool = False, sweeps: int = 100, tolerance: float = 1e-9
) -> tuple[fx.GraphModule, EqualizationReport]:
    """Cross-layer range equalization (equation 2 of the paper).

    Each pair of layers is rescaled by s = sqrt(r1 r2) / r2, W1 <- W1 / s, W2 <- W2 s, so that both ranges become
    sqrt(r1 r2); all pairs are visited in turn until nothing moves.

    A channel with weights near zero would be blown up, and with it what it gives: its bias widens the one range that all
    channels of the activation share.  So where rounding an activation would cost more than ``ACTIVATION_SLACK`` times
    what it must (:func:`_bound`), the channels that make it so wide are scaled by what they give: their reach a, in the
    unit of the other channels, takes the place of r1.

    The new network is run beside the old one on random images, in double precision.

    Args:
        network: from :func:`fold_batch_norm`.
        per_field: one scale for all channels of a field (the largest range counts), which commutes with the group for
            every N; by default one scale per channel, as in the paper.  Pairs through a group maximum always have one
            scale per field.
        sweeps: at most so many visits of all pairs; as many again where scales must be bounded.
        tolerance: stop when no scale of a sweep differs from 1 by more.

    Returns:
        The new network, the same function, and a report.

    Raises:
        ValueError: weights that are not finite; ``per_field`` without a partition into fields; another function than
            before, with the layer where the difference begins.
    """
    check_switch("per_field", per_field), check_count("sweeps", sweeps, least=0)
    # In double precision, so that many small steps do not add up; rounded once at the end.
    equalized = own_copy(network, torch.float64)
    find_input_shape(equalized)
    pairs = tuple(find_pairs(equalized))
    before = {name: ranges_by_output(layer) for name, layer in called_layers(equalized)}
    scales: dict[Pair, Tensor] = {}
    bounds: dict[Pair, _Bound] = {}
    change, done = float("inf") if pairs else 0.0, 0
    while pairs:
        for _ in range(sweeps):
            change = 0.0
            for pair in pairs:
                scale = _pair_scale(equalized, pair, per_field, bounds.get(pair))
                _apply_scale(equalized, pair, scale)
                scales[pair] = scales.get(pair, 1.0) * scale
                change = max(change, scale.log().abs().max().item())
            done += 1
            if change <= tolerance:
                break
        found = {pair: _bound(equalized, pair, per_field) for pair in pairs if pair not in bounds}
        found = {pair: bound for pair, bound in found.items() if bound is not None}
        if not found:
            break
        bounds |= found
    bounded = {pair: _channels(bound, scales[pair]) for pair, bound in bounds.items()}
    equalized = _verified(network, equalized, "equalization")
    after = {name: ranges_by_output(layer) for name, layer in called_layers(equalized)}
    return equalized, EqualizationReport(scales, before, after, done, change, bounded)


@dataclass(frozen=True)
class _Bound:
    """Which channels (or fields) of a pair are scaled by what they give, not by their weights.

    Attributes:
        fields: which, (channels / field size,).
        unit: r2 / a of the other channels: how wide a column belongs to how wide an activation.
    """

    fields: Tensor
    unit: Tensor


def _pair_scale(network: fx.GraphModule, pair: Pair, per_field: bool, bound: _Bound | None) -> Tensor:
    first = network.get_submodule(pair.first)
    size = _field_size(first, pair, per_field)
    r1 = ranges_by_output(first).unflatten(0, (-1, size)).amax(1)
    if bound is not None:
        r1 = torch.where(bound.fields, _reach(first, pair, size) * bound.unit, r1)
    r2 = _met(network, pair, size)
    # A channel that is dead on either side has no range to share: leave it alone.
    alive = (r1 > 0) & (r2 > 0)
    scale = torch.where(alive, (r1 * r2).sqrt() / r2.clamp_min(torch.finfo(r2.dtype).tiny), torch.ones_like(r1))
    return scale.repeat_interleave(size)


def _met(network: fx.GraphModule, pair: Pair, size: int) -> Tensor:
    """The largest absolute weight that each field of ``size`` channels meets in the second layer."""
    ranges = ranges_by_input(network.get_submodule(pair.second))
    return ranges.unflatten(0, (-1, size // pair.field_size)).amax(1)


def _powers(network: fx.GraphModule, pair: Pair, size: int) -> Tensor:
    """The sum of the squares of the weights that each field of ``size`` channels meets in the second layer."""
    second = network.get_submodule(pair.second)
    weight = second.weight.detach().unflatten(0, (getattr(second, "groups", 1), -1))
    powers = weight.square().flatten(3).sum((1, 3)) if weight.ndim > 3 else weight.square().sum(1)
    return powers.flatten().unflatten(0, (-1, size // pair.field_size)).sum(1)


def _channels(bound: _Bound, scale: Tensor) -> tuple[int, ...]:
    """The numbers of the channels in question, of as many as there are scales."""
    size = len(scale) // len(bound.fields)
    return tuple(bound.fields.repeat_interleave(size).nonzero().flatten().tolist())


def _reach(layer: nn.Module, pair: Pair, size: int) -> Tensor:
    """How far from 0 the output of each field of ``size`` channels reaches by its statistics: beta ± 6 |gamma|."""
    known = facts(layer)
    reach = (known.mean if pair.relu else known.mean.abs()) + 6 * known.std
    reach = reach.clamp_min(0)
    return reach.unflatten(0, (-1, size)).amax(1)


def _bound(network: fx.GraphModule, pair: Pair, per_field: bool) -> _Bound | None:
    """The channels that make an activation too wide; None where none does, or there are no statistics to tell.

    An activation whose channels reach to a_c is rounded in steps of max a, so that behind the second layer, whose columns
    have squared norms w_c, rounding makes noise of power max(a)² sum w.  No scales make less than sum a² w, which is what
    those give that make all reaches equal, and that sum is the same whatever the scales are now (a_c -> a_c / s_c,
    w_c -> w_c s_c²).  Were all reaches bounded by L, the power would be sum max(L, a)² w: the channels in question are
    those beyond the largest L for which that is within ``ACTIVATION_SLACK``² of the least.
    """
    first = network.get_submodule(pair.first)
    if facts(first).mean is None:
        return None
    size = _field_size(first, pair, per_field)
    reach = _reach(first, pair, size)
    ranges, powers = _met(network, pair, size), _powers(network, pair, size)
    allowed = ACTIVATION_SLACK**2 * (reach.square() * powers).sum()
    widest = reach.max()
    if not allowed > 0 or widest.square() * powers.sum() <= allowed * (1 + 1e-6):
        return None
    low, high = widest * 1e-30, widest
    for _ in range(200):
        middle = (low * high).sqrt()
        fits = (reach.clamp_min(middle).square() * powers).sum() <= allowed
        low, high = (middle, high) if fits else (low, middle)
    others = (reach <= low) & (reach > 0) & (ranges > 0)
    if not others.any():
        return None
    return _Bound(reach > low, ranges[others].max() / reach[others].max())


@dataclass(frozen=True)
class AbsorptionReport:
    """What high-bias absorption did: for each pair, the amount c per channel; pairs left alone, and why."""

    absorbed: dict[Pair, Tensor]
    skipped: dict[Pair, str]


def absorb_high_bias(network: fx.GraphModule, *, deviations: float = 3.0) -> tuple[fx.GraphModule, AbsorptionReport]:
    """Move large biases into the next layer (section 4.1 of the paper; Nagel et al. 2019, section 4.1.3).

    With c = max(0, beta - 3 |gamma|), b1 <- b1 - c and b2 <- b2 + W2 c.  Behind a ReLU this is the same function
    wherever the pre-activation exceeds c, that is for 99.87 % of a Gaussian.

    A layer with zero padding is left alone: at the border W2 c would count pixels that were never shifted.

    Returns:
        The new network and a report; ValueError where ``deviations`` is negative, since ReLUs would cut off what moves.
    """
    if not deviations >= 0:  # NaN, too
        raise ValueError(f"deviations must not be negative, got {deviations}")
    network = own_copy(network)
    absorbed, skipped = {}, {}
    for pair in find_pairs(network):
        first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
        reason = _cannot_absorb(first, second, pair)
        if reason:
            skipped[pair] = reason
            continue
        known = facts(first)
        amount = (known.mean - deviations * known.std).clamp_min(0)
        first.bias.data = first.bias.data - amount
        note(first, mean=known.mean - amount)
        second.bias.data = second.bias.data + response_to_constant(second, amount)
        absorbed[pair] = amount
    return network, AbsorptionReport(absorbed, skipped)


def _cannot_absorb(first: nn.Module, second: nn.Module, pair: Pair) -> str:
    if not pair.relu:
        return "no ReLU between the layers"
    if facts(first).mean is None:
        return f"{pair.first} has no batch-norm statistics"
    if first.bias is None or second.bias is None:
        return "a layer has no bias"
    if pair.through_maximum:
        return "a maximum over the group stands between the layers"
    if pads_with_zeros(second):
        return f"{pair.second} pads with zeros, which the shift does not reach"
    return ""


def chain_fixed_point(*ranges: Tensor) -> Tensor:
    """Where equalization of a chain 1x1 -> depthwise -> ... -> 1x1 ends: the geometric mean of its ranges.

    Args:
        ranges: (channels,) for each layer: those by output of the first, those of the depthwise ones (each has one
            input and one output channel, so one range), those by input of the last.

    Returns:
        (channels,): the range that all the layers of the chain have, channel by channel, when nothing moves any more.
    """
    return torch.stack(ranges).log().mean(0).exp()
