"""Rewritten graphs compute what they computed before: integers to the last bit, floating point up to rounding."""

import json
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from equilib import device, dfq, int8, layouts, marks, results
from equilib.deploy import deploy
from equilib.equivariance import relative_difference, run_model
from equilib.fields import rotate
from equilib.layouts import AS_WRITTEN, Layout, rewrite
from equilib.mobilenet import MobileNetConfig, build, exported
from equilib.own_integers import own_integers
from equilib.training import shipped_network

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

SHIPPED = {
    "C4": "pcam_C4_w0.35_20000_seed0",
    "C12": "pcam_C12_w0.35_20000_seed0",
    "C4, field-wise": "pcam_C4_fieldwise_w0.35_m24_20000_seed0",
    "C12, field-wise": "pcam_C12_fieldwise_20000_epochs6_seed0",
    "conventional": "pcam_conventional_w0.35_20000_seed0",
    "conventional, multiples of 24": "pcam_conventional_20000_epochs6_seed0",
}
RANDOM = {
    "D4, field-wise": ("equivariant", {"group": "D4", "divisor": 24, "depthwise": "fieldwise"}),
    "D4": ("equivariant", {"group": "D4"}),
}
LAYOUTS = [Layout(48, 16), Layout(10_000, 1), Layout(1, 64), Layout(48, 16, 16), Layout(1, 1, 5)]


class Foreign(nn.Module):
    """Somebody else's: grouped convolutions between others, a residual sum, channels that are multiples of nothing."""

    def __init__(self):
        super().__init__()

        def conv(inputs, outputs, kernel, groups=1, stride=1):
            layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

        self.stem = conv(3, 20, 3, stride=2)
        self.depthwise = nn.Sequential(conv(20, 20, 3, groups=20), conv(20, 20, 5, groups=20), conv(20, 20, 1))
        self.grouped = nn.Sequential(conv(20, 42, 1), conv(42, 42, 3, groups=6, stride=2), conv(42, 24, 1, groups=2))
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.linear(self.flatten(self.pool(self.grouped(x + self.depthwise(x)))))


@pytest.fixture(scope="module")
def foreign(tissue):
    torch.manual_seed(0)
    return randomize(Foreign(), tissue)


@pytest.fixture(scope="module")
def files(foreign, tissue, tmp_path_factory):
    """INT8 files of trained, random and foreign networks, and FP32 ones."""
    folder = tmp_path_factory.mktemp("layouts")
    paths = {("INT8", name): results.shipped_int8(shipped) for name, shipped in SHIPPED.items()}
    for name, (kind, options) in RANDOM.items():
        torch.manual_seed(0)
        network = randomize(build(kind, MobileNetConfig(width=0.35, **options)), tissue)
        paths["INT8", name] = deploy(network, folder / f"{name}.onnx").onnx
    simulated = int8.quantize(dfq.equalize(dfq.fold_batch_norm(foreign))[0], (-4.0, 4.0))
    paths["INT8", "foreign"] = device.export_onnx(simulated, folder / "foreign.onnx", 95)
    trained = exported(shipped_network(SHIPPED["C4, field-wise"]))
    paths["FP32", "C4, field-wise"] = device.export_onnx(trained, folder / "fp32.onnx", 95)
    paths["FP32", "foreign"] = device.export_onnx(foreign, folder / "foreign_fp32.onnx", 95)
    return paths


@pytest.fixture
def logits(tmp_path, monkeypatch, tissue):
    """Of a graph as it is given, but that x86 without VNNI wants integers of its own for each layer."""

    def run(model, images=tissue):
        monkeypatch.setattr(device, "prepared", lambda path, layout=None, batch=1: str(path))
        onnx.save(own_integers(model), tmp_path / "net.onnx")
        return run_model(device.session(tmp_path / "net.onnx"), images)

    return run


def convolutions(model):
    """(groups, outputs, inputs of a group) of each convolution, in order."""
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    stored |= {n.output[0]: stored[n.input[0]] for n in model.graph.node if n.input[0] in stored}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    return [(next((a.i for a in node.attribute if a.name == "group"), 1), *stored[node.input[1]][:2]) for node in nodes]


@pytest.mark.parametrize("name", [*SHIPPED, *RANDOM, "foreign"])
def test_not_one_integer_changes(name, files, logits):
    model = onnx.load(files["INT8", name])
    before = model.SerializeToString()
    expected = logits(model)
    assert expected.std(0).min() > 0
    for layout in LAYOUTS:
        rewritten = rewrite(model, layout)
        onnx.checker.check_model(rewritten, full_check=True)
        assert torch.equal(logits(rewritten), expected), layout
    assert model.SerializeToString() == before, "the argument was changed"


