"""Data-free quantization: batch-norm folding, cross-layer equalization, high-bias absorption, bias correction.

After Nagel et al. 2019, «Data-Free Quantization Through Weight Equalization and Bias Correction», as the paper applies it
(section 4.1).  Everything works on Conv–BN–ReLU networks that ``torch.fx`` can trace and whose activations and poolings
are modules (``nn.ReLU``, not ``torch.relu``).  Every function returns a new module; the one it is given stays as it was.

A folded convolution carries what batch normalization knew of its output, per channel: ``output_mean`` (beta) and
``output_std`` (|gamma|).  Equalization and absorption keep them up to date, and :mod:`equilib.int8` reads its data-free
activation ranges from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from equilib.plain import DiscMask, DiscMean, GroupMax

Layer = (nn.Conv2d, nn.Linear)
# Positively homogeneous, channel by channel: f(s x) = s f(x) for s > 0, so a scale moves through them.
HOMOGENEOUS = (nn.ReLU, nn.Identity, nn.Dropout, DiscMean, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.Flatten)


class _Tracer(fx.Tracer):
    """Keeps equilib's own plain layers whole, so that passes can recognise them."""

    def is_leaf_module(self, module, name):
        return isinstance(module, (DiscMask, DiscMean, GroupMax)) or super().is_leaf_module(module, name)


def trace(network: nn.Module) -> fx.GraphModule:
    """Copy and trace a plain network in evaluation mode.

    Raises:
        ValueError: torch.fx cannot trace it; the message says why.
    """
    copy = deepcopy(network).eval()
    try:
        graph = _Tracer().trace(copy)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx ({error}); "
            "an equivariant network must be exported first (network.export())"
        ) from error
    traced = fx.GraphModule(copy, graph)
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for name in calls:
        if isinstance(traced.get_submodule(name), (*Layer, nn.BatchNorm2d)) and calls.count(name) > 1:
            raise ValueError(
                f"{name} is used {calls.count(name)} times: rescaling it at one place would change the others"
            )
    for name, module in traced.named_modules():
        if isinstance(module, (nn.ReLU6, nn.Hardtanh)):
            raise ValueError(
                f"{name} is a ReLU6: scaling its input would change the function, since it clips at a fixed value. "
                "Replace it by ReLU (as MobileNetV2 usually is for data-free quantization) and train or fine-tune."
            )
    return traced


def _module(network: fx.GraphModule, node) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return network.get_submodule(node.target)
    return None


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def fold_batch_norm(network: nn.Module) -> fx.GraphModule:
    """Fold every batch normalization into the convolution before it.

    w' = w gamma / sqrt(var + eps) and b' = beta + (b - mean) gamma / sqrt(var + eps): the same function in evaluation
    mode.  The convolution keeps beta as ``output_mean`` and |gamma| as ``output_std``.

    Raises:
        ValueError: a batch normalization does not follow a convolution of its own, or holds NaN.
    """
    network = trace(network)
    for node in list(network.graph.nodes):
        norm = _module(network, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        conv = _module(network, source)
        if not isinstance(conv, nn.Conv2d) or _only_user(source) is not node:
            raise ValueError(f"{node.target} does not follow a convolution of its own, so it cannot be folded")
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = torch.zeros_like(scale) if conv.bias is None else conv.bias
        folded_bias = norm.bias + (bias - norm.running_mean) * scale
        if not (torch.isfinite(scale).all() and torch.isfinite(folded_bias).all()):
            raise ValueError(f"{node.target} holds NaN or infinite values; was the training stable?")
        conv.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).detach())
        conv.bias = nn.Parameter(folded_bias.detach())
        conv.register_buffer("output_mean", norm.bias.detach().clone())
        conv.register_buffer("output_std", norm.weight.detach().abs())
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing but positively homogeneous functions between them.

    Attributes:
        first, second: names of the layers.
        tied: the path goes through a maximum over each field, so the channels of a field must share their scale.
        relu: a ReLU stands between them.
    """

    first: str
    second: str
    tied: bool
    relu: bool


def find_pairs(network: fx.GraphModule) -> list[Pair]:
    """All pairs of layers that equalization may rescale against each other, in the order of the network."""
    pairs = []
    for node in network.graph.nodes:
        if not isinstance(_module(network, node), Layer):
            continue
        tied = relu = False
        follower = _only_user(node)
        while follower is not None and _lets_scales_through(_module(network, follower)):
            tied |= isinstance(_module(network, follower), GroupMax)
            relu |= isinstance(_module(network, follower), nn.ReLU)
            follower = _only_user(follower)
        second = _module(network, follower)
        if isinstance(second, Layer) and (tied or len(outgoing_ranges(_module(network, node))) == _in_channels(second)):
            pairs.append(Pair(node.target, follower.target, tied, relu))
    return pairs


def _lets_scales_through(module: nn.Module | None) -> bool:
    # A padded average mixes in zeros that absorption does not shift, so it ends a chain.
    padded = isinstance(module, nn.AvgPool2d) and module.padding not in (0, (0, 0))
    return isinstance(module, (*HOMOGENEOUS, GroupMax)) and not padded


def outgoing_ranges(layer: nn.Module) -> Tensor:
    """r1: the largest absolute weight of each output channel, (out_channels,)."""
    return layer.weight.detach().abs().flatten(1).amax(1)


def incoming_ranges(layer: nn.Module) -> Tensor:
    """r2: the largest absolute weight that each input channel meets, (in_channels,)."""
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
    if hasattr(layer, "output_mean"):
        layer.output_mean = layer.output_mean * scale
        layer.output_std = layer.output_std * scale


def _field_size(layer: nn.Module, pair: Pair) -> int:
    size = getattr(layer, "field_size", None)
    if size is None:
        raise ValueError(
            f"{pair.first} carries no partition into fields (attribute field_size), which a tied scale needs; "
            "export an equivariant network, or equalize per channel (tied=False)"
        )
    return size


@dataclass(frozen=True)
class EqualizationReport:
    """What equalization did.

    Attributes:
        scales: for each pair that was rescaled, the scale S of its channels in all sweeps together: W1 / S, W2 S.
        before, after: for each layer's name, its ``outgoing_ranges``.
        sweeps: how often all pairs were visited.
        change: the largest |log scale| of the last sweep; 0 means converged.
    """

    scales: dict[Pair, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    sweeps: int
    change: float

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs that were rescaled, in the order of the network."""
        return tuple(self.scales)


