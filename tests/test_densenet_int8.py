"""The DenseNet on its way to INT8: split normalizations, one scale for what is concatenated, the same bits in eight poses."""

import csv
import json
from itertools import product

import h5py
import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn

from equilib import device, dfq, int8, ranges
from equilib.__main__ import main
from equilib.bias_correction import clipped_gaussian
from equilib.densenet import DenseNetConfig, EquivariantDenseNet
from equilib.deploy import deploy
from equilib.equivariance import run_model
from equilib.graph import activations
from equilib.mobilenet import estimate_statistics
from equilib.pcam import input_range, split_path
from equilib.plain import Crop, DenseBlock, facts

RANGE = (-2.0, 3.0)


@pytest.fixture(scope="module")
def images(tissue):
    return nn.functional.interpolate(tissue, size=(96, 96), mode="bilinear")


@pytest.fixture(scope="module")
def model(images, tmp_path_factory):
    """A D4 DenseNet with the statistics of the images, from e2cnn to the INT8 file."""
    torch.manual_seed(0)
    network = randomize(EquivariantDenseNet(DenseNetConfig(growth=8)), images)
    return deploy(network, tmp_path_factory.mktemp("densenet") / "int8.onnx")


def _body(inputs, outputs):
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, bias=False))


def _nested():
    """Two dense blocks without a transition: what the stem wrote is cropped twice and read by three normalizations."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        DenseBlock(_body(4, 5)),
        DenseBlock(_body(9, 2)),
        *(nn.BatchNorm2d(11), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(11, 2, 1)),
    )


def _trained(network, images):
    """Statistics of the images, and a gamma that is negative in places."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return estimate_statistics(network, images)