@pytest.mark.parametrize("name", ["C4, field-wise", "foreign"])
def test_floating_point_stays_the_same_up_to_rounding(name, files, logits):
    model = onnx.load(files["FP32", name])
    expected = logits(model)
    for layout in LAYOUTS:
        rewritten = rewrite(model, layout)
        # nothing to pad; six groups of seven channels: no four of them divide six
        nothing = [("C4, field-wise", Layout(1, 64)), ("foreign", Layout(1, 1, 5))]
        assert (rewritten is model) == ((name, layout) in nothing)
        found = logits(rewritten)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()), layout
        assert torch.equal(found.argmax(1), expected.argmax(1))


def test_merged_groups_and_padded_channels_are_what_kernels_want(files):
    fieldwise = onnx.load(files["INT8", "C4, field-wise"])
    merged = convolutions(rewrite(fieldwise, Layout(48, 16)))
    for (groups, outputs, width), (before, same_outputs, narrow) in zip(merged, convolutions(fieldwise)):
        assert outputs == same_outputs and groups * width == before * narrow
        assert before == 1 or width in (24, 48)
    strict = convolutions(rewrite(onnx.load(files["INT8", "C4"]), Layout(48, 16)))
    assert all(outputs % 16 == 0 for groups, outputs, _ in strict if groups > 1)
    assert any(outputs % 16 for groups, outputs, _ in convolutions(onnx.load(files["INT8", "C4"])) if groups > 1)
    # two depthwise layers and the residual sum between 20 channels; 42 in groups of 7; 24 outputs in two groups
    foreign = convolutions(rewrite(onnx.load(files["INT8", "foreign"]), Layout(16, 16)))
    assert foreign == [(1, 32, 3), (32, 32, 1), (32, 32, 1), (1, 32, 32), (1, 42, 32), (3, 42, 14), (2, 24, 21)]


