"""INT8: activation ranges without data, fake quantization, export to ONNX, and running it.

One graph serves for simulation and for deployment: :func:`quantize` puts fake quantizers into the folded network, and
:func:`export_onnx` writes that network with QuantizeLinear/DequantizeLinear nodes and int8 weights, which onnxruntime runs
on integer kernels.  By default weights are signed and symmetric, activations unsigned and asymmetric, both per tensor
(the paper's W8A8); :class:`Scheme` has the alternatives.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from equilib.dfq import Layer, activations
from equilib.plain import DiscMask, DiscMean, GroupMax
from equilib.results import has_vnni, written_whole

# In evaluation mode these give values that they were given.
SELECTING = (GroupMax, nn.MaxPool2d, nn.Dropout, nn.Identity, nn.Flatten)


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers.

    Attributes:
        weight_bits, activation_bits: 2 to 16; at most 8 can be exported.  Weights of 7 bits suit x86 processors without
            VNNI in other runtimes than :func:`session`: sums of two products then fit into 16 bits.
        per_channel: a scale for each output channel of the weights, not one for the tensor.
        symmetric_weights: integers from -m to m, with 0 for 0; otherwise the range from the least to the largest weight.
        symmetric_activations: likewise for activations; of what a ReLU gives, half of the levels are lost then.

    Raises:
        ValueError: a number of bits out of range.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = False
    symmetric_weights: bool = True
    symmetric_activations: bool = False

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise ValueError(f"{name} must lie between 2 and 16, got {getattr(self, name)}")

    @property
    def weight_limits(self) -> tuple[int, int]:
        """The least and the largest integer of a weight.  Symmetric ones use -m to m, so the least stays unused."""
        half = 2 ** (self.weight_bits - 1)
        return -half, half - 1


PAPER = Scheme()


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
    input's range is known.  Masking includes 0; means and maxima stay within the range of what they pool.

    Args:
        network: folded, and equalized or not.
        input_range: of the normalised images, see :func:`equilib.pcam.input_range`.
        deviations: how many standard deviations count.

    Returns:
        For each node of the graph that is an activation, its distribution.  The logits have none: they stay real.

    Raises:
        ValueError: a layer without statistics, or an operation with no rule.
    """
    known: dict[str, Distribution] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            known[node.name] = Distribution(*input_range)
        elif node.op == "call_module":
            module = network.get_submodule(node.target)
            source = known.get(getattr(node.args[0], "name", ""))
            rule = _module_rule(module, source, deviations)
            if rule is not None:
                known[node.name] = rule
            elif not _is_final(node):
                raise ValueError(f"{node.target} ({type(module).__name__}) has no batch-norm statistics and no rule to take a range from")
        elif node.op == "call_function" and getattr(node.target, "__name__", "") in ("add", "iadd"):
            known[node.name] = _add_rule(known[node.args[0].name], known[node.args[1].name], deviations)
        elif node.op != "output":
            raise ValueError(f"no rule for the range of {node.name} ({node.op} {node.target})")
    return known


def _is_final(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


def _gaussian(mean: Tensor, std: Tensor, deviations: float) -> Distribution:
    return Distribution((mean - deviations * std).min().item(), (mean + deviations * std).max().item(), mean, std)


def _module_rule(module: nn.Module, source: Distribution | None, deviations: float) -> Distribution | None:
    if isinstance(module, Layer):
        if not hasattr(module, "output_mean"):
            return None
        return _gaussian(module.output_mean, module.output_std, deviations)
    if source is None:
        return None
    if isinstance(module, nn.ReLU):
        return Distribution(0.0, max(source.high, 0.0))
    if isinstance(module, DiscMask):
        return Distribution(min(source.low, 0.0), max(source.high, 0.0))
    if isinstance(module, (DiscMean, nn.AdaptiveAvgPool2d, nn.AvgPool2d, *SELECTING)):
        return Distribution(source.low, source.high)
    return None


def _add_rule(a: Distribution, b: Distribution, deviations: float) -> Distribution:
    if a.mean is None or b.mean is None:
        return Distribution(a.low + b.low, a.high + b.high)
    return _gaussian(a.mean + b.mean, (a.std.square() + b.std.square()).sqrt(), deviations)


def calibrated_ranges(
    network: fx.GraphModule, images: Tensor, *, outliers: float = 0.0, batch_size: int = 64
) -> dict[str, Distribution]:
    """The range of every activation on calibration patches: what data-free ranges are compared with.

    Args:
        network: folded, and equalized or not.
        images: (B, 3, n, n), normalised.
        outliers: share of values to leave out at either end, in each batch; 0 takes the least and the largest.

    Returns:
        As :func:`activation_ranges`, without means and standard deviations.
    """
    if not 0 <= outliers < 0.5:
        raise ValueError(f"outliers must lie in [0, 0.5), got {outliers}")
    if len(images) == 0:
        raise ValueError("images is empty: at least one calibration patch is needed")
    seen: dict[str, Distribution] = {}
    for chunk in images.split(batch_size):
        for name, value in activations(network, chunk).items():
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


class FakeQuantize(nn.Module):
    """Round an activation to 2^bits levels between ``low`` and ``high`` (which are moved to include 0), per tensor."""

    def __init__(self, low: float, high: float, scheme: Scheme = PAPER):
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"an activation range must be finite, got {low} … {high}")
        if scheme.symmetric_activations:
            high = max(-low, high)
            low = -high
        self.limit = 2**scheme.activation_bits - 1
        # A constant zero tensor still needs a scale.
        scale = (high - low) / self.limit or 1.0
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(round(-low / scale), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, self.limit)