def test_a_normalization_of_shared_channels_is_split_and_the_function_stays():
    x = 3 + 2 * torch.randn(16, 3, 10, 10, dtype=torch.float64)
    network = _trained(_nested().double(), x)
    folded = dfq.fold_batch_norm(network, input_shape=(3, 10, 10))
    assert torch.allclose(run_model(folded, x), run_model(network, x), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    # What the convolutions write is normalized; gamma and beta stand in the layers between.
    written = activations(folded, x)
    for name in ("_0", "_1_body_2", "_2_body_2"):
        values, layer = written[name].transpose(0, 1).flatten(1), folded.get_submodule(name[1:].replace("_", "."))
        assert torch.equal(facts(layer).mean, torch.zeros(len(values), dtype=torch.float64))
        assert torch.equal(facts(layer).std, torch.ones(len(values), dtype=torch.float64))
        assert values.mean(1).abs().max() < 0.01 and (values.std(1) - 1).abs().max() < 0.01
    affine = folded.get_submodule("_3_affine")
    assert torch.equal(facts(affine).mean, network[3].bias) and torch.equal(facts(affine).std, network[3].weight.abs())
    assert affine.groups == affine.in_channels == 11


class ReadBesides(nn.Module):
    """A concatenation that a normalization and something else read."""

    def __init__(self, other):
        super().__init__()
        self.a, self.b, self.norm, self.other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(4), other

    def forward(self, x):
        both = torch.cat((self.a(x), self.b(x)), 1)
        return self.norm(both) + self.other(both)


class OfActivations(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(torch.cat((self.a(x).relu(), self.b(x)), 1))


@pytest.mark.parametrize("make", [lambda: ReadBesides(nn.ReLU()), lambda: ReadBesides(nn.Identity()), OfActivations])
def test_channels_that_something_else_reads_are_refused(make):
    with pytest.raises(ValueError, match="norm does not follow a convolution of its own"):
        dfq.fold_batch_norm(make(), input_shape=(3, 4, 4))


def test_equalization_and_the_split_keep_the_function(model, images):
    doubles, plain = images.double(), model.exported.double()
    expected = run_model(plain, doubles)
    folded = dfq.fold_batch_norm(plain)
    equalized, report = dfq.equalize(folded)
    for network in (folded, equalized):
        assert (run_model(network, doubles) - expected).abs().max() <= 1e-9 * expected.std()
    # Each normalization and the layer behind its ReLU (and mean): five blocks, four transitions, the classifier.
    assert len(report.pairs) == 10
    for pair in report.pairs:
        first, second = (equalized.get_submodule(name) for name in (pair.first, pair.second))
        assert pair.first.endswith("norm_affine") and pair.relu
        if not report.bounded.get(pair):
            assert torch.allclose(dfq.ranges_by_output(first), dfq.ranges_by_input(second), rtol=1e-6)


def test_ranges_without_data_hold_the_activations(model, images):
    """…which are Gaussian by batch normalization's own statistics: nearly all values, where a tenth of the range would not."""
    found = ranges.shared_ranges(model.equalized, ranges.activation_ranges(model.equalized, input_range()))
    seen = activations(model.equalized, images)
    inside, narrow = ({} for _ in range(2))
    for name, values in seen.items():
        if name in found and name != "x":
            low, high = found[name].low, found[name].high
            inside[name] = ((values >= low) & (values <= high)).double().mean().item()
            narrow[name] = ((values >= low / 10) & (values <= high / 10)).double().mean().item()
    assert min(inside.values()) > 0.995
    assert min(narrow.values()) < 0.5
    for node in model.equalized.graph.nodes:
        if node.target is torch.cat:
            parts = [ranges.activation_ranges(model.equalized, input_range())[part.name] for part in node.args[0]]
            assert found[node.name].low == min(part.low for part in parts)
            assert found[node.name].high == max(part.high for part in parts)


def test_what_is_concatenated_shares_one_scale(model, images):
    """The concatenation, its parts and their sources: with ranges without data, and with measured ones."""
    for given in (None, ranges.calibrated_ranges(model.equalized, images)):
        simulated = int8.quantize(model.equalized, input_range(), ranges=given)
        grids = {name: module for name, module in simulated.named_modules() if isinstance(module, int8.FakeQuantize)}
        joined = 0
        for node in simulated.graph.nodes:
            if node.target is not torch.cat:
                continue
            (behind,) = node.users
            crop, written = node.args[0]
            source = crop.all_input_nodes[0]
            assert isinstance(simulated.get_submodule(crop.target), Crop)
            scales = {
                (grids[n.target].scale.item(), grids[n.target].zero_point.item()) for n in (behind, source, written)
            }
            assert len(scales) == 1, node
            joined += 1
        assert joined == 5


def test_a_concatenation_has_the_range_of_all_its_parts():
    """beta ± 6 |gamma| of the first part below and of the second above: neither alone would do."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an, self.b, self.bn = (*_conv_norm(3, 2), *_conv_norm(3, 3))
            self.c = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            return self.c(torch.cat((self.an(self.a(x)), self.bn(self.b(x))), 1))

    network = Net()
    for norm, mean, std in ((network.an, -2.0, 1.0), (network.bn, 1.0, 0.5)):
        nn.init.constant_(norm.bias, mean), nn.init.constant_(norm.weight, std)
    found = ranges.activation_ranges(dfq.fold_batch_norm(network, input_shape=(3, 4, 4)), RANGE)
    assert (found["cat"].low, found["cat"].high) == pytest.approx((-8, 4))


def test_a_tensor_in_two_concatenations_joins_them():
    class Twice(nn.Module):
        def forward(self, a, b, c):
            return torch.cat((torch.cat((a, b), 1), torch.cat((c, b), 1)), 1)

    traced = dfq.trace(Twice())
    known = {name: ranges.Distribution(-number, number) for number, name in enumerate("abc", start=1)}
    known |= {node.name: known["a"] for node in traced.graph.nodes if node.op == "call_function"}
    shared = ranges.shared_ranges(traced, known)
    assert {(one.low, one.high) for one in shared.values()} == {(-3, 3)}


def test_means_are_integer_sums(model, images):
    """The sum of four integers, each weighted by the same integer: exact, whatever the order of the pixels."""
    pools = [module for module in model.simulated.modules() if isinstance(module, int8.QuantizedMean)]
    assert len(pools) == 4
    scale = 0.03125
    x = torch.randint(0, 256, (2, 16, 6, 6)) * scale
    mean = int8.QuantizedMean(nn.AvgPool2d(2), 16)
    assert torch.equal(mean(x), nn.functional.avg_pool2d(x.double(), 2).float())
    assert (mean.weight / mean.scale).unique().tolist() == [64.0]


def test_no_layer_of_the_file_is_left_in_floating_point(model):
    """Concatenations and crops move bytes, means are convolutions: only the images come in as real numbers."""
    operators = device.optimized_operators(model.onnx)
    assert set(operators) <= {
        *("QuantizeLinear", "QLinearConv", "QLinearConcat", "Slice", "QLinearMatMul", "QGemm"),
        *("Transpose", "Reshape", "DequantizeLinear"),
    }
    assert operators["QuantizeLinear"] == 1 and operators["QLinearConcat"] == 5
    # stem, then per block two, per transition three (with the mean), and the last normalization
    assert operators["QLinearConv"] == 1 + 5 * 2 + 4 * 3 + 1


@pytest.mark.parametrize("mirrored, turns", list(product((False, True), range(4))))
def test_the_same_bits_in_all_eight_poses(model, images, mirrored, turns):
    posed = torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))
    expected = run_model(model.session, images)
    assert torch.equal(run_model(model.session, posed), expected)
    assert expected.std(0).min() > 0.1  # it does tell images apart


def test_the_file_answers_as_the_network(model, images):
    expected, actual = run_model(model.exported, images), run_model(model.session, images)
    assert (expected - actual).square().mean().sqrt() < 0.25 * expected.std()
    assert torch.allclose(run_model(model.simulated, images), actual, atol=0.25 * expected.std().item())


def test_means_of_a_concatenation_are_those_of_its_parts():
    """Bias correction behind it: eps E[x] with the moments of both parts, each of a clipped Gaussian."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an, self.b, self.bn = (*_conv_norm(3, 2), *_conv_norm(3, 3))
            self.crop, self.c, self.cn = Crop(1), *_conv_norm(5, 4)

        def forward(self, x):
            return self.cn(self.c(self.crop(torch.cat((self.an(self.a(x)).relu(), self.bn(self.b(x)).relu()), 1))))

    network = dfq.fold_batch_norm(_trained(Net(), torch.randn(8, 3, 6, 6)), input_shape=(3, 6, 6))
    _, report = dfq.correct_bias(network, lambda layer: layer.weight.detach() + 0.01, 6)
    a, b = (facts(network.get_submodule(name)) for name in "ab")
    mean = torch.cat([clipped_gaussian(known.mean, known.std)[0] for known in (a, b)])
    assert torch.allclose(report.corrected["c"], (0.01 * mean.sum()).expand(4), rtol=1e-4)


def _conv_norm(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)


@pytest.mark.slow
def test_from_patches_by_the_command_to_the_same_probabilities_in_eight_poses(tmp_path, capsys):
    """Train one epoch, quantize the checkpoint, classify patches and all their poses: 96 pixels all the way."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 32), ("valid", 16), ("test", 16)):
        labels = np.arange(n) % 2
        noise = 128 + rng.normal(size=(n, 96, 96, 3)) * np.where(labels, 60, 20)[:, None, None, None]
        for key, values in (("x", noise.clip(0, 255)), ("y", labels.reshape(-1, 1, 1, 1))):
            with h5py.File(split_path(tmp_path, split, key), "w") as file:
                file[key] = values.astype(np.uint8)
    words = ["--family", "densenet", "--growth", "8", "--epochs", "1", "--batch-size", "8", "--recalibrate", "32"]
    run, model = tmp_path / "run", tmp_path / "int8.onnx"
    asked = [
        "train",
        "equivariant",
        "--data",
        tmp_path,
        "--folder",
        run,
        *words,
        "--accelerator",
        "cpu",
        "--no-progress",
    ]
    assert main(list(map(str, asked))) == 0
    assert json.loads((run / "config.json").read_text())["network"]["family"] == "densenet"
    assert main(["quantize", str(run / "best.ckpt"), "-o", str(model)]) == 0
    assert "10 pairs equalized" in capsys.readouterr().out
    assert device.session(model).get_inputs()[0].shape[1:] == [3, 96, 96]
    with h5py.File(split_path(tmp_path, "test", "x")) as file:
        patches = file["x"][:2]
    with h5py.File(tmp_path / "poses.h5", "w") as file:
        mirrored = np.concatenate((patches, patches[:, :, ::-1]))
        file["x"] = np.concatenate([np.rot90(mirrored, turns, (1, 2)) for turns in range(4)])
    capsys.readouterr()
    assert main(["predict", str(model), str(tmp_path / "poses.h5")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    answers = [[row["probability_of_tumour"] for row in rows[start::2]] for start in range(2)]
    assert len(rows) == 16 and all(len(set(poses)) == 1 for poses in answers)
