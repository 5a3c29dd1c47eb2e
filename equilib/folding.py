"""Batch-norm folding: every batch normalization becomes part of the convolution or linear layer before it.

Where it reads channels that other normalizations read too (the concatenations of a DenseNet), it is split in two: what it
takes off (mean and variance) goes into the convolutions that wrote the channels, and what it puts on (gamma and beta)
stays where it was, as a 1 x 1 depthwise convolution.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from equilib.graph import (
    WEIGHTED,
    attribute_of,
    concatenated,
    find_input_shape,
    module_of,
    only_user,
    output_shapes,
    trace,
)
from equilib.plain import Crop, facts, note
from equilib.same_function import check_same_function

BY_IMAGE = (nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)
BY_IMAGE_FUNCTIONS = (F.group_norm, F.layer_norm, F.instance_norm, F.local_response_norm, F.rms_norm)


@dataclass(frozen=True)
class _Norm:
    """A batch normalization in the graph, module or function, with what it holds; each tensor (channels,) or None."""

    name: str
    source: fx.Node
    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @property
    def gamma(self) -> Tensor:
        return torch.ones_like(self.mean) if self.weight is None else self.weight.detach()

    @property
    def beta(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.bias is None else self.bias.detach()

    @property
    def unit(self) -> Tensor:
        """The standard deviation that it divides by."""
        return (self.variance + self.eps).sqrt()


def fold_batch_norm(network: nn.Module, *, input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Fold every batch normalization into the convolution or linear layer before it.

    w' = w gamma / sqrt(var + eps) and b' = beta + (b - mean) gamma / sqrt(var + eps): the same function in evaluation
    mode, which is checked on random images.  The layer keeps beta and |gamma| as the ``mean`` and ``std`` of its
    :class:`equilib.plain.LayerFacts`.

    A normalization of channels that convolutions wrote and only normalizations read, cropped or concatenated on the way,
    is split (see the top of this module).  The convolutions then write channels of mean 0 and deviation 1, which suits
    the one scale that concatenated tensors share; the 1 x 1 layer keeps beta and |gamma|.

    Args:
        network: plain torch modules.
        input_shape: (channels, height, width) of one image; by default found (:func:`equilib.graph.find_input_shape`).

    Raises:
        ValueError: a batch normalization does not follow a layer of its own, keeps no statistics or holds NaN; or
            anything that :func:`equilib.graph.trace` refuses.

    Warns:
        UserWarning: a normalization by the statistics of each image (group, layer norm) stays where it is.
    """
    traced = trace(network, input_shape=input_shape)
    dtypes = {name: parameter.dtype for name, parameter in traced.named_parameters()}
    # In double precision, as all of data-free quantization; rounded once at the end.
    folded = deepcopy(traced).double()
    gone, taken_off = set(), {}
    for node in list(folded.graph.nodes):
        norm = _norm_at(folded, node)
        if norm is None:
            continue
        _check_statistics(norm)
        writers = _writers(folded, norm.source)
        if len(norm.source.users) > 1 or len(writers or ()) > 1:
            _split(folded, node, norm, writers, taken_off)
        else:
            _fold(folded, node, norm)
        gone.update(_stack(node)[-1:])
    for node in list(folded.graph.nodes):
        if node.op == "get_attr" and not node.users:
            folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    _refuse_what_is_left(network, folded, gone)
    find_input_shape(traced)
    folded.meta.update(traced.meta)
    check_same_function(
        deepcopy(network).eval().double(), folded, "folding batch normalization", traced=deepcopy(traced).double()
    )
    return folded.to(next(iter(dtypes.values()), torch.float32))


