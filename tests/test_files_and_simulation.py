"""A written file answers as its simulation does, here and on the machine where it runs, or is refused in one sentence."""

import json

import onnx
import pytest
import torch
from torch import nn

from equilib import device, dfq, int8, self_test
from equilib.equivariance import run_model
from equilib.mobilenet import estimate_statistics
from equilib.plain import DenseBlock, DiscMask, DiscMean, GroupMax, Residual

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _block(inputs, outputs, kernel=3, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


def _tail(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


class WithConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shift, self.tail = _block(3, 8), nn.Parameter(torch.full((1, 8, 1, 1), 3.0)), _tail(8)

    def forward(self, x):
        return self.tail(self.first(x) + self.shift)


def _simulated(network, images=X):
    folded = dfq.fold_batch_norm(network.eval(), input_shape=tuple(images.shape[1:]))
    return int8.quantize(folded, (0.0, 1.0), ranges=int8.calibrated_ranges(folded, images))


@pytest.mark.parametrize(
    "make",
    [
        WithConstant,
        lambda: nn.Sequential(_block(3, 8), nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), _tail(8)),
        lambda: nn.Sequential(_block(3, 8), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), _tail(8)),
        lambda: nn.Sequential(_block(3, 8, padding=2, dilation=2, padding_mode="reflect"), _tail(8)),
        lambda: nn.Sequential(_block(3, 8, padding="same"), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2)),
    ],
)
def test_the_file_answers_as_the_simulation(make, tmp_path):
    simulated = _simulated(make())
    session = device.session(device.export_onnx(simulated, tmp_path / "net.onnx", 16))
    expected = run_model(simulated, X)
    assert (run_model(session, X) - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("quantized", [False, True])
def test_what_the_exporter_leaves_out_changes_no_file(quantized, tmp_path, monkeypatch):
    """A network that holds each of the operators which ONNX has as they are: with and without torch's second tracing."""
    network = nn.Sequential(
        *(DiscMask(16), _block(3, 8), Residual(_block(8, 8, padding=1)), DenseBlock(nn.Conv2d(8, 4, 3)), _block(12, 8)),
        *(GroupMax(2), DiscMean(10), nn.Dropout(0.2), nn.Linear(4, 2)),
    )
    estimate_statistics(network, X)
    network = _simulated(network) if quantized else network
    files, traced, tracing = [], [], torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *rest: traced.append(1) or tracing(*rest)
    )
    known = device.IN_ONNX
    for left_out in (known, frozenset()):
        monkeypatch.setattr(device, "IN_ONNX", left_out)
        files.append(onnx.load(device.export_onnx(network, tmp_path / f"{len(files)}.onnx", 16)).graph)
        assert len(traced) == len(files) - 1, "the first one is not traced again"
    used = {str(node.target) for node in torch.export.export(network, (X,)).graph.nodes if node.op == "call_function"}
    only = {"aten.batch_norm.default", "aten.permute.default", "aten.fake_quantize_per_tensor_affine.tensor_qparams"}
    assert used - only == known - only and used & only == {one for one in only if ("fake" in one) == quantized}
    assert [node.op_type for node in files[0].node] == [node.op_type for node in files[1].node]
    arrays = [[onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer] for graph in files]
    # Names differ, and how Reshape is told to keep the batch (0 for "as it is", or -1 for "what is left").
    constants = [sorted((str(a.dtype), a.shape, a.tobytes()) for a in some if a.dtype != "int64") for some in arrays]
    assert constants[0] == constants[1] and len(constants[0]) > 10
    answers = [run_model(device.session(tmp_path / f"{number}.onnx"), X) for number in (0, 1)]
    assert torch.equal(*answers)


