"""INT8: activation ranges without data, fake quantization, export to ONNX, and running it.

One graph serves for simulation and for deployment: :func:`quantize` puts fake quantizers into the folded network, and
:func:`export_onnx` writes that network with QuantizeLinear/DequantizeLinear nodes and int8 weights, which onnxruntime runs
on integer kernels.  Weights are signed and symmetric, activations unsigned and asymmetric, both per tensor (the paper's
W8A8).
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from equilib.dfq import Layer
from equilib.plain import DiscMask, DiscMean, GroupMax

WEIGHT_LIMIT = 127  # symmetric: -127 … 127
ACTIVATION_LIMIT = 255
# In evaluation mode these give values that they were given.
SELECTING = (GroupMax, nn.MaxPool2d, nn.Dropout, nn.Identity, nn.Flatten)


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


class FakeQuantize(nn.Module):
    """Round an activation to 256 levels between ``low`` and ``high`` (which are moved to include 0), per tensor."""

    def __init__(self, low: float, high: float):
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"an activation range must be finite, got {low} … {high}")
        # A constant zero tensor still needs a scale.
        scale = (high - low) / ACTIVATION_LIMIT or 1.0
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(round(-low / scale), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, ACTIVATION_LIMIT)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weights are rounded to int8, per tensor; the bias to int32."""

    def __init__(self, layer: nn.Module, input_scale: Tensor):
        super().__init__()
        self.layer = layer
        largest = layer.weight.detach().abs().max().item()
        if not np.isfinite(largest):
            raise ValueError("weights that are NaN or infinite cannot be quantized")
        # The largest weight becomes ±127, so -128 is never used, though the operator allows it.
        self.register_buffer("scale", torch.tensor(largest / WEIGHT_LIMIT or 1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        if layer.bias is not None:
            # The accumulator of the integer kernel counts in units of both scales; so does its bias.
            unit = (input_scale * self.scale).double()
            layer.bias.data = (layer.bias.data.double() / unit).round().mul(unit).to(layer.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(
            self.layer.weight, self.scale, self.zero_point, -WEIGHT_LIMIT - 1, WEIGHT_LIMIT
        )
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def quantize(network: fx.GraphModule, input_range: tuple[float, float]) -> fx.GraphModule:
    """Insert fake quantizers: W8A8, per tensor, with data-free activation ranges.

    A tensor is rounded once, where an integer kernel would write it: behind a convolution together with its ReLU,
    behind a residual sum, behind the pooling, and behind the mask of the input.

    Args:
        network: folded (:func:`equilib.dfq.fold_batch_norm`), and equalized or not.
        input_range: of the normalised images.

    Returns:
        A new network that simulates INT8 in floating point.
    """
    ranges = activation_ranges(network, input_range)
    network = deepcopy(network)
    scales: dict[str, Tensor] = {}
    for node in list(network.graph.nodes):
        if node.op in ("output",):
            continue
        inherited = _inherits_scale(network, node)
        if inherited:
            scales[node.name] = scales[node.args[0].name]
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, Layer):
            _replace(network, node.target, QuantizedLayer(module, scales[node.args[0].name]))
        if inherited or node.name not in ranges or _is_final(node) or _followed_by(network, node, (nn.ReLU, DiscMask)):
            continue
        quantizer = FakeQuantize(ranges[node.name].low, ranges[node.name].high)
        scales[node.name] = quantizer.scale
        name = f"quantize_{node.name}"
        network.add_submodule(name, quantizer)
        with network.graph.inserting_after(node):
            inserted = network.graph.call_module(name, (node,))
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user, inserted=inserted: user is not inserted)
        scales[inserted.name] = quantizer.scale
    network.graph.lint()
    network.recompile()
    return network


def _inherits_scale(network: fx.GraphModule, node: fx.Node) -> bool:
    """Selecting among rounded values gives rounded values: no second rounding."""
    if node.op != "call_module":
        return False
    return isinstance(network.get_submodule(node.target), SELECTING)


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
    """
    import onnx
    import onnxscript  # noqa: F401  (torch's exporter needs it; say so here, not in the middle of a trace)

    path = Path(path)
    temporary = path.with_name(path.name + ".part")
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
    onnx.save(model, temporary)
    os.replace(temporary, path)
    return path


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
            rounded = np.rint(weight.astype(np.float32) * reciprocal).clip(-WEIGHT_LIMIT, WEIGHT_LIMIT)
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
    # unsigned instead, which is slower and right.  On others this changes nothing.
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
    import tempfile
    from collections import Counter

    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    return dict(Counter(node.op_type for node in model.graph.node))
