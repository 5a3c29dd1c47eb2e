from functools import partial
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from conftest import randomize
from torch import nn

from equilib import device, dfq, figures, int8
from equilib.equivariance import relative_difference, run_model
from equilib.fields import rotate
from equilib.graph import output_shapes
from equilib.mobilenet import MobileNetConfig, build, exported
from equilib.training import shipped_network

RANGE = (-4.0, 4.0)


@pytest.fixture(scope="module", params=["mean", "max"])
def networks(request, tissue, tmp_path_factory):
    config = MobileNetConfig(width=0.35, group="C4", group_pooling=request.param)
    plain = exported(randomize(build("equivariant", config), tissue))
    absorbed, _ = dfq.absorb_high_bias(dfq.equalize(dfq.fold_batch_norm(plain))[0])
    simulated = int8.quantize(absorbed, RANGE)
    folder = tmp_path_factory.mktemp("onnx")
    paths = {
        "fp32": device.export_onnx(plain, folder / "fp32.onnx", 95),
        "int8": device.export_onnx(simulated, folder / "int8.onnx", 95),
    }
    return plain, simulated, paths


def test_fp32_export_is_the_same_function(networks, tissue):
    plain, _, paths = networks
    assert relative_difference(run_model(plain, tissue), run_model(device.session(paths["fp32"]), tissue)) < 1e-4


def test_batch_size_is_free(networks, tissue):
    session = device.session(networks[2]["int8"])
    together, one_by_one = (run_model(session, tissue, batch_size=b) for b in (8, 1))
    assert torch.equal(together, one_by_one)


def test_what_is_deployed_is_integer(networks):
    path = networks[2]["int8"]
    operators = device.optimized_operators(path)
    assert operators["QLinearConv"] == 52 and operators["QLinearAdd"] == 10 and operators["QGemm"] == 1
    assert operators["QLinearMatMul"] == 1, "the pooling adds integers"
    assert not {"Conv", "Gemm", "MatMul", "DequantizeLinear"} & set(operators)
    weights = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert len(weights) == 54  # 53 layers and the mask of the pooling
    biases = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.dims]
    assert len(biases) == 53
    assert not any(
        t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 95 * 95 for t in onnx.load(path).graph.initializer
    )


def test_simulation_and_deployment_agree(networks, tissue):
    """Up to a few roundings at ties: integer kernels and floating point round the same real numbers.

    A tie that falls the other way early on moves later layers: 0.10 to 0.16 was seen on an untrained network.  Kernels that
    saturate gave 0.48 on the same one.
    """
    _, simulated, paths = networks
    assert relative_difference(run_model(simulated, tissue), run_model(device.session(paths["int8"]), tissue)) < 0.3


def test_kernels_do_not_saturate_on_this_processor(networks, tissue, monkeypatch):
    """The kernels chosen for this processor give the bits of those that are exact on every one."""
    chosen = run_model(device.session(networks[2]["int8"]), tissue)
    monkeypatch.setattr(device, "has_vnni", lambda: False)
    assert torch.equal(chosen, run_model(device.session(networks[2]["int8"]), tissue))


def test_int8_is_invariant_to_the_bit(networks, tissue):
    """Random weights, so that hardly any rounding is far from a tie; tied copies must fall to the same side."""
    session = device.session(networks[2]["int8"])
    logits = [run_model(session, rotate(tissue, degrees)) for degrees in (0, 90, 180, 270)]
    assert all(torch.equal(logits[0], other) for other in logits[1:])
    assert logits[0].std(0).min() > 0


@pytest.mark.parametrize(
    "group, depthwise, antialias",
    [
        ("C12", "strict", False),
        ("D4", "strict", False),
        ("C4", "fieldwise", False),
        ("C6", "strict", False),
        ("C4", "fieldwise", True),
    ],
)
def test_other_groups_are_invariant_to_the_bit(group, depthwise, antialias, tissue, tmp_path, shallow):
    """Of every kind of block one or two; whole networks of four kinds are held to it in test_layouts.py."""
    config = MobileNetConfig(width=0.35, group=group, depthwise=depthwise, antialias=antialias)
    plain = exported(randomize(build("equivariant", config), tissue))
    simulated = int8.quantize(dfq.equalize(dfq.fold_batch_norm(plain))[0], RANGE)
    session = device.session(device.export_onnx(simulated, tmp_path / "net.onnx", 95))
    reference = run_model(session, tissue)
    for degrees in config.exact_angles[1:]:
        assert torch.equal(reference, run_model(session, rotate(tissue, degrees))), degrees


