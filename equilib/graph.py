"""A network as a graph of layers: tracing, what may stand in it, and the values inside it.

Data-free quantization changes weights in place of the function that they belong to, so it must know every way in which a
weight acts.  :func:`trace` and :func:`check_modules` refuse networks where it cannot know; :mod:`equilib.same_function` looks
at the result.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Real

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from equilib.checks import check_count, reason_of
from equilib.functional import as_layers
from equilib.plain import Crop, DiscMask, DiscMean, GroupMax, facts

LAYERS = (nn.Conv2d, nn.Linear)  # that data-free quantization rescales and rounds
WEIGHTED = (*LAYERS, nn.Conv1d, nn.Conv3d)  # that batch normalization folds into

# How hooks and parametrizations that compute a weight are taken off; the layer then holds the weight that it used.
_REMEDIES = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm",
    "parametrize": "torch.nn.utils.parametrize.remove_parametrizations",
    "prune": "torch.nn.utils.prune.remove",
}


class _Tracer(fx.Tracer):
    """Keeps equilib's own plain layers whole, and layers that inherit all they compute, so that passes recognise them."""

    def is_leaf_module(self, module, name):
        ours = isinstance(module, (Crop, DiscMask, DiscMean, GroupMax))
        return ours or super().is_leaf_module(module, name) or computes_as_its_class(module)


