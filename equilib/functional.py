"""Functions that a network calls where it could call a layer, as these layers: every later step then knows one form of each.

``x.mean((2, 3))``, ``F.adaptive_avg_pool2d(x, 1)`` and ``nn.AdaptiveAvgPool2d(1)`` are one pooling.  Of functions only the
layers' own names are known to equalization, to the rules for ranges and to integer kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import fx, nn
from torch.nn import functional as F

Shapes = Mapping[str, torch.Size]


def _pool(kind: type[nn.Module]) -> Callable[[dict], nn.Module]:
    def layer(given: dict) -> nn.Module:
        sizes = {name: tuple(value) if isinstance(value, (tuple, list)) else value for name, value in given.items()}
        return kind(**sizes | {"stride": sizes.get("stride") or None})  # no stride may be an empty list

    return layer


def _dropout(given: dict) -> nn.Module | None:
    return None if given["training"] else nn.Identity()


LAYER_OF = {
    F.avg_pool2d: _pool(nn.AvgPool2d),
    F.max_pool2d: _pool(nn.MaxPool2d),
    torch.max_pool2d: _pool(nn.MaxPool2d),
    F.adaptive_avg_pool2d: lambda given: nn.AdaptiveAvgPool2d(**given),
    F.adaptive_max_pool2d: lambda given: nn.AdaptiveMaxPool2d(**given),
    F.relu6: lambda given: nn.ReLU6(),
    F.hardtanh: lambda given: nn.Hardtanh(given["min_val"], given["max_val"]),
    F.dropout: _dropout,
    F.dropout1d: _dropout,
    F.dropout2d: _dropout,
}

# Functions and methods that reduce axes, and the layer that does so to height and width.
OVER_ALL = {
    "mean": nn.AdaptiveAvgPool2d,
    torch.mean: nn.AdaptiveAvgPool2d,
    "amax": nn.AdaptiveMaxPool2d,
    torch.amax: nn.AdaptiveMaxPool2d,
}
RESHAPING = ("view", "reshape", torch.reshape)
SHAPED = (*OVER_ALL, *RESHAPING, F.avg_pool2d, F.max_pool2d)  # where it takes shapes to tell
# What torch.fx writes for arguments of a pooling that were not given.
UNSAID = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}


def as_layers(traced: fx.GraphModule, shapes: Callable[[], Shapes]) -> None:
    """Put layers in place of poolings, reductions over all pixels, flattening and idle dropout that are called as functions.

    In place.  A call whose numbers are known only when it runs stays as it is, and so does a dropout that always acts.

    Args:
        traced: in evaluation mode.
        shapes: gives the shape of every tensor for a batch of one, by the name of its node; asked where one matters, and may
            raise ValueError.
    """
    nodes = [node for node in traced.graph.nodes if node.op in ("call_function", "call_method")]
    known: dict[str, torch.Size] = {}
    if any(node.target in SHAPED for node in nodes):
        with suppress(ValueError):  # no image that the network takes was found: whoever needs one says so
            known |= shapes()
    for node in nodes:
        layers = _layers(traced, node, known)
        value = _source(node) if layers else node
        for layer in layers:
            name = f"{node.name}_{type(layer).__name__}"
            traced.add_submodule(name, layer)
            with traced.graph.inserting_before(node):
                value = traced.graph.call_module(name, (value,))
        if layers:
            known[value.name] = known.get(node.name, torch.Size())
            node.replace_all_uses_with(value)
            traced.graph.erase_node(node)
    # The sizes that only a flattening asked for; what is left is in use, or a call whose answer nobody reads.
    for node in reversed(traced.graph.nodes):
        if not node.users and _is_size(node):
            traced.graph.erase_node(node)
    traced.recompile()


def _layers(traced: fx.GraphModule, node: fx.Node, shapes: Shapes) -> tuple[nn.Module, ...]:
    """The layers that compute what a node does, in their order; none where there are none."""
    if node.target in (F.avg_pool2d, F.max_pool2d) and _over_its_own_size(node, shapes):
        return (OVER_ALL["mean" if node.target is F.avg_pool2d else "amax"](1),)
    if node.op == "call_function" and node.target in LAYER_OF:
        found = node.normalized_arguments(traced, normalize_to_only_use_kwargs=True)
        given = {} if found is None else {key: value for key, value in found.kwargs.items() if key != "input"}
        # What the layer has no word for is "inplace": a copy gives the same values.
        given.pop("inplace", None)
        told = found is not None and len(node.all_input_nodes) == 1 and not given.get("return_indices")
        layer = LAYER_OF[node.target](given) if told else None
        return () if layer is None else (layer.eval(),)
    if node.target in OVER_ALL:
        return _over_all(node, shapes)
    if node.target in RESHAPING and _flattens(node, shapes):
        return (nn.Flatten(),)
    return ()


def _over_its_own_size(node: fx.Node, shapes: Shapes) -> bool:
    """Whether a pooling takes its window's size, and nothing else, from the height and width of what it pools."""
    given = dict(zip(("input", "kernel_size"), node.args)) | dict(node.kwargs)
    window = given.pop("kernel_size", None)
    asked = window if isinstance(window, (tuple, list)) else [window]
    if len(node.args) > 2 or not all(isinstance(one, fx.Node) and _is_size(one) for one in asked):
        return False
    before, after = (tuple(shapes.get(one.name, ())) for one in (given.pop("input"), node))
    return given.items() <= UNSAID.items() and len(before) == 4 and after == (*before[:2], 1, 1)


def _over_all(node: fx.Node, shapes: Shapes) -> tuple[nn.Module, ...]:
    """The pooling for a mean or maximum over the pixels of (B, C, H, W), and a flattening where their axes go."""
    given = dict(zip(("input", "dim", "keepdim"), node.args)) | dict(node.kwargs)
    axes = given.get("dim", given.get("axis"))
    if len(node.all_input_nodes) != 1 or given.get("dtype") is not None or not isinstance(axes, (tuple, list)):
        return ()
    if len(shapes.get(node.all_input_nodes[0].name, ())) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        return ()
    pool = OVER_ALL[node.target](1)
    return (pool,) if given.get("keepdim", False) else (pool, nn.Flatten())


def _flattens(node: fx.Node, shapes: Shapes) -> bool:
    """Whether a new shape is (batch, all the rest)."""
    source, sizes = _source(node), [*node.args[1:], *(value for key, value in node.kwargs.items() if key != "input")]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(sizes) != 2 or not isinstance(source, fx.Node):
        return False
    rows, columns = sizes
    counted = rows == -1 and isinstance(columns, int) and columns != -1
    counting = _batch_of(rows) if isinstance(rows, fx.Node) else None
    asked = counting is not None and shapes.get(counting.name, ())[:1] == (1,) and isinstance(columns, int)
    before, after = (shapes.get(one.name, torch.Size()) for one in (source, node))
    return (counted or asked) and len(before) > 1 and before[0] == 1 and after == (1, before.numel())


def _source(node: fx.Node):
    return node.args[0] if node.args else node.kwargs.get("input")


def _batch_of(node: fx.Node) -> fx.Node | None:
    """The tensor whose first size a node is; None where it is no such size."""
    if (node.op, node.target, node.args[1:]) == ("call_method", "size", (0,)):
        return node.args[0]
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        whole = node.args[0]
        if isinstance(whole, fx.Node) and _is_size(whole):
            return whole.args[0]
    return None


def _is_size(node: fx.Node) -> bool:
    """Whether a node is the shape of a tensor, or one of its numbers."""
    if node.op == "call_method" and node.target == "size":
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] == "shape"
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _is_size(node.args[0])
