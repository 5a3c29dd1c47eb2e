"""The range of every activation: from batch-norm statistics alone, or from calibration patches.

Tensors between which values only move (a crop, a concatenation) take one range together: then a common scale serves all
of them, and integer kernels copy bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from equilib.bias_correction import takes_means
from equilib.checks import check_count, check_finite_number, check_images
from equilib.graph import (
    LAYERS,
    activations,
    check_traced,
    concatenated,
    is_flatten,
    is_relu,
    module_of,
    source_of,
    summands,
)
from equilib.plain import Crop, DiscMask, DiscMean, GroupMax, facts

# In evaluation mode these give values that they were given.
SELECTING = (Crop, GroupMax, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Identity, nn.Flatten)


@dataclass(frozen=True)
class Distribution:
    """What is known of a tensor without data.

    Attributes:
        low, high: the range to be represented.
        mean, std: per channel; None where unknown (the input, pooled tensors), when only the range counts.
    """

    low: float
    high: float
    mean: Tensor | None = None
    std: Tensor | None = None


def activation_ranges(
    network: fx.GraphModule, input_range: tuple[float, float], *, deviations: float = 6.0
) -> dict[str, Distribution]:
    """The range of every activation, from batch-norm statistics alone (Nagel et al. 2019, section 4.2.1).

    A convolution's output is taken as Gaussian with mean beta and standard deviation |gamma|; its range spans
    beta ± 6 |gamma| over all channels, and starts at 0 behind a ReLU.  In a residual sum means and variances add.  The
    input's range is known.  Masking includes 0; means and maxima stay within the range of what they pool; a concatenation
    has the range of all its parts together.

    Args:
        network: folded, and equalized or not.
        input_range: of the normalised images, see :func:`equilib.pcam.input_range`.
        deviations: how many standard deviations count.

    Returns:
        For each node of the graph that is an activation, its distribution.  The logits have none: they stay real.

    Raises:
        ValueError: an empty or infinite input range; a layer without statistics, or an operation with no rule; the message names it and the way out.
    """
    check_traced(network)
    check_finite_number("deviations", deviations, above=0)
    try:
        low, high = map(float, input_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:  # with NaN, too
        raise ValueError(
            f"input_range must be two finite numbers, (lowest, highest) of the normalised images, got {input_range}"
        )
    known: dict[str, Distribution] = {}
    for node in network.graph.nodes:
        if node.op == "output":
            continue
        found = Distribution(low, high) if node.op == "placeholder" else _rule(network, node, known, deviations)
        if found is not None:
            if not (np.isfinite(found.low) and np.isfinite(found.high)):
                raise ValueError(f"the range of {node.target} is {found.low} … {found.high}; was the training stable?")
            known[node.name] = found
        elif not is_final(node):
            layer = isinstance(module_of(network, node), LAYERS)
            way = (
                "put a batch normalization behind it, or leave out what follows if it is the last (a softmax)"
                if layer
                else "normalise the images outside of the network, if that is what it is for"
                if node.op == "get_attr"
                else "call one that has (ReLU, a pooling, Flatten)"
            )
            raise ValueError(
                f"{_described(network, node)} has no batch-norm statistics and no rule to take a range from; {way}, or "
                "measure ranges on a few images (int8.calibrated_ranges of the network that is quantized) and pass them to "
                "quantize(…, ranges=…)"
            )
    return known


def _described(network: fx.GraphModule, node: fx.Node) -> str:
    module = module_of(network, node)
    return f"{node.target} ({type(module).__name__})" if module is not None else f"{node.name} (a {node.op})"


def is_final(node: fx.Node) -> bool:
    """Whether a node gives the network's output and nothing else."""
    return all(user.op == "output" for user in node.users)


def _gaussian(mean: Tensor, std: Tensor, deviations: float) -> Distribution:
    return Distribution((mean - deviations * std).min().item(), (mean + deviations * std).max().item(), mean, std)