def test_biases_beyond_32_bits_take_a_larger_step(tmp_path):
    network = nn.Sequential(_block(3, 8), _block(8, 8, 1), _tail(8))
    network[1][1].weight.data.mul_(1e-7), network[1][1].bias.data.uniform_(0.5, 1.0)
    simulated = int8.quantize(dfq.fold_batch_norm(network.eval()), (0.0, 1.0))
    path = device.export_onnx(simulated, tmp_path / "net.onnx", 16)
    biases = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name.endswith("_int32")]
    assert biases and max(abs(int(b)) for bias in biases for b in bias.flatten()) <= int8.BIAS_LIMIT
    expected = run_model(simulated, X)
    assert (run_model(device.session(path), X) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "shape, dtype", [((1, 16, 16), torch.float32), ((4, 16, 24), torch.float64), ((3, 16, 16), torch.bfloat16)]
)
def test_other_channels_sizes_and_precisions(shape, dtype, tmp_path):
    network = nn.Sequential(_block(shape[0], 8), _tail(8)).to(dtype)
    simulated = int8.quantize(dfq.fold_batch_norm(network.eval(), input_shape=shape), (0.0, 1.0))
    session = device.session(device.export_onnx(simulated, tmp_path / "net.onnx", shape[1:]))
    assert session.get_inputs()[0].shape[1:] == list(shape)
    assert run_model(session, torch.rand(3, *shape)).shape == (3, 2)


def test_a_divisor_that_onnx_does_not_know_is_refused(tmp_path):
    network = nn.Sequential(_block(3, 8), nn.AvgPool2d(2, divisor_override=1), _tail(8))
    with pytest.raises(ValueError, match="1 has a divisor of its own"):
        device.export_onnx(_simulated(network), tmp_path / "net.onnx", 16)


def test_a_file_that_differs_is_not_written_and_the_layer_is_named(tmp_path, monkeypatch):
    """An exporter that loses half of a weight."""
    store = device._store_integers

    def losing(model):
        store(model)
        weight = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) // 2, weight.name))

    monkeypatch.setattr(device, "_store_integers", losing)
    simulated = _simulated(nn.Sequential(_block(3, 8), _tail(8)))
    with pytest.raises(ValueError, match=r"answer otherwise than the network.*begins at 0\.0 \(QuantizedLayer\)"):
        device.export_onnx(simulated, tmp_path / "net.onnx", 16)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("self_test") / "net.onnx"
    return device.export_onnx(_simulated(nn.Sequential(_block(3, 8), _tail(8))), path, 16)


def _changed(path, folder, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def _answers(change):
    def apply(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == self_test.KEY]
        entry.value = change(entry.value)

    return apply


def test_a_machine_that_answers_otherwise_is_refused(written, tmp_path):
    def other(text):
        values = json.loads(text)
        values["answers"][2][1] += 10 * values["tolerance"]
        return json.dumps(values)

    with pytest.raises(ValueError, match="wrong answers on this machine.*VNNI, onnxruntime.*--weight-bits 7"):
        device.session(_changed(written, tmp_path, _answers(other)))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"shape": [3, 16, 16], "answers": [[1]]}'])
def test_a_self_test_that_is_damaged_is_said(written, tmp_path, text):
    with pytest.raises(ValueError, match="changed.onnx is damaged.*export it again"):
        device.session(_changed(written, tmp_path, _answers(lambda old: text)))


def test_a_file_without_self_test_still_runs(written, tmp_path):
    expected = run_model(device.session(written), X)
    assert torch.equal(run_model(device.session(_changed(written, tmp_path, _drop)), X), expected)


def _drop(model):
    del model.metadata_props[:]