def rounded_weight(layer: nn.Module, scheme: Scheme = PAPER) -> Tensor:
    """The weight that the integers of ``scheme`` stand for."""
    scale, zero_point = _weight_scale(layer.weight.detach(), scheme)
    return _round_weight(layer.weight.detach(), scale, zero_point, scheme)


def _weight_scale(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point: scalars, or one for each output channel."""
    if not torch.isfinite(weight).all():
        raise ValueError("weights that are NaN or infinite cannot be quantized")
    least, largest = scheme.weight_limits
    flat = weight.flatten(1) if scheme.per_channel else weight.flatten()
    low, high = flat.amin(-1).clamp_max(0), flat.amax(-1).clamp_min(0)
    if scheme.symmetric_weights:
        scale = torch.maximum(-low, high) / largest
        zero_point = torch.zeros_like(scale)
    else:
        scale = (high - low) / (largest - least)
        zero_point = least - low / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a dead channel still needs a scale
    return scale.float(), zero_point.round().clamp(least, largest).to(torch.int32)


def _round_weight(weight: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme) -> Tensor:
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, *scheme.weight_limits)
    # Symmetric weights never reach the limits, and ONNX knows those of 8 bits only.
    limits = PAPER.weight_limits if scheme.symmetric_weights and scheme.weight_bits < 8 else scheme.weight_limits
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, *limits)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer with rounded weights; the bias is rounded to int32."""

    def __init__(self, layer: nn.Module, input_scale: Tensor, scheme: Scheme = PAPER):
        super().__init__()
        self.layer, self.scheme = layer, scheme
        scale, zero_point = _weight_scale(layer.weight.detach(), scheme)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        if layer.bias is not None:
            # The accumulator of the integer kernel counts in units of both scales; so does its bias.
            unit = (input_scale * self.scale).double()
            layer.bias.data = (layer.bias.data.double() / unit).round().mul(unit).to(layer.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = _round_weight(self.layer.weight, self.scale, self.zero_point, self.scheme)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


class QuantizedDiscMean(nn.Module):
    """The mean over the disc as an integer sum: the mask's entries are one unit each, so no order of addition matters."""

    def __init__(self, mean: DiscMean):
        super().__init__()
        self.register_buffer("weight", mean.weight.flatten()[:, None].clone())
        self.register_buffer("scale", mean.weight.max().clone())
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, self.scale, self.zero_point, *PAPER.weight_limits)
        return torch.matmul(x.flatten(2), weight).flatten(1)


def tie_rotated_copies(network: nn.Module) -> None:
    """Make weights and biases that are rotated copies of each other equal to the bit, in place.

    Copies that differ by 1e-7 can be rounded to different integers; then the INT8 network is invariant no more.  Only
    quarter turns are tied (:class:`equilib.plain.QuarterTurn`), never rotations that interpolate.

    Raises:
        ValueError: a layer whose weights are no rotated copies, by name.
    """
    for name, layer in network.named_modules():
        turn = getattr(layer, "quarter_turn", None)
        if turn is None:
            continue
        try:
            layer.weight.data = turn.tie(layer.weight.data)
            if layer.bias is not None:
                layer.bias.data = turn.tie(layer.bias.data)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def quantize(
    network: fx.GraphModule,
    input_range: tuple[float, float],
    *,
    scheme: Scheme = PAPER,
    ranges: dict[str, Distribution] | None = None,
) -> fx.GraphModule:
    """Insert fake quantizers.

    A tensor is rounded once, where an integer kernel would write it: behind a convolution together with its ReLU,
    behind a residual sum, behind the pooling, and behind the mask of the input.

    Args:
        network: folded (:func:`equilib.dfq.fold_batch_norm`), and equalized or not.
        input_range: of the normalised images.
        scheme: bits and scales; by default the paper's W8A8, per tensor.
        ranges: of the activations, such as :func:`calibrated_ranges`; by default data-free ones.

    Returns:
        A new network that simulates INT8 in floating point.
    """
    ranges = activation_ranges(network, input_range) if ranges is None else ranges
    network = deepcopy(network)
    tie_rotated_copies(network)
    quantizers: dict[str, FakeQuantize] = {}
    for node in list(network.graph.nodes):
        if node.op == "output":
            continue
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, Layer):
            _replace(network, node.target, QuantizedLayer(module, quantizers[node.args[0].name].scale, scheme))
        if isinstance(module, DiscMean):
            _replace(network, node.target, QuantizedDiscMean(module))
        if isinstance(module, SELECTING):
            # Selecting among rounded values gives rounded values; kernels for what follows a maximum over the group want
            # to read integers again.
            quantizer = quantizers[node.name] = quantizers[node.args[0].name]
            if not isinstance(module, GroupMax):
                continue
        elif node.name not in ranges or _is_final(node) or _followed_by(network, node, (nn.ReLU, DiscMask)):
            continue
        else:
            quantizer = FakeQuantize(ranges[node.name].low, ranges[node.name].high, scheme)
        name = f"quantize_{node.name}"
        network.add_submodule(name, deepcopy(quantizer))
        with network.graph.inserting_after(node):
            inserted = network.graph.call_module(name, (node,))
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user, inserted=inserted: user is not inserted)
        quantizers[node.name] = quantizers[inserted.name] = quantizer
    network.graph.lint()
    network.recompile()
    return network


