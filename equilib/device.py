"""What runs a model: export to ONNX, sessions of onnxruntime, and the graph that it really runs.

:func:`export_onnx` writes a network of :func:`equilib.int8.quantize` with QuantizeLinear/DequantizeLinear nodes and int8
weights, which onnxruntime runs on integer kernels.
"""

from __future__ import annotations

import ast
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from equilib import self_test
from equilib.checks import check_count, reason_of
from equilib.graph import activations, find_input_shape
from equilib.int8 import QuantizedLayer, Scheme
from equilib.layouts import Layout, architecture, prepared
from equilib.results import check_is_file, has_vnni, processor, written_whole
from equilib.self_test import SelfTest


def export_onnx(network: nn.Module, path: str | Path, input_size: int | tuple[int, int]) -> Path:
    """Write a plain network, quantized or not, as ONNX with a dynamic batch; the file appears whole or not at all.

    The input is ``images``, float32 (batch, channels, height, width), normalised; the output is ``logits``.  Weights
    that are fake-quantized in the network are stored as int8, their biases as int32.

    Before it gets its name, the file is run on a few images beside the network (:mod:`equilib.self_test`); what the
    network answers is kept in the file, for :func:`session`.

    Args:
        input_size: of the images, in pixels: height and width, or both in one number.

    Raises:
        ValueError: a scheme that integer kernels do not have (more than 8 bits, scales per channel, asymmetric weights);
            a pooling that ONNX does not know; a file that answers otherwise than the network, with the layer where the
            difference begins.
    """
    import onnx
    import onnxscript  # noqa: F401  (torch's exporter needs it; say so here, not in the middle of a trace)

    path = Path(path)
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            _check_exportable(name, module.scheme)
        if isinstance(module, nn.AvgPool2d) and module.divisor_override is not None:
            raise ValueError(f"{name} has a divisor of its own, which ONNX does not know; pool by the mean and scale")
    network = deepcopy(network).eval().float()
    shape = find_input_shape(network, input_size)
    expected = self_test.make(network, shape)
    model = _exported(network, shape)
    outputs = _outputs_of_modules(model)
    _store_integers(model)
    for node in model.graph.node:  # stack traces and names of Python files: of no use on a device
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:], model.graph.metadata_props[:]
    self_test.stamp(model, expected)
    onnx.checker.check_model(model)
    with written_whole(path) as temporary:
        onnx.save(model, temporary)
        error = _self_test_error(_open(temporary, 1), expected)
        if not error <= expected.tolerance:
            raise ValueError(
                f"the file would answer otherwise than the network (by {error:.2g}, where rounding explains "
                f"{expected.tolerance:.2g}), so {path} is not written; the difference begins at "
                f"{_first_difference(network, model, outputs, expected)}"
            )
    return path


def add_self_test(path: str | Path) -> Path:
    """Give an INT8 file of before what it lacks: a self-test (:func:`equilib.self_test.of_file`), a digest of its weights.

    The graph stays, and so does a self-test that it has, and a file that has both.

    Raises:
        ValueError: no INT8 network of this project, or this machine's integer kernels answer otherwise than its graph or
            its own self-test.
    """
    import onnx

    path = Path(path)
    model = self_test.onnx_model(path)
    kept = self_test.stored(model)
    if kept is not None and self_test.stored(model, self_test.DIGEST) is not None:
        return path
    expected = self_test.of_file(path) if kept is None else self_test.read(kept)
    self_test.stamp(model, expected)
    with written_whole(path) as temporary:
        onnx.save(model, temporary)
        _check_answers(_open(temporary, 1), path, expected.to_json())
    return path


# Operators that ONNX has as they are.  torch's exporter traces a program anew, to take apart those that it has not; of a
# program without such the same graph comes out, so that the tracing, half of an export's time, can be left out.
IN_ONNX = frozenset(
    f"aten.{name}"
    for name in (
        *("conv2d.default", "linear.default", "matmul.default", "relu.default", "dropout.default"),
        *("add.Tensor", "mul.Tensor", "cat.default", "slice.Tensor", "amax.default"),
        *("flatten.using_ints", "unflatten.int", "permute.default"),
        *("batch_norm.default", "fake_quantize_per_tensor_affine.tensor_qparams"),
    )
)


def _batch_norm(images, weight, bias, mean, variance, training, momentum, epsilon, cudnn):
    """ONNX's batch normalization of a network in evaluation mode; torch's table of operators has only what it is made of."""
    from onnxscript import opset18

    return opset18.BatchNormalization(images, weight, bias, mean, variance, epsilon=epsilon)


def _exported(network: nn.Module, shape: tuple[int, ...]):
    """The ONNX model as torch's exporter gives it."""
    images, batches = (torch.zeros(2, *shape),), ({0: torch.export.Dim("batch", min=1)},)
    try:
        with _exporter_ready():
            program = torch.export.export(network, images, dynamic_shapes=batches)
            if all(str(node.target) in IN_ONNX for node in program.graph.nodes if node.op == "call_function"):
                program.run_decompositions = lambda *_, **__: program
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=batches,
                custom_translation_table={torch.ops.aten.batch_norm.default: _batch_norm},
                verbose=False,
            )
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} cannot be exported by torch.onnx: {reason_of(error)}; change what it names"
        ) from error
    return exported.model_proto


