"""Bias correction: the expected error of rounded weights, taken off the biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from equilib.graph import (
    LAYERS,
    concatenated,
    is_flatten,
    is_relu,
    module_of,
    output_shapes,
    own_copy,
    source_of,
    summands,
)
from equilib.plain import Crop, DiscMask, DiscMean, facts


@dataclass(frozen=True)
class BiasCorrectionReport:
    """What bias correction did: the expected shift of each layer's output, taken off; layers left alone, and why."""

    corrected: dict[str, Tensor]
    skipped: dict[str, str]


def correct_bias(
    network: fx.GraphModule,
    rounded: Callable[[nn.Module], Tensor],
    input_size: int | tuple[int, int],
    *,
    input_mean: float = 0.0,
) -> tuple[fx.GraphModule, BiasCorrectionReport]:
    """Take the expected error of rounded weights off the biases (Nagel et al. 2019, section 4.2).

    With eps = rounded(W) - W, an input of mean E[x] shifts the output by eps E[x], and b <- b - eps E[x].  E[x] comes
    from batch-norm statistics: behind a ReLU it is that of a clipped Gaussian, |gamma| phi(beta / |gamma|) + beta
    Phi(beta / |gamma|); in a residual sum means and variances add; pooling and cropping keep it; a concatenation has those
    of its parts.  At a zero-padded border a tap counts only for the share of positions where it lies inside the map.

    Args:
        network: folded; equalized and absorbed or not.
        rounded: the weight of a layer after rounding, such as :func:`equilib.int8.rounded_weight`.
        input_size: of the images, in pixels: height and width, or both in one number.
        input_mean: of the normalised images.

    Returns:
        The new network, still with the weights it had, and a report.
    """
    network = own_copy(network)
    shapes = output_shapes(network, input_size)
    known: dict[str, _Moments] = {}
    corrected, skipped = {}, {}
    for node in network.graph.nodes:
        module = module_of(network, node)
        source = source_of(node)
        if node.op == "placeholder":
            known[node.name] = _Moments(torch.tensor(input_mean), None)
        elif isinstance(module, LAYERS):
            shape = shapes.get(source.name)
            reason = _cannot_correct(module, known.get(source.name), shape)
            if reason:
                skipped[node.target] = reason
            else:
                error = (rounded(module) - module.weight.detach()).to(module.weight.dtype)
                shift = _expected_shift(module, error, known[source.name].mean, tuple(shape[2:]))
                module.bias.data = module.bias.data - shift
                corrected[node.target] = shift
            if facts(module).mean is not None:
                known[node.name] = _Moments(facts(module).mean, facts(module).std)
        else:
            behind = _moments_behind(network, node, known, shapes)
            if behind is not None:
                known[node.name] = behind
    return network, BiasCorrectionReport(corrected, skipped)


@dataclass(frozen=True)
class _Moments:
    """Mean and standard deviation of each channel; the latter None where it is not known (the input)."""

    mean: Tensor
    std: Tensor | None


def _cannot_correct(layer: nn.Module, moments: _Moments | None, shape: torch.Size | None) -> str:
    if moments is None or shape is None:
        return "the mean of its input is not known (behind a maximum, or a function without a rule)"
    if layer.bias is None:
        return "the layer has no bias"
    if len(shape) != (2 if isinstance(layer, nn.Linear) else 4):
        return "it is linear along another axis than the channels"
    if moments.mean.ndim and len(moments.mean) != in_channels(layer):
        return "its inputs are other channels than those whose means are known"
    return ""


