"""Layers that share 8-bit constants: onnxruntime runs them on x86 without VNNI, too, and gives what it gave before."""

from collections import Counter
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from equilib import device, layouts, results
from equilib.layouts import Layout
from equilib.own_integers import own_integers

LAYERS = 3


def network(kind, weights, zero_points, dequantized, *, as_nodes=False):
    """Layers in a chain, between quantizations; what is named is one tensor for all of them.

    Args:
        kind: "Conv" or "MatMul".
        as_nodes: 8-bit constants are nodes of the graph, not initializers.
    """
    generator = np.random.default_rng(0)
    shape = (16, 16, 1, 1) if kind == "Conv" else (16, 16)
    constants = {"scale": np.float32(0.02), "zero": np.uint8(128), "weight scale": np.float32(0.01)}
    constants |= {f"bytes{i}": generator.integers(-127, 128, shape).astype(np.int8) for i in range(LAYERS)}
    constants |= {f"zero{i}": np.int8(0) for i in range(LAYERS)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y0"]))
    for i in range(LAYERS):
        stored, zero = f"bytes{0 if weights else i}", f"zero{0 if zero_points else i}"
        if not (dequantized and i):
            nodes.append(helper.make_node("DequantizeLinear", [stored, "weight scale", zero], [f"w{i}"]))
        nodes.append(helper.make_node(kind, [f"y{i}", f"w{0 if dequantized else i}"], [f"sum{i}"]))
        nodes.append(helper.make_node("QuantizeLinear", [f"sum{i}", "scale", "zero"], [f"q{i}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"y{i + 1}"]))
    read = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read]
    if as_nodes:
        integers = [tensor for tensor in tensors if tensor.data_type == TensorProto.INT8]
        tensors = [tensor for tensor in tensors if tensor not in integers]
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in integers] + nodes
    size = [1, 16, 4, 4] if kind == "Conv" else [4, 16]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in ("x", f"y{LAYERS}")]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def readers(model):
    """How many nodes read each signed 8-bit constant, or what a DequantizeLinear makes of it."""
    graph = model.graph
    names = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    names |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    names |= {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in names}
    return Counter(name for node in graph.node for name in node.input if name in names)


def run(model):
    """Its answer, in the mode that :func:`equilib.device.session` needs on x86 without VNNI; other processors ignore it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (given,) = running.get_inputs()
    x = np.random.default_rng(1).normal(size=given.shape).astype(np.float32)
    return running.run(None, {"x": x})[0]


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
@pytest.mark.parametrize("shared", list(product([False, True], repeat=2)) + ["dequantized"])
def test_layers_that_share_integers_run_and_answer_as_layers_that_do_not(shared, kind, as_nodes):
    weights, zero_points = (True, True) if shared == "dequantized" else shared
    model = network(kind, weights, zero_points, shared == "dequantized", as_nodes=as_nodes)
    before = model.SerializeToString()
    own = own_integers(model)
    assert model.SerializeToString() == before, "the argument was changed"
    onnx.checker.check_model(own, full_check=True)
    assert set(readers(own).values()) == {1}
    assert own is model or max(readers(model).values()) > 1
    # The same layers, each with tensors of its own from the start.
    apart = network(kind, False, False, False)
    if weights:
        for tensor in apart.graph.initializer:
            if tensor.name.startswith("bytes"):
                tensor.raw_data = next(t for t in apart.graph.initializer if t.name == "bytes0").raw_data
    assert np.array_equal(run(own), run(apart))


def test_what_the_caller_may_replace_stays_shared():
    model = network("Conv", True, False, False)
    model.graph.input.append(helper.make_tensor_value_info("bytes0", TensorProto.INT8, [16, 16, 1, 1]))
    assert own_integers(model) is model


@pytest.mark.parametrize("layout", [Layout(48, 16, 16), Layout(1, 1, 5), None])
@pytest.mark.parametrize("name", ["pcam_C12_fieldwise_20000_epochs6_seed0", "pcam_C4_w0.35_20000_seed0"])
def test_what_a_session_gets_shares_no_integers(name, layout):
    path = results.shipped_int8(name)
    given = layouts.prepared(path, layout=layout)
    model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)
    assert set(readers(model).values()) == {1}


def test_a_file_whose_layers_share_a_zero_point_gets_a_session(tmp_path):
    """As exporters write it: one 0 for all weights."""
    model = onnx.load(results.shipped_int8("pcam_conventional_w0.35_20000_seed0"))
    zero = {
        tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8 and not tensor.dims
    }
    first = min(zero)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and zero.intersection(node.input):
            node.input[2] = first
    path = tmp_path / "shared.onnx"
    onnx.save(model, path)
    assert max(readers(model).values()) > 10
    device.session(path), device.session(path, layout=layouts.AS_WRITTEN)  # each passes the file's self-test