def _followed_by(network: fx.GraphModule, node: fx.Node, kinds: tuple) -> bool:
    """Whether the tensor's only use is a module that an integer kernel does in the same go (ReLU, the input's mask)."""
    users = [user for user in node.users if user.op == "call_module"]
    return len(node.users) == len(users) == 1 and isinstance(network.get_submodule(users[0].target), kinds)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent) if parent else network, leaf, module)


# --- deployment ---


def export_onnx(network: nn.Module, path: str | Path, input_size: int) -> Path:
    """Write a plain network, quantized or not, as ONNX with a dynamic batch; the file appears whole or not at all.

    The input is ``images``, float32 (batch, 3, input_size, input_size), normalised; the output is ``logits``.  Weights
    that are fake-quantized in the network are stored as int8, their biases as int32.

    Raises:
        ValueError: a scheme that integer kernels do not have (more than 8 bits, scales per channel, asymmetric weights).
    """
    import onnx
    import onnxscript  # noqa: F401  (torch's exporter needs it; say so here, not in the middle of a trace)

    path = Path(path)
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            _check_exportable(name, module.scheme)
    example = torch.zeros(2, 3, input_size, input_size)
    batch = torch.export.Dim("batch", min=1)
    with _exporter_ready():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    model = program.model_proto
    _store_integers(model)
    for node in model.graph.node:  # stack traces and names of Python files: of no use on a device
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    onnx.checker.check_model(model)
    with written_whole(path) as temporary:
        onnx.save(model, temporary)
    return path


def _check_exportable(name: str, scheme: Scheme) -> None:
    wrong = [
        words
        for words, bad in (
            (f"weight_bits={scheme.weight_bits}", scheme.weight_bits > 8),
            (f"activation_bits={scheme.activation_bits}", scheme.activation_bits != 8),
            ("per_channel=True", scheme.per_channel),
            ("symmetric_weights=False", not scheme.symmetric_weights),
        )
        if bad
    ]
    if wrong:
        raise ValueError(
            f"{name} is quantized with {', '.join(wrong)}, which is for simulation only; export activations of 8 bits and "
            "symmetric weights of at most 8, per tensor"
        )


@contextmanager
def _exporter_ready():
    """Teach torch.export the shape of a fake-quantized tensor, and keep the exporter's notices out of the output.

    torch has no shape rule (meta kernel) for fake quantization, so that it exports with fixed batch sizes only.
    """
    rule = torch.library.Library("aten", "IMPL", "Meta")
    rule.impl(
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        lambda x, scale, zero_point, enabled, low, high: (torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)),
    )
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        rule._destroy()


