import numpy as np
import onnx
import pytest
import torch
from conftest import randomize
from torch import nn

from equilib import dfq, int8
from equilib.equivariance import equivariance_error, relative_difference, run_model
from equilib.mobilenet import MobileNetConfig, build, exported

RANGE = (-4.0, 4.0)


@pytest.fixture(scope="module", params=["mean", "max"])
def networks(request, tissue, tmp_path_factory):
    config = MobileNetConfig(width=0.35, group="C4", group_pooling=request.param)
    plain = exported(randomize(build("equivariant", config), tissue))
    absorbed, _ = dfq.absorb_high_bias(dfq.equalize(dfq.fold_batch_norm(plain))[0])
    simulated = int8.quantize(absorbed, RANGE)
    folder = tmp_path_factory.mktemp("onnx")
    paths = {
        "fp32": int8.export_onnx(plain, folder / "fp32.onnx", 95),
        "int8": int8.export_onnx(simulated, folder / "int8.onnx", 95),
    }
    return plain, simulated, paths


def test_fp32_export_is_the_same_function(networks, tissue):
    plain, _, paths = networks
    assert relative_difference(run_model(plain, tissue), run_model(int8.session(paths["fp32"]), tissue)) < 1e-4


def test_batch_size_is_free(networks, tissue):
    session = int8.session(networks[2]["int8"])
    together, one_by_one = (run_model(session, tissue, batch_size=b) for b in (8, 1))
    assert torch.equal(together, one_by_one)


def test_what_is_deployed_is_integer(networks):
    path = networks[2]["int8"]
    operators = int8.optimized_operators(path)
    assert operators["QLinearConv"] == 52 and operators["QLinearAdd"] == 10 and operators["QGemm"] == 1
    assert "Conv" not in operators and "Gemm" not in operators
    weights = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert len(weights) == 53
    biases = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.dims]
    assert len(biases) == 53
    assert not any(t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 95 * 95 for t in onnx.load(path).graph.initializer)


def test_simulation_and_deployment_agree(networks, tissue):
    """Up to a few roundings at ties: integer kernels and floating point round the same real numbers."""
    _, simulated, paths = networks
    assert relative_difference(run_model(simulated, tissue), run_model(int8.session(paths["int8"]), tissue)) < 0.15


def test_weights_take_256_levels_and_the_error_is_half_a_step():
    conv = nn.Conv2d(8, 8, 3)
    quantized = int8.QuantizedLayer(conv, torch.tensor(0.1))
    with torch.no_grad():
        levels = torch.fake_quantize_per_tensor_affine(conv.weight, quantized.scale, quantized.zero_point, -128, 127)
    assert (levels - conv.weight).abs().max() <= quantized.scale / 2 * (1 + 1e-5)
    integers = levels / quantized.scale
    assert torch.allclose(integers, integers.round(), atol=1e-4) and integers.abs().max().round() == 127
    assert len(levels.unique()) <= 255


def test_activation_range_includes_zero_exactly():
    quantizer = int8.FakeQuantize(0.7, 3.0)
    assert quantizer(torch.zeros(1)) == 0
    x = torch.linspace(0, 3, 1001)
    assert (quantizer(x) - x).abs().max() <= 3 / 255 / 2 * 1.001
    assert int8.FakeQuantize(0.0, 0.0)(torch.zeros(2)).abs().sum() == 0
    with pytest.raises(ValueError, match="finite"):
        int8.FakeQuantize(0.0, float("inf"))


def test_ranges_without_data_hold_gaussian_activations():
    """beta ± 6 |gamma| behind the convolution, 0 … behind its ReLU, sums of means and variances behind an addition."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.b, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.relu, self.c = nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.an(self.a(x))
            return self.c(y + self.bn(self.b(self.relu(y))))

    net = Net().eval()
    with torch.no_grad():
        net.an.bias.copy_(torch.tensor([1.0, 2, 3, 4])), net.an.weight.fill_(-0.5)
        net.bn.bias.fill_(1.0), net.bn.weight.fill_(1.2)
    # `y` has two users, so the ReLU reads a tensor that is rounded before it.
    ranges = int8.activation_ranges(dfq.fold_batch_norm(net), (-1, 1))
    assert (ranges["a"].low, ranges["a"].high) == pytest.approx((1 - 3, 4 + 3))
    assert (ranges["relu"].low, ranges["relu"].high) == pytest.approx((0, 7))
    spread = 6 * (0.5**2 + 1.2**2) ** 0.5
    assert (ranges["add"].low, ranges["add"].high) == pytest.approx((2 - spread, 5 + spread))
    quantized = int8.quantize(dfq.fold_batch_norm(net), (-1, 1))
    assert sum(isinstance(m, int8.FakeQuantize) for m in quantized.modules()) == 5


def test_a_network_without_statistics_is_refused():
    network = dfq.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    with pytest.raises(ValueError, match="0 .Conv2d. has no batch-norm statistics"):
        int8.quantize(network, RANGE)


def test_quantization_leaves_its_argument_alone(tissue):
    plain = exported(randomize(build("conventional", MobileNetConfig(width=0.35, group="C4")), tissue))
    folded = dfq.fold_batch_norm(plain)
    before = run_model(folded, tissue)
    int8.quantize(folded, RANGE)
    assert torch.equal(before, run_model(folded, tissue))


def test_int8_of_the_equivariant_network_is_nearly_invariant(networks, tissue):
    """Random weights amplify every rounding, so the bound is loose; trained networks are measured in results/."""
    errors = equivariance_error(int8.session(networks[2]["int8"]), tissue, 90)
    assert errors.rms < 0.3


def test_bad_onnx_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        int8.session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="bad.onnx is no ONNX file"):
        int8.session(tmp_path / "bad.onnx")
    grey = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [grey], [result])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx is another network"):
        int8.session(tmp_path / "other.onnx")


def test_nothing_half_written_is_left(tmp_path):
    int8.export_onnx(nn.Sequential(nn.Conv2d(3, 1, 1)), tmp_path / "net.onnx", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert not list(tmp_path.glob("*.part"))