def _outputs_of_modules(model) -> dict[str, str]:
    """The ONNX value that each module gives, by the name of the module; of what the exporter notes of its nodes."""
    found = {}
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                found |= dict.fromkeys(filter(None, ast.literal_eval(entry.value)[:-1]), node.output[0])
    return found


def _first_difference(network: nn.Module, model, outputs: dict[str, str], expected: SelfTest) -> str:
    """The first module whose values in the file are not those in the network; integer kernels, if there is none."""
    import onnx

    if not isinstance(network, fx.GraphModule):
        return "an operation that could not be found; export the traced network (equilib.dfq.fold_batch_norm) to see it"
    images = expected.images()
    values = activations(network, torch.from_numpy(images))
    watched = [node for node in network.graph.nodes if node.op == "call_module" and node.target in outputs]
    watched = [node for node in watched if node.name in values]
    known = {output.name for output in model.graph.output}
    names = dict.fromkeys(outputs[node.target] for node in watched)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    seen = dict(zip(names, self_test.without_kernels(model, images, list(names))))
    for node in watched:
        difference = values[node.name].numpy() - seen[outputs[node.target]]
        if not np.sqrt(np.square(difference).mean()) <= 0.01 * values[node.name].square().mean().sqrt().item() + 1e-9:
            return f"{node.target} ({type(network.get_submodule(node.target)).__name__})"
    return "onnxruntime's integer kernels on this processor"


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


def session(path: str | Path, *, threads: int = 1, batch: int = 1, layout: Layout | None = None):
    """An onnxruntime session on the CPU, in the layout that suits the machine (:mod:`equilib.layouts`).

    It exists after the file's self-test, if the file carries one.

    Args:
        batch: how many patches it will mostly get at once; any number gives the same bits, this one is fast.
        layout: another one than was measured to be fastest, to compare.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no ONNX network of this project, or this machine answers its self-test otherwise than the
            network that was exported.
    """
    path = Path(path)
    check_count("threads", threads), check_count("batch", batch)
    if not isinstance(layout, Layout | None):
        raise TypeError(f"layout must be an equilib.layouts.Layout, got {layout!r}")
    check_is_file(path, "write it with `equilib quantize`, in Python with equilib.device.export_onnx")
    if path.suffix.lower() == ".pte":
        raise ValueError(f"{path} is a program for ExecuTorch, not for onnxruntime; load it with equilib.pte.load_pte")
    running = _open(path, threads, batch, layout)
    known = running.get_modelmeta().custom_metadata_map.get(self_test.KEY)
    check_network(
        path,
        [(put.name, put.shape) for put in running.get_inputs()],
        [put.name for put in running.get_outputs()],
        known,
    )
    if known is not None:
        _check_answers(running, path, known)
    return running


def check_network(
    path: Path, inputs: Sequence[tuple[str, Sequence]], outputs: Sequence[str], known: str | None
) -> None:
    """Refuse a file that is no classifier of pictures.

    Args:
        inputs: the name and shape of each.
        outputs: the name of each.
        known: the file's self-test; a file of another origin, without one, takes colour pictures.

    Raises:
        ValueError: names the file, and what it takes or gives instead.
    """
    shapes = [list(shape) for _, shape in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or known is None and shapes[0][1] != 3:
        raise ValueError(f"{path} is another network: its inputs are {list(inputs)}")
    if len(outputs) != 1:
        raise ValueError(f"{path} is another network: it gives {', '.join(outputs)}, not one tensor of logits")


def _open(path: Path, threads: int, batch: int = 1, layout: Layout | None = None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # x86 processors without VNNI add pairs of products in 16 bits and saturate; onnxruntime then multiplies unsigned by
    # unsigned instead, which is slower and right.  With VNNI both are right, and this would take twice as long.
    if architecture() == "x86_64" and not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        network = prepared(path, layout=layout, batch=batch)
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except self_test.ChangedWeightsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no ONNX file that onnxruntime can run ({reason}); export the network again"
        ) from error


def _self_test_error(running, expected: SelfTest) -> float:
    (outputs,) = running.run(None, {running.get_inputs()[0].name: expected.images()})
    return expected.error(outputs)


def _check_answers(running, path: Path, text: str) -> None:
    import onnxruntime

    vnni = f"{'with' if has_vnni() else 'without'} VNNI"
    self_test.check(
        text,
        lambda images: running.run(None, {running.get_inputs()[0].name: images})[0],
        path,
        f"on this machine ({processor()}, {vnni}, onnxruntime {onnxruntime.__version__})",
        "export it again with --weight-bits 7, or use another version of onnxruntime or the FP32 model",
    )


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
        try:
            onnxruntime.InferenceSession(prepared(path), options, providers=["CPUExecutionProvider"])
        except self_test.ChangedWeightsError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is no ONNX file that onnxruntime can run ({reason})") from error
        return onnx.load(options.optimized_model_filepath)
