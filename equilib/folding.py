"""Batch-norm folding: every batch normalization becomes part of the convolution or linear layer before it."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from equilib.graph import (
    WEIGHTED,
    attribute_of,
    check_same_function,
    find_input_shape,
    module_of,
    only_user,
    output_shapes,
    trace,
)
from equilib.plain import note

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


def fold_batch_norm(network: nn.Module, *, input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Fold every batch normalization into the convolution or linear layer before it.

    w' = w gamma / sqrt(var + eps) and b' = beta + (b - mean) gamma / sqrt(var + eps): the same function in evaluation
    mode, which is checked on random images.  The layer keeps beta and |gamma| as the ``mean`` and ``std`` of its
    :class:`equilib.plain.LayerFacts`.

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
    gone = set()
    for node in list(folded.graph.nodes):
        norm = _norm_at(folded, node)
        if norm is not None:
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


def _fold(network: fx.GraphModule, node: fx.Node, norm: _Norm) -> None:
    source = norm.source
    layer = module_of(network, source)
    if norm.mean is None or norm.variance is None:
        raise ValueError(
            f"{norm.name} keeps no statistics (track_running_stats=False): it normalizes by those of each batch and "
            f"cannot be folded; {_REMEDY}"
        )
    calls = sum(other.target == source.target for other in network.graph.nodes if other.op == "call_module")
    if not isinstance(layer, WEIGHTED) or only_user(source) is not node or calls > 1:
        raise ValueError(
            f"{norm.name} does not follow a convolution of its own, so it cannot be folded; order the layers as "
            "convolution (or linear), batch normalization, activation, with nothing else reading the convolution"
        )
    if isinstance(layer, nn.Linear) and len(output_shapes(network)[source.name]) != 2:
        raise ValueError(
            f"{norm.name} does not follow a convolution of its own: {source.target} is linear along another axis than "
            "the channels that are normalized, so it cannot be folded; use a 1 x 1 convolution"
        )
    ones = torch.ones_like(norm.mean)
    gamma, beta = (ones if norm.weight is None else norm.weight), (0 * ones if norm.bias is None else norm.bias)
    scale = gamma * (norm.variance + norm.eps).rsqrt()
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    folded_bias = beta + (bias - norm.mean) * scale
    if not (torch.isfinite(scale).all() and torch.isfinite(folded_bias).all()):
        raise ValueError(f"{norm.name} holds NaN or infinite values; was the training stable?")
    layer.weight = nn.Parameter((layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))).detach())
    layer.bias = nn.Parameter(folded_bias.detach())
    note(layer, mean=beta.detach().clone(), std=gamma.detach().abs())
    node.replace_all_uses_with(source)
    network.graph.erase_node(node)


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
