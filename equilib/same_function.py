"""Whether two networks are one function, and where they begin to differ: the check of what folding and equalization promise."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from equilib.graph import activations, find_input_shape, only_user, random_images


def check_same_function(before: nn.Module, after: fx.GraphModule, what: str, *, traced: fx.GraphModule) -> None:
    """Raise ValueError unless two networks give the same outputs for random images, up to rounding.

    In double precision, on images of the network's own size; where the network computes in single precision whatever
    it is given, in that, with a wider tolerance.

    Args:
        before, after: in double precision.  Their copies are run, they stay as they are.
        what: was done to the network, for the message.
        traced: the graph of ``before``, to find the layer where a difference begins.
    """
    shape = find_input_shape(traced)
    try:
        expected, tolerance = _outputs(before, shape), 1e-7
    except RuntimeError:
        before, after, traced = (deepcopy(network).float() for network in (before, after, traced))
        expected, tolerance = _outputs(before, shape), 1e-3
    actual = _outputs(after, shape)
    if not all(torch.isfinite(value).all() for value in expected):
        raise ValueError(f"{_first_not_finite(traced, shape)} gives NaN or infinite values; was the training stable?")
    scale = max((value.abs().max().item() for value in expected if value.numel()), default=0.0)
    worst = max(((a - b).abs().max().item() for a, b in zip(expected, actual) if a.numel()), default=0.0)
    if not worst <= tolerance * (scale or 1.0):
        raise ValueError(
            f"{what} would change the function of the network, by {worst / (scale or 1.0):.0e} of its largest output; "
            f"the difference begins at {_first_difference(traced, after, shape, tolerance)}. That layer does not act as "
            "its class says: replace it by a plain one, or leave this step out"
        )


def _outputs(network: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    # What draws at random (a dropout that is always on) draws the same for both networks.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = tree_leaves(network(random_images(network, shape, 2)))
    return [value.double() for value in values if isinstance(value, Tensor) and not value.is_complex()]


def _first_not_finite(traced: fx.GraphModule, shape: tuple[int, ...]) -> str:
    values = activations(traced, random_images(traced, shape, 2))
    names = {node.name: str(node.target) for node in traced.graph.nodes}
    return next((names[name] for name, value in values.items() if not torch.isfinite(value).all()), "the network")


def _first_difference(before: fx.GraphModule, after: fx.GraphModule, shape: tuple[int, ...], tolerance: float) -> str:
    """The first node whose channels are not positive multiples of what they were (which rescaling makes of them)."""
    images = random_images(before, shape, 2)
    old, new = activations(before, images), activations(after, images)
    for node in before.graph.nodes:
        if node.name not in old or node.name not in new or old[node.name].shape != new[node.name].shape:
            continue
        follower = only_user(node)
        if follower is not None and follower.name not in new:
            continue  # a batch normalization behind it was folded into it
        if old[node.name].ndim < 2:
            continue
        a, b = (values[node.name].double().transpose(0, 1).flatten(1) for values in (old, new))
        factor = ((a * b).sum(1) / a.square().sum(1).clamp_min(1e-300)).clamp_min(0)
        error = (b - factor[:, None] * a).abs().amax(1)
        if (error > 10 * tolerance * b.abs().amax(1).clamp_min(1e-300)).any():
            return str(node.target)
    return "the output"