def test_narrow_weights_can_be_exported(tissue, tmp_path, shallow):
    """Weights of 7 bits: products of two fit into the 16 bits of processors without VNNI."""
    plain = exported(randomize(build("conventional", MobileNetConfig(width=0.35, group="C4")), tissue))
    simulated = int8.quantize(dfq.equalize(dfq.fold_batch_norm(plain))[0], RANGE, scheme=int8.Scheme(weight_bits=7))
    path = device.export_onnx(simulated, tmp_path / "net.onnx", 95)
    weights = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8
    ]
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 63


def test_bad_onnx_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        device.session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="bad.onnx is no ONNX file"):
        device.session(tmp_path / "bad.onnx")
    grey = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [grey], [result])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx is another network"):
        device.session(tmp_path / "other.onnx")
    for read in (device.add_self_test, device.optimized_operators, device.residual_block):
        with pytest.raises(ValueError, match="bad.onnx is no ONNX file"):
            read(tmp_path / "bad.onnx")
    (tmp_path / "program.pte").write_bytes(b"ET12")
    with pytest.raises(ValueError, match="program.pte is a program for ExecuTorch.*load_pte"):
        device.session(tmp_path / "program.pte")
    with pytest.raises(TypeError, match="layout must be"):
        device.session(tmp_path / "other.onnx", layout="x")


class Spectrum(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), Spectrum(), torch.nn.Flatten())
    with pytest.raises(ValueError, match="cannot be exported by torch.onnx: .*svd.*; change what it names") as error:
        device.export_onnx(dfq.fold_batch_norm(network), tmp_path / "model.onnx", 9)
    assert "\x1b" not in str(error.value) and "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "size, words", [(96, "takes no image of 96 x 96 pixels"), (-5, "size must be"), (95.5, "size must be")]
)
def test_another_input_size_is_refused(tmp_path, size, words):
    with pytest.raises(ValueError, match=words):
        device.export_onnx(exported(shipped_network("pcam_C4_w0.35_20000_seed0")), tmp_path / "model.onnx", size)


def test_a_size_that_only_a_later_layer_refuses_is_named(tmp_path):
    """The image's shape is known from folding; that the file is to be for another one shows when the network runs."""
    folded = dfq.fold_batch_norm(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 2)), input_shape=(3, 8, 8)
    )
    for of_size in (
        lambda size: device.export_onnx(folded, tmp_path / "model.onnx", size),
        partial(output_shapes, folded),
    ):
        with pytest.raises(
            ValueError, match="takes no image of 9 x 9 pixels .mat1.*; give the size that it was built for"
        ):
            of_size(9)
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_is_left(tmp_path):
    device.export_onnx(nn.Sequential(nn.Conv2d(3, 1, 1)), tmp_path / "net.onnx", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert not list(tmp_path.glob("*.part"))


# --- the figure of notebook 06 ---


def point(network, runtime, precision, ms, accuracy=0.8):
    return figures.Measured(network, runtime, precision, ms, accuracy, 0.01)


def test_the_figure_holds_every_point_by_network_runtime_and_precision():
    points = [point(n, r, p, ms) for ms, (n, r, p) in enumerate(product("ab", "xy", ("FP32", "INT8")), start=1)]
    ax = figures.accuracy_against_latency(points, title="which").axes[0]
    drawn = {(line.get_xdata()[0], line.get_marker(), line.get_color(), line.get_markerfacecolor() == "white")
             for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() in ("o", "s")}  # fmt: skip
    assert {x for x, *_ in drawn} == set(range(1, 9)) and len({colour for _, _, colour, _ in drawn}) == 2
    assert all(hollow == (points[x - 1].precision == "FP32") for x, _, _, hollow in drawn)
    assert {marker for x, marker, *_ in drawn if points[x - 1].runtime == "x"} == {"o"}
    assert ax.get_xscale() == "log" and "milliseconds" in ax.get_xlabel()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["a", "b", "x", "y", "INT8: filled", "FP32: open", "± one standard error"]


def test_networks_that_could_not_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="told apart"):
        figures.accuracy_against_latency([point(str(n), "x", "INT8", 1) for n in range(9)], title="too many")