def rescale(network: fx.GraphModule, scales: dict[Pair, Tensor]) -> fx.GraphModule:
    """Divide the outputs of each pair's first layer by its scale, and multiply the inputs of the second one by it.

    Any positive scales leave the function as it is: ReLU(s x) = s ReLU(x).  Equalization is one choice of them.

    Args:
        network: from :func:`fold_batch_norm`.
        scales: (channels,) for pairs of :func:`find_pairs`.

    Raises:
        ValueError: a scale that is not positive and finite, or differs within a field where the pair is tied.
    """
    dtype = next(network.parameters()).dtype
    network = deepcopy(network).double()
    for pair, scale in scales.items():
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"the scales between {pair.first} and {pair.second} must be positive and finite")
        _apply_scale(network, pair, scale.double())
    return network.to(dtype)


def _apply_scale(network: fx.GraphModule, pair: Pair, scale: Tensor) -> None:
    first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
    incoming = scale
    if pair.tied:
        size = _field_size(first, pair)
        fields = scale.unflatten(0, (-1, size))
        if (fields != fields[:, :1]).any():
            raise ValueError(
                f"between {pair.first} and {pair.second} stands a maximum over each field: scale it as one"
            )
        incoming = scale if len(scale) == _in_channels(second) else fields[:, 0]
    _scale_outputs(first, 1 / scale)
    _scale_inputs(second, incoming)


def equalize(
    network: fx.GraphModule, *, tied: bool = False, sweeps: int = 100, tolerance: float = 1e-9
) -> tuple[fx.GraphModule, EqualizationReport]:
    """Cross-layer range equalization (equation 2 of the paper).

    Each pair of layers is rescaled by s = sqrt(r1 r2) / r2, W1 <- W1 / s, W2 <- W2 s, so that both ranges become
    sqrt(r1 r2); all pairs are visited in turn until nothing moves.

    Args:
        network: from :func:`fold_batch_norm`.
        tied: one scale for all channels of a field (the largest range counts), which commutes with the group for
            every N; by default one scale per channel, as in the paper.  Pairs through a group maximum are always tied.
        sweeps: at most so many visits of all pairs.
        tolerance: stop when no scale of a sweep differs from 1 by more.

    Returns:
        The new network, the same function, and a report.

    Raises:
        ValueError: weights that are not finite; ``tied`` without a partition into fields.
    """
    # In double precision, so that many small steps do not add up; rounded once at the end.
    dtype = next(network.parameters()).dtype
    network = deepcopy(network).double()
    pairs = tuple(find_pairs(network))
    names = [name for name, module in network.named_modules() if isinstance(module, Layer)]
    for name in names:
        if not torch.isfinite(network.get_submodule(name).weight).all():
            raise ValueError(f"{name} has weights that are NaN or infinite; was the training stable?")
    before = {name: outgoing_ranges(network.get_submodule(name)) for name in names}
    scales: dict[Pair, Tensor] = {}
    change, done = float("inf"), 0
    while done < sweeps and change > tolerance and pairs:
        change = 0.0
        for pair in pairs:
            first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
            scale = _pair_scale(first, second, pair, tied)
            _apply_scale(network, pair, scale)
            scales[pair] = scales.get(pair, 1.0) * scale
            change = max(change, scale.log().abs().max().item())
        done += 1
    network.to(dtype)
    after = {name: outgoing_ranges(network.get_submodule(name)) for name in names}
    return network, EqualizationReport(scales, before, after, done, change if pairs else 0.0)