def _rule(network: fx.GraphModule, node: fx.Node, known: dict, deviations: float) -> Distribution | None:
    """The range of what a node gives, from those of what it reads; None where there is no rule."""
    operands = summands(node)
    if operands is not None:
        both = [known.get(operand.name) for operand in operands]
        return None if None in both else _add_rule(*both, deviations)
    parts = concatenated(node)
    if parts is not None:
        found = [known.get(part.name) for part in parts]
        return None if None in found else _hull(found)
    module = module_of(network, node)
    if isinstance(module, LAYERS):
        stated = facts(module)
        return None if stated.mean is None else _gaussian(stated.mean, stated.std, deviations)
    source = source_of(node)
    source = None if source is None else known.get(source.name)
    if source is None:
        return None
    low, high = source.low, source.high
    if is_relu(network, node):
        return Distribution(0.0, max(high, 0.0))
    if isinstance(module, DiscMask):
        return Distribution(min(low, 0.0), max(high, 0.0))
    if isinstance(module, nn.AvgPool2d):
        return _mean_rule(module, low, high)
    if isinstance(module, (DiscMean, nn.AdaptiveAvgPool2d, *SELECTING)) or is_flatten(network, node):
        return Distribution(low, high)
    return None


def _mean_rule(pool: nn.AvgPool2d, low: float, high: float) -> Distribution:
    """Means stay within the range; zeros may be mixed in at the border, and another divisor stretches it."""
    if takes_means(pool):
        return Distribution(low, high)
    if pool.divisor_override is not None:
        kernel = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * 2
        low, high = (value * kernel[0] * kernel[1] / pool.divisor_override for value in (low, high))
    return Distribution(min(low, 0.0), max(high, 0.0))


def _add_rule(a: Distribution, b: Distribution, deviations: float) -> Distribution:
    if a.mean is None or b.mean is None:
        return Distribution(a.low + b.low, a.high + b.high)
    return _gaussian(a.mean + b.mean, (a.std.square() + b.std.square()).sqrt(), deviations)


def _hull(ranges: Iterable[Distribution]) -> Distribution:
    """The least range that holds all of them."""
    ranges = list(ranges)
    return Distribution(min(one.low for one in ranges), max(one.high for one in ranges))


def shared_ranges(network: fx.GraphModule, ranges: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """The ranges with one for all tensors between which values only move (a concatenation, its parts, their crops).

    Concatenated tensors must have one scale, and what is cropped has that of its source.  So all of them take the range
    that holds the ranges of all.
    """
    together: dict[str, set[str]] = {}
    for node in network.graph.nodes:
        parts = concatenated(node)
        if parts is None and isinstance(module_of(network, node), Crop):
            parts = node.all_input_nodes
        names = {node.name, *(part.name for part in parts or ())} & set(ranges)
        joined = names.union(*(together.get(name, ()) for name in names))
        together |= dict.fromkeys(joined if parts else (), joined)
    return dict(ranges) | {name: _hull(ranges[one] for one in joined) for name, joined in together.items()}


def calibrated_ranges(
    network: fx.GraphModule, images: Tensor, *, outliers: float = 0.0, batch_size: int = 64
) -> dict[str, Distribution]:
    """The range of every activation on calibration patches: what data-free ranges are compared with.

    Args:
        network: folded, and equalized or not.
        images: (B, C, H, W), normalised.
        outliers: share of values to leave out at either end, in each batch; 0 takes the least and the largest.

    Returns:
        As :func:`activation_ranges`, without means and standard deviations.
    """
    check_count("batch_size", batch_size)
    if not 0 <= outliers < 0.5:
        raise ValueError(f"outliers must lie in [0, 0.5), got {outliers}")
    check_images(images)
    seen: dict[str, Distribution] = {}
    for chunk in images.split(batch_size):
        for name, value in activations(network, chunk).items():
            if not value.is_floating_point():
                continue
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} gives NaN or infinite values on these images")
            low, high = _quantiles(value, outliers)
            before = seen.get(name, Distribution(low, high))
            seen[name] = Distribution(min(low, before.low), max(high, before.high))
    return seen


def _quantiles(value: Tensor, outliers: float) -> tuple[float, float]:
    flat = value.flatten()
    rank = int(outliers * flat.numel())
    if rank == 0:
        return flat.min().item(), flat.max().item()
    return flat.kthvalue(rank + 1).values.item(), flat.kthvalue(flat.numel() - rank).values.item()