def _store_integers(model) -> None:
    """Replace QuantizeLinear of a constant weight by the int8 constant, and float biases by int32 ones."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}

    def value(name):
        if name in constants:
            return numpy_helper.to_array(constants[name])
        producer = producers.get(name)
        if producer is not None and producer.op_type == "Constant":
            return numpy_helper.to_array(producer.attribute[0].t)
        return None

    def store(array, name):
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    for node in list(graph.node):
        if node.op_type == "QuantizeLinear" and value(node.input[0]) is not None:
            weight, scale = value(node.input[0]).astype(np.float64), float(value(node.input[1]))
            # torch rounds half to even, after multiplying by the reciprocal in float32: do the same.
            reciprocal = np.float32(1) / np.float32(scale)
            rounded = np.rint(weight.astype(np.float32) * reciprocal).clip(-127, 127)
            constant = store(rounded.astype(np.int8), node.output[0])
            graph.node.remove(node)
            for user in graph.node:
                if user.op_type == "DequantizeLinear" and user.input[0] == constant:
                    user.input[2] = store(np.zeros((), np.int8), f"{constant}_zero")
    producers = {output: node for node in graph.node for output in node.output}
    for node in list(graph.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        x, w = producers.get(node.input[0]), producers.get(node.input[1])
        bias = value(node.input[2])
        if bias is None or x is None or w is None or {x.op_type, w.op_type} != {"DequantizeLinear"}:
            continue
        unit = np.float32(value(x.input[1])) * np.float32(value(w.input[1]))
        name = f"{node.input[2]}_int32"
        store(np.rint(bias.astype(np.float64) / float(unit)).astype(np.int32), name)
        store(np.asarray(unit, np.float32), f"{name}_scale")
        dequantize = helper.make_node(
            "DequantizeLinear", [name, f"{name}_scale"], [f"{name}_real"], name=f"{name}_dequantize"
        )
        graph.node.insert(list(graph.node).index(node), dequantize)
        node.input[2] = f"{name}_real"
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def session(path: str | Path, *, threads: int = 1):
    """An onnxruntime session on the CPU; raises ValueError where the file is no ONNX network of this project."""
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with equilib.int8.export_onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # x86 processors without VNNI add pairs of products in 16 bits and saturate; onnxruntime then multiplies unsigned by
    # unsigned instead, which is slower and right.  With VNNI both are right, and this would take twice as long.
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        running = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{path} is no ONNX file that onnxruntime can run ({error})") from error
    inputs = running.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        raise ValueError(f"{path} is another network: its inputs are {[(i.name, i.shape) for i in inputs]}")
    return running


def optimized_operators(path: str | Path) -> dict[str, int]:
    """How often each operator occurs in the graph that onnxruntime really runs (QLinearConv is an integer kernel)."""
    from collections import Counter

    return dict(Counter(node.op_type for node in _optimized(path).graph.node))


def residual_block(path: str | Path) -> list[tuple[str, str]]:
    """The operators of the first residual block that onnxruntime really runs, and the type of what each one gives.

    Raises:
        ValueError: there is no integer addition in the graph.
    """
    from onnx import TensorProto

    graph = _optimized(path).graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    addition = next((node for node in graph.node if node.op_type == "QLinearAdd"), None)
    if addition is None:
        raise ValueError(f"{path} has no integer addition: it holds no residual block, or is not quantized")

    def described(node):
        name = node.op_type
        if name == "QLinearConv":
            weight = constants[node.input[3]]
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            name += f"\n{weight.dims[2]} × {weight.dims[3]}" + (", depthwise" if groups > 1 else "")
        zero_point = constants.get(node.input[7]) if len(node.input) > 7 else None
        kind = "float32" if zero_point is None else TensorProto.DataType.Name(zero_point.data_type).lower()
        return name, kind

    for start, shortcut in ((0, 3), (3, 0)):  # an addition's two operands stand at 0 and 3
        chain, tensor = [addition], addition.input[start]
        while tensor in producers and tensor != addition.input[shortcut]:
            chain.append(producers[tensor])
            tensor = producers[tensor].input[0]
        if tensor == addition.input[shortcut]:
            return [described(node) for node in reversed(chain)]
    raise ValueError(f"{path} adds two tensors of which neither comes from the other: no residual block")


def _optimized(path: str | Path):
    """The ONNX graph after onnxruntime's own optimizations."""
    import tempfile

    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