def test_pieces_are_what_dense_kernels_want(files):
    """Cut where the expansion makes its integers, joined where the next integers are made; no integer is copied twice."""
    for name, piece in (("C4, field-wise", 16), ("C12, field-wise", 24)):
        model = onnx.load(files["INT8", name])
        rewritten = rewrite(model, Layout(48, 16, 16))
        found = Counter(convolutions(rewritten))
        assert {groups for groups, *_ in found} == {1}
        channels = [groups * width for groups, _, width in convolutions(model) if groups > 1]
        assert found[1, piece, piece] >= sum(c // piece for c in channels if c > 24)
        graph = rewritten.graph
        kinds = Counter(node.op_type for node in graph.node)
        assert kinds["Concat"] == sum(c > 24 for c in channels) and not kinds["Split"]
        producers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            before = {producers[name].op_type for name in node.input if name in producers}
            if node.op_type == "Concat":
                assert before == {"QuantizeLinear"}
            if node.op_type == "Conv":
                assert before == {"DequantizeLinear"}


@pytest.mark.parametrize("name", [name for name in [*SHIPPED, *RANDOM] if "conventional" not in name])
@pytest.mark.parametrize("batch", [1, 64])
def test_sessions_give_the_same_bits_under_all_quarter_turns(name, batch, files, tissue):
    session = device.session(files["INT8", name], batch=batch)
    expected = run_model(session, tissue)
    for degrees in (90, 180, 270):
        assert torch.equal(run_model(session, rotate(tissue, degrees)), expected), degrees


# --- small graphs, made by hand ---


def graph(nodes, constants, outputs=("y",), size=6):
    """A model from nodes and arrays; the input x has 6 channels."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "small", [x], ys, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


CHAIN = {"a": random(6, 3, 1, 1), "b": random(6, 1, 3, 3), "c": random(2, 6, 1, 1)}
CHAIN_NODES = [
    node("Conv", "x a", "1"),
    node("Relu", "1", "2"),
    node("Conv", "2 b", "3", group=6),
    node("Conv", "3 c", "y"),
]


@pytest.mark.parametrize("groups, merged", [*product([2, 3, 6, 12], [1, 2, 4, 5, 100])])
def test_merging_one_layer(groups, merged):
    """Against torch, in integers, whose sums are exact."""
    weight = np.random.default_rng(0).integers(-9, 9, (24, 24 // groups, 3, 3)).astype(np.float32)
    nodes = [node("Conv", "x a", "1"), node("Conv", "1 w", "y", group=groups)]
    model = graph(nodes, {"a": random(24, 3, 1, 1), "w": weight})
    rewritten = rewrite(model, Layout(merged * 24 // groups))
    (_, (fewer, _, width)) = convolutions(rewritten)
    assert fewer * width == 24 and width <= max(merged, 1) * 24 // groups
    wide = next(numpy_helper.to_array(t) for t in rewritten.graph.initializer if t.name == "w")
    x = torch.randint(-9, 9, (2, 24, 5, 5)).float()
    expected = F.conv2d(x, torch.tensor(weight), groups=groups)
    assert torch.equal(F.conv2d(x, torch.tensor(wide), groups=fewer), expected)


@pytest.mark.parametrize("groups, least", [*product([2, 3, 6, 12], [2, 5, 8, 24])])
def test_cutting_one_layer(groups, least, logits):
    """Against the graph as it was, in integers, whose sums are exact; with a bias, and a residual sum over what is cut."""
    weight, bias = (
        np.random.default_rng(0).integers(-9, 9, s).astype(np.float32) for s in ((24, 24 // groups, 3, 3), 24)
    )
    nodes = [
        node("Conv", "x a", "1"),
        node("Relu", "1", "2"),
        node("Conv", "2 w b", "3", group=groups, pads=[1] * 4),
        node("Relu", "3", "4"),
        node("Add", "2 4", "y"),
    ]
    first = np.random.default_rng(1).integers(-3, 3, (24, 3, 1, 1)).astype(np.float32)
    images = torch.randint(-9, 9, (2, 3, 6, 6)).float()
    for chain in (nodes, [*nodes[:3], node("Relu", "3", "y")]):
        model = graph(chain, {"a": first, "w": weight, "b": bias})
        rewritten = rewrite(model, Layout(1, 1, least))
        onnx.checker.check_model(rewritten, full_check=True)
        assert torch.equal(logits(rewritten, images), logits(model, images))
        widths = [width for fewer, _, width in convolutions(rewritten) if fewer == 1 and width > 3]
        if least < 12 or groups % 2 == 0 and least <= 12:
            width = 24 // groups
            expected = min(
                w for w in (width, 2 * width, 4 * width, 8, 12) if w >= least and w % 4 == 0 and w % width == 0
            )
            assert widths == [expected] * (24 // expected)
        else:
            assert rewritten is model


def test_zero_is_the_weights_zero_point(logits, tissue):
    """Asymmetric weights: the integer that stands for 0 is another one."""
    images = tissue[:, :, :6, :6].contiguous()
    constants, nodes = {"s": np.float32(0.05), "z": np.uint8(17)}, []
    for name, array in (CHAIN | {"d": random(6, 2, 1, 1)}).items():
        constants[f"{name}q"] = np.clip(np.rint(array / 0.05) + 17, 0, 255).astype(np.uint8)
        nodes.append(node("DequantizeLinear", f"{name}q s z", name))
    chain = [*CHAIN_NODES[:3], node("Conv", "3 d", "4", group=3), node("Conv", "4 c", "y")]
    model = graph(nodes + chain, constants)
    rewritten = rewrite(model, Layout(6, 16))
    assert [groups for groups, *_ in convolutions(rewritten)] == [1, 16, 4, 1]  # 16 channels: 3 groups → 8, in pairs
    assert relative_difference(logits(rewritten, images), logits(model, images)) < 1e-6
    cut = rewrite(model, Layout(1, 16, 4))
    assert convolutions(cut) == [(1, 16, 3), (16, 16, 1), *[(1, 4, 4)] * 4, (1, 2, 16)]
    assert relative_difference(logits(cut, images), logits(model, images)) < 1e-6


@pytest.mark.parametrize(
    "change", ["weight used twice", "weight is an input", "output", "per channel", "constant", "Mul"]
)
def test_what_cannot_be_padded_is_left_alone(change, logits, tissue):
    nodes, constants, outputs = list(CHAIN_NODES), dict(CHAIN), ["y"]
    assert rewrite(graph(nodes, constants), Layout(1, 16)) is not None
    if change == "weight used twice":
        nodes[3:] = [node("Conv", "3 b", "4", group=6), node("Conv", "4 c", "y")]
    if change == "output":
        outputs.append("3")
    if change == "per channel":
        del constants["b"]
        constants |= {"q": np.ones((6, 1, 3, 3), np.int8), "s": np.linspace(1, 2, 6, dtype=np.float32)}
        nodes.insert(0, node("DequantizeLinear", "q s", "b", axis=0))
    if change == "constant":
        value = numpy_helper.from_array(random(1, 6, 1, 1))
        nodes[3:] = [node("Constant", "", "k", value=value), node("Add", "3 k", "4"), node("Conv", "4 c", "y")]
    if change == "Mul":
        constants["k"] = random(6, 1, 1)
        nodes[3:] = [node("Mul", "3 k", "4"), node("Conv", "4 c", "y")]
    model = graph(nodes, constants, outputs)
    if change == "weight is an input":
        model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [6, 1, 3, 3]))
    onnx.checker.check_model(model)
    assert rewrite(model, Layout(1, 16)) is model


def test_the_chain_itself_can_be_padded(logits, tissue):
    images = tissue[:, :, :6, :6].contiguous()
    model = graph(CHAIN_NODES, CHAIN)
    rewritten = rewrite(model, Layout(1, 16))
    assert convolutions(rewritten) == [(1, 16, 3), (16, 16, 1), (1, 2, 16)]
    assert relative_difference(logits(rewritten, images), logits(model, images)) < 1e-6


def test_scales_per_channel_can_be_merged_and_are_not_cut():
    constants = {"a": random(6, 3, 1, 1), "q": np.ones((6, 2, 3, 3), np.int8), "s": random(6)}
    nodes = [node("DequantizeLinear", "q s", "w", axis=0), node("Conv", "x a", "1"), node("Conv", "1 w", "y", group=3)]
    for layout in (Layout(6, 1), Layout(6, 1, 4)):
        assert convolutions(rewrite(graph(nodes, constants), layout)) == [(1, 6, 3), (1, 6, 6)]


def test_layouts_are_checked():
    for bad in ({"group_channels": 0}, {"depthwise_multiple": -1}, {"piece_channels": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a whole number, at least 1"):
            Layout(**bad)


# --- which layout, and when ---


def test_the_layout_is_the_processors_and_the_runtimes(files, monkeypatch):
    path = files["INT8", "C4, field-wise"]
    before = path.read_bytes()
    monkeypatch.setattr(layouts, "MEASURED", {("x86_64", "onnxruntime"): {"INT8": {1: Layout(48, 16)}}})
    for system, expected in (("x86_64", bytes), ("AMD64", bytes), ("arm64", str), ("aarch64", str), ("riscv64", str)):
        monkeypatch.setattr(layouts.platform, "machine", lambda system=system: system)
        assert isinstance(layouts.prepared(path), expected), system
        assert layouts.prepared(path, "another runtime") == str(path)
    assert layouts.measured_layout("FP32", machine="x86_64") == AS_WRITTEN
    by_batch = {2: Layout(8), 8: Layout(16)}
    monkeypatch.setitem(layouts.MEASURED, ("x86_64", "onnxruntime"), {"INT8": by_batch})
    found = [layouts.measured_layout("INT8", machine="x86_64", batch=batch) for batch in (1, 2, 7, 8, 64)]
    assert found == [AS_WRITTEN, Layout(8), Layout(8), Layout(16), Layout(16)]
    assert path.read_bytes() == before


def test_another_layout_can_be_asked_for(files):
    """…of one file, without changing it; the logits are the same integers' in all of them."""
    path = files["INT8", "C4, field-wise"]
    assert layouts.prepared(path, layout=AS_WRITTEN) == str(path)
    assert isinstance(layouts.prepared(path, layout=Layout(8)), bytes)
    images = torch.randn(2, 3, 95, 95)
    found = [run_model(device.session(path, layout=layout), images) for layout in (None, AS_WRITTEN, Layout(8))]
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_the_layouts_are_those_that_the_benchmark_found_fastest(monkeypatch):
    """…up to what two runs of it differ by; and whatever is chosen has been measured."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "layouts", raising=False)
    import layouts as benchmark

    saved = json.loads((BENCHMARKS / "layouts.json").read_text())
    assert {f"{machine}, {runtime}" for machine, runtime in layouts.MEASURED} <= set(saved)
    for key, figures in saved.items():
        machine, runtime = key.split(", ")
        monkeypatch.setattr(benchmark, "architecture", lambda machine=machine: machine)
        batches = [int(batch) for batch in next(iter(figures["milliseconds"]["conventional"]["INT8"].values()))]
        assert {1, 32} <= set(batches) <= set(benchmark.BATCHES)
        for precision, batch in product(figures["milliseconds"]["conventional"], batches):
            ranking = benchmark.ranking(figures["milliseconds"], precision, batch)
            assert ranking[AS_WRITTEN] == 1
            chosen = layouts.measured_layout(precision, runtime, machine, batch=batch)
            # Two runs of the benchmark on this machine, other programs beside it, differed by up to 5 %.
            assert ranking[chosen] <= 1.05 * min(ranking.values()), (key, precision, batch)
        assert "field-wise C12 | INT8 | k = 4 |" in benchmark.tables(figures["milliseconds"])
    assert marks.shown("layouts", benchmark.README) == benchmark.page(saved)


def test_files_that_a_runtime_must_read_itself(files, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    assert layouts.prepared(tmp_path / "bad.onnx") == str(tmp_path / "bad.onnx")
    outside = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(files["FP32", "foreign"]),
        outside,
        save_as_external_data=True,
        location="weights",
        size_threshold=256,  # not shapes
    )
    assert layouts.prepared(outside) == str(outside)
    assert device.session(outside).get_inputs()[0].name == "images"