def _moments_behind(network: fx.GraphModule, node: fx.Node, known: dict, shapes: dict) -> _Moments | None:
    """The moments behind an activation, a pooling or a residual sum; None where there is no rule."""
    operands = summands(node)
    if operands is not None:
        first, second = (known.get(operand.name) for operand in operands)
        if first is None or second is None or shapes[operands[0].name] != shapes[operands[1].name]:
            return None
        both = first.std is not None and second.std is not None
        std = (first.std.square() + second.std.square()).sqrt() if both else None
        return _Moments(first.mean + second.mean, std)
    parts = concatenated(node)
    if parts is not None:
        return _laid_side_by_side([known.get(part.name) for part in parts])
    source = source_of(node)
    moments = None if source is None else known.get(source.name)
    if moments is None:
        return None
    module = module_of(network, node)
    if is_relu(network, node):
        return None if moments.std is None else _Moments(*clipped_gaussian(moments.mean, moments.std))
    before, after = shapes.get(source.name), shapes.get(node.name)
    if is_flatten(network, node) and before is not None and after is not None:
        if len(after) != 2 or len(before) < 2 or not moments.mean.ndim:
            return None if moments.mean.ndim else moments
        pixels = after[1] // before[1]  # each channel's pixels stand side by side
        return _Moments(*(None if m is None else m.repeat_interleave(pixels) for m in (moments.mean, moments.std)))
    if isinstance(module, nn.AvgPool2d) and not takes_means(module):
        return None
    if isinstance(module, (nn.Identity, nn.Dropout, Crop, DiscMask, DiscMean, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return moments
    return None


def _laid_side_by_side(parts: list[_Moments | None]) -> _Moments | None:
    """The moments of a concatenation; None where those of a part are not known channel by channel."""
    if any(part is None or not part.mean.ndim for part in parts):
        return None
    stds = [part.std for part in parts]
    std = None if any(std is None for std in stds) else torch.cat(stds)
    return _Moments(torch.cat([part.mean for part in parts]), std)


def in_channels(layer: nn.Module) -> int:
    """How many channels (or features) a convolution or linear layer reads."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def takes_means(pool: nn.AvgPool2d) -> bool:
    """Whether a pooling gives the mean of what it sees: no zeros mixed in, and no other divisor."""
    return pool.padding in (0, (0, 0), [0, 0]) and pool.divisor_override is None


def pads_with_zeros(layer: nn.Module) -> bool:
    """Whether a layer sees zeros beyond the border; other kinds of padding repeat what stands inside."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return any(k > 1 for k in layer.kernel_size) if layer.padding == "same" else any(p != 0 for p in layer.padding)


def clipped_gaussian(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of max(0, x) for a Gaussian x."""
    z = mean / std.clamp_min(torch.finfo(std.dtype).tiny)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(z)
    first = std * density + mean * below
    second = (mean.square() + std.square()) * below + mean * std * density
    return first, (second - first.square()).clamp_min(0).sqrt()


def _expected_shift(layer: nn.Module, error: Tensor, mean: Tensor, size: tuple[int, ...]) -> Tensor:
    """eps E[x], (out_channels,)."""
    if pads_with_zeros(layer):
        error = error * _tap_coverage(layer, size).to(error)
    return response_to_constant(layer, mean.to(error).expand(in_channels(layer)), error)


def _tap_coverage(conv: nn.Conv2d, size: tuple[int, ...]) -> Tensor:
    """The share of output positions for which each tap of the filter lies inside the map, (k, k)."""
    taps = torch.eye(math.prod(conv.kernel_size)).view(-1, 1, *conv.kernel_size)
    inside = nn.functional.conv2d(torch.ones(1, 1, *size), taps, None, conv.stride, conv.padding, conv.dilation)
    return inside.mean((0, 2, 3)).view(conv.kernel_size)


def response_to_constant(layer: nn.Module, constant: Tensor, weight: Tensor | None = None) -> Tensor:
    """W c: the layer's linear part on an image that is constant in space, (out_channels,).

    Args:
        constant: (in_channels,).
        weight: another weight in place of the layer's.
    """
    weight = layer.weight.detach() if weight is None else weight
    grouped = (weight.flatten(2).sum(2) if weight.ndim > 2 else weight).unflatten(0, (getattr(layer, "groups", 1), -1))
    return torch.einsum("goi,gi->go", grouped, constant.unflatten(0, (grouped.shape[0], -1))).flatten()