def test_a_file_without_self_test_can_get_one(written, tmp_path):
    """From the graph alone: the answers that the simulation would have given, and a tolerance that is no wider."""
    path = _changed(written, tmp_path, _drop)
    kept, found = (self_test.read(_self_test_of(device.add_self_test(one))) for one in (written, path))
    assert (found.shape, found.low, found.high) == (kept.shape, pytest.approx(kept.low), pytest.approx(kept.high))
    assert found.error(kept.answers) <= found.tolerance <= kept.tolerance
    rounding = found.tolerance / 6**0.5
    assert found.error(kept.answers) < 0.2 * rounding, "rounded answers, not those of real numbers"
    assert onnx.load(path).graph == onnx.load(written).graph
    before = path.read_bytes()
    assert device.add_self_test(path).read_bytes() == before, "a file that has one stays"
    with_test = _changed(written, tmp_path, lambda model: model.metadata_props.pop())
    assert device.add_self_test(with_test).read_bytes() == written.read_bytes(), "with a digest of its weights, too"

    def other_weight(model):
        weight = max((one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8), key=_size)
        values = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weight.name))

    with pytest.raises(ValueError, match="changed.onnx is damaged: its weights"):
        device.session(_changed(path, tmp_path, other_weight))
    older = _changed(path, tmp_path, lambda model: model.metadata_props.pop())
    with pytest.raises(ValueError, match="wrong answers on this machine"):
        device.session(older)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_one_bit_of_a_weight_is_seen(written, tmp_path, bit):
    """…though the answers differ by less than rounding explains; in each kind of constant, whatever it is called."""
    model = onnx.load(written)
    largest = {kind: max(group, key=_size) for kind, group in _by_type(model.graph.initializer).items()}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT} <= largest.keys()
    for number, name in enumerate(tensor.name for tensor in largest.values()):

        def flip(model, name=name):
            tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
            raw = bytearray(tensor.raw_data)
            raw[len(raw) // 2] ^= 1 << bit
            tensor.raw_data = bytes(raw)

        damaged = _changed(written, tmp_path, flip).rename(tmp_path / f"{number}.onnx")
        for read in (device.session, device.optimized_operators):
            with pytest.raises(
                ValueError, match=rf"{number}\.onnx.* is damaged: its weights .* export it again"
            ) as error:
                read(damaged)
            assert "\n" not in str(error.value)

    def rename(model):
        for node in model.graph.node:
            node.input[:] = [f"{one}_" if one in known else one for one in node.input]
        for tensor in model.graph.initializer:
            tensor.name += "_"

    known = {tensor.name for tensor in model.graph.initializer}
    assert torch.equal(
        run_model(device.session(_changed(written, tmp_path, rename)), X), run_model(device.session(written), X)
    )


def _by_type(tensors):
    found = {}
    for tensor in tensors:
        if tensor.raw_data:
            found.setdefault(tensor.data_type, []).append(tensor)
    return found


def _size(tensor):
    return len(tensor.raw_data)


def _self_test_of(path):
    (entry,) = [entry for entry in onnx.load(path).metadata_props if entry.key == self_test.KEY]
    return entry.value


def test_only_an_int8_network_of_ours_can_get_a_self_test(tmp_path):
    path = device.export_onnx(nn.Sequential(_block(3, 8), _tail(8)).eval(), tmp_path / "fp32.onnx", 16)
    with pytest.raises(ValueError, match="fp32.onnx is no INT8 network"):
        device.add_self_test(_changed(path, tmp_path, _drop).rename(tmp_path / "fp32.onnx"))


def test_images_of_the_self_test_are_the_same_everywhere():
    """Integer arithmetic alone: these sums may never change, or files in the world would be refused."""
    levels = self_test._levels((3, 16, 16))
    assert levels.min() >= 0 and levels.max() <= 255 and levels.std() > 20
    assert len({image.tobytes() for image in levels}) == self_test.IMAGES
    assert levels.sum() == 381359 and levels[1, 2, 3, :6].tolist() == [185, 141, 177, 123, 128, 144]


def test_numbers_that_are_none_are_named(tmp_path):
    network = nn.Sequential(_block(3, 8), _tail(8)).eval()
    network[1][2].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infin"):
        device.export_onnx(network, tmp_path / "net.onnx", 16)
    folded = dfq.fold_batch_norm(nn.Sequential(_block(3, 8), _tail(8)).eval())
    for bad in ((0.0, float("nan")), (0.0, float("inf")), (1.0, 0.0)):
        with pytest.raises(ValueError, match="input_range.*finite"):
            int8.quantize(folded, bad)
    assert not list(tmp_path.iterdir())


def test_ranges_without_a_rule_name_the_way_out():
    class Plus(WithConstant):
        def forward(self, x):
            return self.tail(self.first(x) + 3)

    folded = dfq.fold_batch_norm(Plus().eval())
    with pytest.raises(ValueError, match="add.*calibrated_ranges"):
        int8.quantize(folded, (0.0, 1.0))
    int8.quantize(folded, (0.0, 1.0), ranges=int8.calibrated_ranges(folded, X))