def computes_as_its_class(module: nn.Module) -> bool:
    """Whether the module is a convolution, linear layer or batch normalization that computes what torch's class does."""
    if any(name in vars(module) for name in ("forward", "_conv_forward")):
        return False
    kind = type(module)
    if isinstance(module, nn.Conv2d):
        return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    if isinstance(module, nn.Linear):
        return kind.forward is nn.Linear.forward
    return isinstance(module, _BatchNorm) and kind.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def trace(network: nn.Module, *, input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Copy and trace a plain network in evaluation mode; poolings that are called as functions become layers.

    Args:
        input_shape: (channels, height, width) of one image; by default found (:func:`find_input_shape`).

    Raises:
        ValueError: torch.fx cannot trace it, or a weight acts in ways that a copy of the layer would not show; the
            message names the layer and says what to do.
    """
    check_modules(network)
    try:
        copy = deepcopy(network).eval()
        graph = _Tracer().trace(copy)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx ({reason}); "
            "an equivariant network must be exported first (equilib.mobilenet.exported); in another one take out of its "
            "forward whatever depends on the values of the input, and begin with the module itself, not a TorchScript of it"
        ) from error
    traced = fx.GraphModule(copy, graph)
    _check_calls(traced)
    traced.meta.update(getattr(network, "meta", {}))
    if input_shape is not None:
        traced.meta["input_shape"] = tuple(input_shape)
    elif isinstance(getattr(getattr(network, "config", None), "input_size", None), int):
        traced.meta.setdefault("input_size", network.config.input_size)
    as_layers(traced, lambda: output_shapes(traced))
    for name, module in traced.named_modules():
        if isinstance(module, (nn.ReLU6, nn.Hardtanh)):
            raise ValueError(
                f"{name} is a ReLU6: scaling its input would change the function, since it clips at a fixed value. "
                "Replace it by ReLU (as MobileNetV2 usually is for data-free quantization) and train or fine-tune; or, without "
                "training, by torch.clamp(x, 0, 6), whose layer is then not equalized, and measure ranges "
                "(int8.calibrated_ranges)."
            )
    return traced


def check_modules(network: nn.Module) -> None:
    """Raise ValueError unless every layer's weight and bias are parameters of that layer alone, and no hook acts.

    Weight and spectral normalization, pruning masks and other parametrizations compute the weight anew at every call;
    a hook may change what a module takes or gives; a shared parameter would be changed in two places at once.
    """
    owners: dict[int, list[str]] = {}
    shared_by_layers = set()
    for name, module in network.named_modules():
        name = name or type(module).__name__
        if any(isinstance(value, nn.parameter.UninitializedTensorMixin) for value in module._parameters.values()):
            raise ValueError(f"{name} has no weights yet: run the network once on an image")
        _check_untouched(name, module)
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            owners.setdefault(id(parameter), []).append(f"{name}.{key}")
            if isinstance(module, WEIGHTED):
                shared_by_layers.add(id(parameter))
    for key in shared_by_layers:
        if len(owners[key]) > 1:
            first, second = owners[key][:2]
            layer, _, attribute = second.rpartition(".")
            raise ValueError(
                f"{first} and {second} are one parameter: changing it in one place would change the other. Give {layer} "
                f"its own: {attribute} = nn.Parameter({attribute}.detach().clone())"
            )


def _check_untouched(name: str, module: nn.Module) -> None:
    """Raise ValueError where something acts on the module's weights or values that its class does not show."""
    if parametrize.is_parametrized(module):
        raise ValueError(
            f"{name} computes its {next(iter(module.parametrizations))} by a parametrization; "
            f"make it a plain one first ({_REMEDIES['parametrize']})"
        )
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        origin = "prune" if type(hook).__module__ == "torch.nn.utils.prune" else type(hook).__name__
        if origin in _REMEDIES:
            raise ValueError(
                f"{name} computes its weight anew at every call; make it a plain one first ({_REMEDIES[origin]})"
            )
        raise ValueError(
            f"{name} has a forward hook, which may change what it computes; take it off first (handle.remove())"
        )
    if "forward" in vars(module):
        raise ValueError(f"{name} has a forward of its own in place of its class's; make a class of it")
    if isinstance(module, WEIGHTED) and any(key not in module._parameters for key in ("weight", "bias")):
        raise ValueError(
            f"{name} keeps its weight or bias as something else than a parameter, so that it cannot be changed for good; "
            "make it one: weight = nn.Parameter(weight.detach())"
        )


def _check_calls(traced: fx.GraphModule) -> None:
    """Raise ValueError where a layer is called twice, or its weight is read beside its calls."""
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    layers = {name: traced.get_submodule(name) for name in calls}
    layers = {name: module for name, module in layers.items() if isinstance(module, WEIGHTED)}
    for name, module in layers.items():
        if calls[name] > 1:
            raise ValueError(
                f"{name} is used {calls[name]} times: rescaling it at one place would change the others; give each use a module of its own (copy.deepcopy)"
            )
        if isinstance(module, LAYERS) and not computes_as_its_class(module):
            raise ValueError(
                f"{name} is a {type(module).__module__}.{type(module).__name__}, which computes something else than "
                "torch's own layer; convert it to a plain one first"
            )
    held = {id(parameter): name for name, module in layers.items() for parameter in module.parameters()}
    for node in traced.graph.nodes:
        name = held.get(id(attribute_of(traced, node))) if node.op == "get_attr" else None
        if name is not None:
            raise ValueError(
                f"the network also reads {node.target} beside calling {name}: changing it would change both; "
                "let the other place have a parameter of its own"
            )


def attribute_of(network: nn.Module, node: fx.Node):
    """The parameter, buffer or constant that a ``get_attr`` node reads."""
    return operator.attrgetter(node.target)(network)


def check_finite(network: fx.GraphModule) -> None:
    """Raise ValueError that names the first layer with a weight, bias or statistic that is NaN or infinite."""
    for name, layer in called_layers(network):
        known = facts(layer)
        for what, value in (
            ("weights", layer.weight),
            ("biases", layer.bias),
            ("statistics", known.mean),
            ("statistics", known.std),
        ):
            if value is not None and not torch.isfinite(value).all():
                raise ValueError(f"{name} has {what} that are NaN or infinite; was the training stable?")


def check_traced(network: nn.Module) -> None:
    """Raise ValueError, which says how to get one, unless this is a graph."""
    if not isinstance(network, fx.GraphModule):
        raise ValueError(f"{type(network).__name__} is not traced yet; give it to equilib.dfq.fold_batch_norm first")


def own_copy(network: fx.GraphModule, dtype: torch.dtype | None = None) -> fx.GraphModule:
    """A checked deep copy to work on, by default in its own precision."""
    check_traced(network)
    check_modules(network)
    _check_calls(network)
    check_finite(network)
    copy = deepcopy(network)
    return copy if dtype is None else copy.to(dtype)


def called_layers(network: fx.GraphModule) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the convolutions and linear layers that the graph calls, in its order."""
    for node in network.graph.nodes:
        module = module_of(network, node)
        if isinstance(module, LAYERS):
            yield node.target, module


def module_of(network: fx.GraphModule, node) -> nn.Module | None:
    """The module that a node calls; None where it calls none."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return network.get_submodule(node.target)
    return None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads a node's value; None where there are several or none."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def source_of(node: fx.Node) -> fx.Node | None:
    """The one node that a node reads, whether given by position or by name; None where it reads several or none."""
    sources = node.all_input_nodes
    return sources[0] if len(sources) == 1 else None


def is_relu(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a ReLU, as module, function or method."""
    functions = (F.relu, F.relu_, torch.relu, torch.relu_)
    called = (
        node.op == "call_function"
        and node.target in functions
        or node.op == "call_method"
        and node.target in ("relu", "relu_")
    )
    return called or isinstance(module_of(network, node), nn.ReLU)


def is_flatten(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node flattens, as module, function or method; what its axes become, its shape tells."""
    called = (
        node.op == "call_function"
        and node.target is torch.flatten
        or node.op == "call_method"
        and node.target == "flatten"
    )
    return called or isinstance(module_of(network, node), nn.Flatten)


ADDITIONS = {"call_function": (operator.add, operator.iadd, torch.add), "call_method": ("add", "add_", "__add__")}


def summands(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two nodes whose plain sum a node is; None for other nodes, added numbers and weighted sums (``alpha``)."""
    if node.target not in ADDITIONS.get(node.op, ()):
        return None
    operands = (*node.args, *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs))
    plain = len(operands) == 2 and node.kwargs.get("alpha", 1) == 1
    return operands if plain and all(isinstance(operand, fx.Node) for operand in operands) else None


def concatenated(node: fx.Node) -> tuple[fx.Node, ...] | None:
    """The nodes whose channels a node lays side by side; None for other nodes, and for concatenation along other axes."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat, torch.concatenate):
        return None
    given = dict(zip(("tensors", "dim"), node.args)) | dict(node.kwargs)
    parts = given.get("tensors")
    plain = given.get("dim", 0) == 1 and isinstance(parts, (tuple, list))
    return tuple(parts) if plain and all(isinstance(part, fx.Node) for part in parts) else None


def activations(network: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Every intermediate tensor of a traced network, by the name of its node, without gradients."""
    check_traced(network)
    values: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, Tensor) and node.op not in ("output", "get_attr"):
                values[node.name] = value
            return value

    with torch.no_grad():
        Watch(network).run(images)
    return values


# --- images of the network's own size ---

_SIZES = (64, 32, 96, 128, 224, 16, 28, 48, 95, 227, 256, 299, 384, 8)


def find_input_shape(network: nn.Module, size: int | tuple[int, int] | None = None) -> tuple[int, ...]:
    """(channels, height, width) of an image that the network takes, or (features,).

    From what was said at tracing, the network's configuration, its mask or its first layer; else by trying sizes.

    Args:
        size: of the images, where it is known: height and width, or both in one number; likewise for other numbers of axes.

    Raises:
        ValueError: no size that was tried runs; a size of another kind, or one that the network refuses.
    """
    known = getattr(network, "meta", {}).get("input_shape")
    if known is not None and size is None:
        return known
    tried, first = None, None
    for shape in _candidates(network, size, known):
        tried = tried or shape
        image = random_images(network, shape, 1)
        try:
            with torch.no_grad(), _evaluating(network):
                network.forward(image)  # a traced network's call would print what failed
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            first = first or error
            continue
        if known is None and hasattr(network, "meta"):
            network.meta["input_shape"] = shape
        return shape
    if size is not None:
        pixels = " x ".join(map(str, tried[1:]))
        raise ValueError(
            f"{type(network).__name__} takes no image of {pixels} pixels ({reason_of(first)}); "
            "give the size that it was built for"
        ) from first
    raise ValueError(
        f"{type(network).__name__} takes no single image that could be found; say its shape when folding: "
        "fold_batch_norm(network, input_shape=(channels, height, width))"
    )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """A trial must not leave its noise in the statistics of a batch normalization."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _sides(size: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """The sides of an image of so many axes, each from a number of its own or all from one."""
    if isinstance(size, Real):
        sides = (size,) * axes
    elif isinstance(size, tuple | list) and len(size) == axes > 0:
        sides = tuple(size)
    else:
        raise ValueError(f"the input's size must be a whole number, or a tuple of {axes} of them, got {size!r}")
    for pixels in sides:
        check_count("the input's size", pixels)
    return sides


def _candidates(network: nn.Module, size, known: tuple[int, ...] | None) -> Iterator[tuple[int, ...]]:
    """Shapes to try: of this size where it is given, with as many axes and channels as the known one's where that is."""
    if known is not None:
        if len(known) == 1:
            raise ValueError(f"{type(network).__name__} takes {known[0]} features, no images: leave the size out")
        yield (known[0], *_sides(size, len(known) - 1))
        return
    modules = list(network.modules())
    layers = [module for module in modules if isinstance(module, WEIGHTED)]
    if size is None and layers and isinstance(layers[0], nn.Linear):
        yield (layers[0].in_features,)
    channels = [module.in_channels for module in layers if not isinstance(module, nn.Linear)][:1]
    masks = [module.size for module in modules if isinstance(module, DiscMask)]
    configured = getattr(network, "meta", {}).get("input_size") or getattr(
        getattr(network, "config", None), "input_size", None
    )
    sizes = (
        [size] if size is not None else dict.fromkeys((*masks, *filter(None, [configured]), *_SIZES, *range(1, 129)))
    )
    axes = 1 if layers and isinstance(layers[0], nn.Conv1d) else 3 if layers and isinstance(layers[0], nn.Conv3d) else 2
    for count in dict.fromkeys((*channels, 3, 1, 4)):
        for one in sizes:
            yield (count, *_sides(one, axes))


def random_images(network: nn.Module, shape: tuple[int, ...], count: int) -> Tensor:
    """(count, *shape) of normal noise, always the same, in the network's precision and on its device."""
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = next(network.parameters(), noise.float())
    return noise.to(parameter)


def output_shapes(network: fx.GraphModule, size: int | tuple[int, int] | None = None) -> dict[str, torch.Size]:
    """The shape of every tensor in the graph, by the name of its node, for a batch of one image."""
    image = random_images(network, find_input_shape(network, size), 1)
    return {name: value.shape for name, value in activations(network, image).items()}