def _in_channels(layer: nn.Module) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _pair_scale(first: nn.Module, second: nn.Module, pair: Pair, tied: bool) -> Tensor:
    r1, r2 = outgoing_ranges(first), incoming_ranges(second)
    if tied or pair.tied:
        size = _field_size(first, pair)
        r1 = r1.unflatten(0, (-1, size)).amax(1).repeat_interleave(size)
        if len(r2) == len(r1):
            r2 = r2.unflatten(0, (-1, size)).amax(1)
        r2 = r2.repeat_interleave(size)  # behind a group maximum there is one channel a field
    # A channel that is dead on either side has no range to share: leave it alone.
    alive = (r1 > 0) & (r2 > 0)
    return torch.where(alive, (r1 * r2).sqrt() / r2.clamp_min(torch.finfo(r2.dtype).tiny), torch.ones_like(r1))


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
        The new network and a report.
    """
    network = deepcopy(network)
    absorbed, skipped = {}, {}
    for pair in find_pairs(network):
        first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
        reason = _cannot_absorb(first, second, pair)
        if reason:
            skipped[pair] = reason
            continue
        amount = (first.output_mean - deviations * first.output_std).clamp_min(0)
        first.bias.data = first.bias.data - amount
        first.output_mean = first.output_mean - amount
        second.bias.data = second.bias.data + _apply_to_constant(second, amount)
        absorbed[pair] = amount
    return network, AbsorptionReport(absorbed, skipped)


def _cannot_absorb(first: nn.Module, second: nn.Module, pair: Pair) -> str:
    if not pair.relu:
        return "no ReLU between the layers"
    if not hasattr(first, "output_mean"):
        return f"{pair.first} has no batch-norm statistics"
    if first.bias is None or second.bias is None:
        return "a layer has no bias"
    if pair.tied or len(first.output_mean) != _in_channels(second):
        return "a maximum over the group stands between the layers"
    if isinstance(second, nn.Conv2d) and any(p != 0 for p in second.padding):
        return f"{pair.second} pads with zeros, which the shift does not reach"
    return ""


def _apply_to_constant(layer: nn.Module, constant: Tensor) -> Tensor:
    """W c: the layer's linear part on an image that is constant in space, (out_channels,)."""
    return _sum_of_taps(layer.weight.detach(), constant, getattr(layer, "groups", 1))


def _sum_of_taps(weight: Tensor, constant: Tensor, groups: int) -> Tensor:
    weight = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    grouped = weight.unflatten(0, (groups, -1))
    return torch.einsum("goi,gi->go", grouped, constant.unflatten(0, (groups, -1))).flatten()


def chain_fixed_point(*ranges: Tensor) -> Tensor:
    """Where equalization of a chain 1x1 -> depthwise -> ... -> 1x1 ends: the geometric mean of its ranges.

    Args:
        ranges: (channels,) for each layer: the outgoing ranges of the first, those of the depthwise ones (each has one
            input and one output channel, so one range), the incoming ranges of the last.

    Returns:
        (channels,): the range that all the layers of the chain have, channel by channel, when nothing moves any more.
    """
    return torch.stack(ranges).log().mean(0).exp()


@dataclass(frozen=True)
class BiasCorrectionReport:
    """What bias correction did: the expected shift of each layer's output, taken off; layers left alone, and why."""

    corrected: dict[str, Tensor]
    skipped: dict[str, str]


