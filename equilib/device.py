"""What runs a model: export to ONNX, sessions of onnxruntime, and the graph that it really runs.

:func:`export_onnx` writes a network of :func:`equilib.int8.quantize` with QuantizeLinear/DequantizeLinear nodes and int8
weights, which onnxruntime runs on integer kernels.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from equilib.int8 import QuantizedLayer, Scheme
from equilib.layouts import architecture, prepared
from equilib.results import has_vnni, written_whole


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
    """An onnxruntime session on the CPU, in the layout that suits the machine (:mod:`equilib.layouts`).

    Raises:
        ValueError: the file is no ONNX network of this project.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with equilib.device.export_onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # x86 processors without VNNI add pairs of products in 16 bits and saturate; onnxruntime then multiplies unsigned by
    # unsigned instead, which is slower and right.  With VNNI both are right, and this would take twice as long.
    if architecture() == "x86_64" and not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        running = onnxruntime.InferenceSession(prepared(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{path} is no ONNX file that onnxruntime can run ({error})") from error
    inputs = running.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        raise ValueError(f"{path} is another network: its inputs are {[(i.name, i.shape) for i in inputs]}")
    return running


def optimized_operators(path: str | Path) -> dict[str, int]:
    """How often each operator occurs in the graph that onnxruntime really runs (QLinearConv is an integer kernel)."""
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
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(prepared(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