def _norm_at(network: fx.GraphModule, node: fx.Node) -> _Norm | None:
    """What a node normalizes by; None where it is no batch normalization.

    Instance normalization that keeps statistics is one in evaluation mode: it normalizes by them, channel by channel.
    """
    module = module_of(network, node)
    if isinstance(module, _BatchNorm) or isinstance(module, _InstanceNorm) and module.track_running_stats:
        held = (module.running_mean, module.running_var, module.weight, module.bias)
        return _Norm(str(node.target), node.all_input_nodes[0], *held, module.eps)
    if node.op != "call_function" or node.target not in (F.batch_norm, torch.batch_norm):
        return None
    statistics, affine = ("running_mean", "running_var"), ("weight", "bias")
    order = (*statistics, *affine) if node.target is F.batch_norm else (*affine, *statistics)
    given = dict(zip(("input", *order, "training", "momentum", "eps"), node.args)) | dict(node.kwargs)
    name = _owner(node)
    if given.get("training"):
        raise ValueError(f"{name} normalizes by the statistics of each batch, so it cannot be folded; {_REMEDY}")
    tensors = {}
    for key in (*statistics, *affine):
        value = given.get(key)
        if isinstance(value, fx.Node):
            if value.op != "get_attr":
                raise ValueError(f"{name} computes its {key} on the way, so it cannot be folded; {_REMEDY}")
            value = attribute_of(network, value)
        tensors[key] = value
    return _Norm(name, given["input"], *tensors.values(), given.get("eps", 1e-5))


_REMEDY = "use nn.BatchNorm2d with track_running_stats=True behind the convolution, and train or fine-tune"


def _stack(node: fx.Node) -> list[str]:
    """The names of the modules that a node was called in, outermost first; its own last, where it calls one."""
    return [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]


def _owner(node: fx.Node) -> str:
    """The name of the innermost module that a function was called in, and the function's own."""
    stack = _stack(node)
    return f"{stack[-1]} ({node.name})" if stack else node.name


def _check_statistics(norm: _Norm) -> None:
    if norm.mean is None or norm.variance is None:
        raise ValueError(
            f"{norm.name} keeps no statistics (track_running_stats=False): it normalizes by those of each batch and "
            f"cannot be folded; {_REMEDY}"
        )
    if not all(torch.isfinite(value).all() for value in (norm.mean, norm.gamma / norm.unit, norm.beta)):
        raise ValueError(f"{norm.name} holds NaN or infinite values; was the training stable?")


def _refuse_order(norm: _Norm) -> None:
    raise ValueError(
        f"{norm.name} does not follow a convolution of its own, so it cannot be folded; order the layers as "
        "convolution (or linear), batch normalization, activation, with nothing else reading the convolution"
    )


def _fold(network: fx.GraphModule, node: fx.Node, norm: _Norm) -> None:
    source = norm.source
    layer = module_of(network, source)
    if not isinstance(layer, WEIGHTED) or only_user(source) is not node or _calls(network, source) > 1:
        _refuse_order(norm)
    if isinstance(layer, nn.Linear) and len(output_shapes(network)[source.name]) != 2:
        raise ValueError(
            f"{norm.name} does not follow a convolution of its own: {source.target} is linear along another axis than "
            "the channels that are normalized, so it cannot be folded; use a 1 x 1 convolution"
        )
    scale = norm.gamma / norm.unit
    _rescale(layer, scale, norm.beta - norm.mean * scale)
    if not torch.isfinite(layer.bias).all():
        raise ValueError(f"{norm.name} holds NaN or infinite values; was the training stable?")
    note(layer, mean=norm.beta.clone(), std=norm.gamma.abs())
    node.replace_all_uses_with(source)
    network.graph.erase_node(node)


def _calls(network: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.target == node.target for other in network.graph.nodes if other.op == "call_module")