def correct_bias(
    network: fx.GraphModule,
    rounded: Callable[[nn.Module], Tensor],
    input_size: int,
    *,
    input_mean: float = 0.0,
) -> tuple[fx.GraphModule, BiasCorrectionReport]:
    """Take the expected error of rounded weights off the biases (Nagel et al. 2019, section 4.2).

    With eps = rounded(W) - W, an input of mean E[x] shifts the output by eps E[x], and b <- b - eps E[x].  E[x] comes
    from batch-norm statistics: behind a ReLU it is that of a clipped Gaussian, |gamma| phi(beta / |gamma|) + beta
    Phi(beta / |gamma|); in a residual sum means and variances add; pooling keeps it.  At a zero-padded border a tap
    counts only for the share of positions where it lies inside the map.

    Args:
        network: folded; equalized and absorbed or not.
        rounded: the weight of a layer after rounding, such as :func:`equilib.int8.rounded_weight`.
        input_size: height and width of the images, in pixels.
        input_mean: of the normalised images.

    Returns:
        The new network, still with the weights it had, and a report.
    """
    network = deepcopy(network)
    sizes = _grid_sizes(network, input_size)
    known: dict[str, tuple[Tensor, Tensor]] = {}  # mean and standard deviation of each channel
    corrected, skipped = {}, {}
    for node in network.graph.nodes:
        module = _module(network, node)
        if node.op == "placeholder":
            known[node.name] = (torch.tensor(input_mean), torch.tensor(float("nan")))
        elif isinstance(module, Layer):
            source = node.args[0].name
            if source not in known:
                skipped[node.target] = "the mean of its input is not known (behind a maximum over the group)"
            elif module.bias is None:
                skipped[node.target] = "the layer has no bias"
            else:
                error = (rounded(module) - module.weight.detach()).to(module.weight.dtype)
                shift = _expected_shift(module, error, known[source][0], sizes[source])
                module.bias.data = module.bias.data - shift
                corrected[node.target] = shift
            if hasattr(module, "output_mean"):
                known[node.name] = (module.output_mean, module.output_std)
        elif isinstance(module, nn.ReLU) and node.args[0].name in known:
            known[node.name] = clipped_gaussian(*known[node.args[0].name])
        elif isinstance(module, (*HOMOGENEOUS, DiscMask)) and not isinstance(module, nn.MaxPool2d):
            if node.args[0].name in known:
                known[node.name] = known[node.args[0].name]
        elif node.op == "call_function" and getattr(node.target, "__name__", "") in ("add", "iadd"):
            parts = [known.get(getattr(argument, "name", "")) for argument in node.args]
            if all(parts):
                (m1, s1), (m2, s2) = parts
                known[node.name] = (m1 + m2, (s1.square() + s2.square()).sqrt())
    return network, BiasCorrectionReport(corrected, skipped)


def clipped_gaussian(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of max(0, x) for a Gaussian x."""
    z = mean / std.clamp_min(torch.finfo(std.dtype).tiny)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(z)
    first = std * density + mean * below
    second = (mean.square() + std.square()) * below + mean * std * density
    return first, (second - first.square()).clamp_min(0).sqrt()


def _expected_shift(layer: nn.Module, error: Tensor, mean: Tensor, size: int) -> Tensor:
    """eps E[x], (out_channels,)."""
    if isinstance(layer, nn.Conv2d) and any(p != 0 for p in layer.padding):
        error = error * _tap_coverage(layer, size).to(error)
    return _sum_of_taps(error, mean.to(error).expand(_in_channels(layer)), getattr(layer, "groups", 1))


def _tap_coverage(conv: nn.Conv2d, size: int) -> Tensor:
    """The share of output positions for which each tap of the filter lies inside an n x n map, (k, k)."""
    taps = torch.eye(math.prod(conv.kernel_size)).view(-1, 1, *conv.kernel_size)
    inside = nn.functional.conv2d(torch.ones(1, 1, size, size), taps, None, conv.stride, conv.padding, conv.dilation)
    return inside.mean((0, 2, 3)).view(conv.kernel_size)


def activations(network: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Every intermediate tensor of a traced network, by the name of its node, without gradients."""
    values: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, Tensor) and node.op != "output":
                values[node.name] = value
            return value

    with torch.no_grad():
        Watch(network).run(images)
    return values


def _grid_sizes(network: fx.GraphModule, input_size: int) -> dict[str, int]:
    """The width of every map in the graph."""
    first = next(module for module in network.modules() if isinstance(module, Layer))
    image = torch.zeros(1, _in_channels(first), input_size, input_size, dtype=first.weight.dtype)
    return {name: value.shape[-1] for name, value in activations(network, image).items()}