def _rescale(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Let a layer give scale y + shift where it gave y, in place."""
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    layer.weight = nn.Parameter((layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))).detach())
    layer.bias = nn.Parameter((bias * scale + shift).detach())


# --- normalizations of channels that others read too ---


def _writers(network: fx.GraphModule, node: fx.Node) -> list[fx.Node] | None:
    """The convolutions that wrote a tensor's channels, in their order; None where something else did."""
    parts = concatenated(node)
    if parts is None and isinstance(module_of(network, node), Crop):
        parts = node.all_input_nodes
    if parts is None:
        return [node] if isinstance(module_of(network, node), nn.Conv2d) else None
    found = [_writers(network, part) for part in parts]
    return None if None in found else [writer for one in found for writer in one]


def _only_normalized(network: fx.GraphModule, node: fx.Node, affine: set[str]) -> bool:
    """Whether all that reads a tensor is a normalization or what became of one, perhaps cropped or concatenated before."""

    def reads(user):
        if user.name in affine or _norm_at(network, user) is not None:
            return True
        moves = concatenated(user) is not None or isinstance(module_of(network, user), Crop)
        return moves and _only_normalized(network, user, affine)

    return all(reads(user) for user in node.users)


def _split(
    network: fx.GraphModule, node: fx.Node, norm: _Norm, writers: list[fx.Node] | None, taken_off: dict[str, tuple]
) -> None:
    """Put the normalization into the convolutions that wrote the channels, and gamma and beta into a layer of their own.

    Args:
        writers: of the channels that are normalized.
        taken_off: for each layer that this has been done with, by its node's name, mean and deviation that were taken
            off its channels; for each new layer, nothing.  Changed in place.
    """
    if writers is None or any(_calls(network, one) > 1 for one in writers):
        _refuse_order(norm)
    affine = {name for name, known in taken_off.items() if not known}
    if not all(_only_normalized(network, one, affine) for one in writers):
        _refuse_order(norm)
    layers = [module_of(network, one) for one in writers]
    sizes = [layer.out_channels for layer in layers]
    for one, layer, mean, unit in zip(writers, layers, norm.mean.split(sizes), norm.unit.split(sizes), strict=True):
        if one.name not in taken_off:
            _rescale(layer, 1 / unit, -mean / unit)
            note(layer, mean=torch.zeros_like(mean), std=torch.ones_like(unit))
            taken_off[one.name] = (mean, unit)
    # The same channels, cropped, have slightly other statistics: what is left of the difference stays here.
    mean, unit = (torch.cat([taken_off[one.name][i] for one in writers]) for i in range(2))
    channels = len(mean)
    layer = nn.Conv2d(channels, channels, 1, groups=channels).double()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    scale = norm.gamma / norm.unit
    _rescale(layer, scale * unit, norm.beta + (mean - norm.mean) * scale)
    note(layer, mean=norm.beta.clone(), std=norm.gamma.abs(), **_common_fields(layers))
    name = f"{node.name}_affine"
    network.add_submodule(name, layer)
    with network.graph.inserting_after(node):
        inserted = network.graph.call_module(name, (norm.source,))
    taken_off[inserted.name] = ()
    node.replace_all_uses_with(inserted)
    network.graph.erase_node(node)


def _common_fields(layers: list[nn.Module]) -> dict:
    """The partition into fields that all layers share, and the rotation of their outputs; nothing where they differ."""
    known = [facts(layer) for layer in layers]
    turns = [one.quarter_turn and replace(one.quarter_turn, inputs=False) for one in known]
    common = {"field_size": known[0].field_size, "quarter_turn": turns[0]}
    same = all((one.field_size, turn) == tuple(common.values()) for one, turn in zip(known, turns))
    return common if same else {}


def _refuse_what_is_left(network: nn.Module, folded: fx.GraphModule, gone: set[str]) -> None:
    """Nothing that normalizes stays unnoticed: refuse what keeps statistics, warn of what takes those of each image."""
    keeping = {name for name, module in network.named_modules() if getattr(module, "running_mean", None) is not None}
    for node in folded.graph.nodes:
        stack = _stack(node)
        owners = [name for name in stack if name in keeping - gone]
        if owners:
            raise ValueError(
                f"{owners[0]} ({type(network.get_submodule(owners[0])).__name__}) normalizes in a way of its own, which "
                f"cannot be folded; {_REMEDY}"
            )
        module = module_of(folded, node)
        if (
            isinstance(module, (*BY_IMAGE, _InstanceNorm))
            or node.op == "call_function"
            and node.target in BY_IMAGE_FUNCTIONS
        ):
            name = node.target if module is not None else _owner(node)
            warnings.warn(
                f"{name} normalizes each image by its own statistics: it cannot be folded and stays as it is, and "
                "integer kernels do not have it",
                stacklevel=3,
            )
