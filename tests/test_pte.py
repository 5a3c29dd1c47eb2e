"""ExecuTorch: the same integers, the same bits under quarter turns, one sentence for what cannot be written."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from equilib import int8, pte, results
from equilib.__main__ import main
from equilib.deploy import deploy
from equilib.dfq import fold_batch_norm
from equilib.equivariance import relative_difference, run_model
from equilib.layouts import Layout
from equilib.mobilenet import exported
from equilib.runtimes import RUNTIMES
from equilib.training import shipped_network

NAME = "pcam_C4_w0.35_20000_seed0"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pte")
    return deploy(shipped_network(NAME), folder / "model.onnx").simulated


def test_signed_integers_are_the_same_function(simulated, tissue):
    """Levels and zero points move by 128 together; sums of whole numbers are exact, so little is left to differ."""
    signed = pte.with_signed_integers(simulated)
    expected = run_model(simulated, tissue)
    assert (run_model(signed, tissue) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all(buffer.dtype == torch.int8 for name, buffer in signed.named_buffers() if name.endswith("conv.weight"))


@pytest.mark.parametrize(
    "groups, width, limit, merged", [(6, 4, 16, 3), (6, 4, 8, 2), (6, 4, 7, 1), (5, 4, 16, 1), (24, 1, 16, 1)]
)
def test_merged_groups_are_the_same_integers(monkeypatch, groups, width, limit, merged):
    """In whole numbers, whose float sums are exact; and a depthwise layer stays one."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(groups * width, 3 * groups, 3, groups=groups)
    layer.weight.data = torch.randint(-127, 128, layer.weight.shape).float()
    layer.weight.data[0, 0, 0, 0] = 127
    layer.bias.data = torch.randint(-9, 9, layer.bias.shape).float()
    quantized = int8.QuantizedLayer(layer, torch.tensor(1.0))
    images = torch.randint(-128, 128, (2, groups * width, 5, 5)).float()
    made = []
    for layout in (Layout(limit), Layout()):
        monkeypatch.setattr(pte, "LAYOUT", layout)
        made.append(pte.SignedConv(quantized))
    few, many = made
    assert few.geometry[-1] == groups // merged and many.geometry[-1] == groups
    assert few.weight.dtype == torch.int8 and few.weight.shape == (3 * groups, merged * width, 3, 3)
    assert torch.equal(few(images), many(images)) and torch.equal(many(images), quantized(images))


@pytest.mark.parametrize("name", ["pcam_C4_fieldwise_w0.35_m24_20000_seed0", "pcam_C12_fieldwise_20000_epochs6_seed0"])
def test_a_program_stays_below_half_of_fp32(tmp_path, name):
    """…in weights, which are nearly all of it: zeros between merged groups are stored, too."""
    network = shipped_network(name)
    signed = pte.with_signed_integers(deploy(network, tmp_path / "model.onnx").simulated)
    stored = sum(buffer.numel() * buffer.element_size() for buffer in signed.state_dict().values())
    assert stored < 0.5 * 4 * sum(weight.numel() for weight in exported(network).state_dict().values())


def test_a_network_of_real_numbers_is_the_same_function(tissue):
    network = exported(shipped_network(NAME))
    real = pte._with_real_numbers(network, (3, 95, 95))
    expected = run_model(network, tissue)
    assert (run_model(real, tissue) - expected).abs().max() < 1e-5 * expected.abs().max()
    kinds = {type(module).__name__ for module in real.modules()}
    assert "RealDiscMean" in kinds and not kinds & {"DiscMean", "BatchNorm2d", "FieldDropout"}


def test_the_classifier_does_not_depend_on_the_order_of_addition(simulated):
    signed = pte.with_signed_integers(simulated)
    linear = next(module for module in signed.modules() if isinstance(module, pte.WholeNumberLinear))
    x = torch.randint(-128, 128, (50, linear.weight.shape[1]), dtype=torch.int8)
    expected = linear(x)
    order = torch.randperm(x.shape[1])
    linear.weight = linear.weight[:, order]
    assert torch.equal(linear(x[:, order]), expected)


def test_a_classifier_beyond_exact_sums_is_refused(simulated):
    layer = next(module for name, module in simulated.named_modules() if name == "classifier")
    layer.layer.weight.data = layer.scale * 127 * torch.ones(2, 1000)
    with pytest.raises(ValueError, match="beyond the whole numbers"):
        pte.WholeNumberLinear(layer, 1.0, 0)


# --- equilib quantize … -o model.pte ---


def one_sentence(capsys):
    said = capsys.readouterr()
    assert said.err.startswith("equilib: ") and said.err.count("\n") == 1 and said.out == "", said
    return said.err


@pytest.fixture
def checkpoint(monkeypatch):
    """A checkpoint whose network must not be loaded, since what is wrong can be said before."""
    monkeypatch.setattr("equilib.runs.load_network", lambda path: 1 / 0)
    return str(results.shipped_checkpoint(NAME))


def test_without_executorch_one_sentence_says_how_to_get_it(monkeypatch, tmp_path, capsys, checkpoint):
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(ModuleNotFoundError, match="pip install executorch torchao"):
        pte.load_pte(tmp_path / "model.pte")
    assert main(["quantize", checkpoint, "-o", str(tmp_path / "model.pte")]) == 1
    assert one_sentence(capsys) == f"equilib: {pte.INSTALL}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_note_names_the_versions_that_are_tested_together():
    """ExecuTorch asks for no version of torch, so nothing else says which ones go together."""
    pinned = (Path(__file__).parent.parent / "constraints.txt").read_text()
    for name in ("executorch", "torchao", "torch"):
        version = re.search(rf"^{name}==(\S+)$", pinned, re.M)[1]
        assert f"{name} {version}" in pte.INSTALL


@pytest.mark.parametrize("name, words", [("model.tflite", "ends in .tflite"), ("model", "without an ending")])
def test_another_ending_is_refused(tmp_path, capsys, checkpoint, name, words):
    assert main(["quantize", checkpoint, "-o", str(tmp_path / name)]) == 1
    error = one_sentence(capsys)
    assert name in error and words in error and ".onnx" in error and ".pte" in error
    assert list(tmp_path.iterdir()) == []


needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason=pte.INSTALL)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("pte") / "model.pte"
    assert main(["quantize", str(results.shipped_checkpoint(NAME)), "-o", str(path)]) == 0
    return path


@needs_executorch
@pytest.mark.slow
def test_merged_groups_give_the_same_bits(tmp_path, tissue, monkeypatch):
    simulated = deploy(shipped_network("pcam_C4_fieldwise_w0.35_m24_20000_seed0"), tmp_path / "model.onnx").simulated
    answers, sizes = [], []
    for layout in (pte.LAYOUT, Layout()):
        monkeypatch.setattr(pte, "LAYOUT", layout)
        path = pte.export_pte(simulated, tmp_path / "model.pte", 95)
        answers.append(run_model(pte.load_pte(path), tissue))
        sizes.append(path.stat().st_size)
    assert torch.equal(*answers) and sizes[0] > 1.2 * sizes[1], "another program, the same answers"


@needs_executorch
@pytest.mark.slow
def test_the_program_gives_the_same_bits_under_quarter_turns(program, tissue):
    run = pte.load_pte(program)
    upright = run_model(run, tissue)
    for turns in (1, 2, 3):
        assert torch.equal(run_model(run, torch.rot90(tissue, turns, (-2, -1))), upright)
    theirs = run_model(RUNTIMES["onnxruntime"].load(results.shipped_int8(NAME)), tissue)
    assert (upright - theirs).abs().max() < 0.1 * theirs.std(), "single levels may be rounded otherwise"


@needs_executorch
@pytest.mark.slow
def test_a_program_is_asked_its_self_test_where_it_is_loaded(program, tmp_path, monkeypatch):
    (tmp_path / "damaged.pte").write_bytes(program.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged.pte is no ExecuTorch program"):
        pte.load_pte(tmp_path / "damaged.pte")
    # The answers lie in the file as text: another first digit is another answer.
    contents = program.read_bytes()
    start = contents.index(b'"answers": [[') + len(b'"answers": [[')
    place = next(i for i in range(start, start + 4) if contents[i : i + 1].isdigit())
    digit = b"9" if contents[place : place + 1] != b"9" else b"5"
    (tmp_path / "other.pte").write_bytes(contents[:place] + digit + contents[place + 1 :])
    with pytest.raises(ValueError, match="other.pte gives wrong answers in this ExecuTorch: its self-test is off by"):
        pte.load_pte(tmp_path / "other.pte")


@needs_executorch
@pytest.mark.slow
def test_a_network_of_real_numbers_as_a_program(tmp_path, tissue):
    network = exported(shipped_network(NAME))
    run = pte.load_pte(pte.export_pte(network, tmp_path / "real.pte", 95, largest_batch=8))
    assert relative_difference(run_model(network, tissue), run_model(run, tissue)) < 1e-5


@needs_executorch
@pytest.mark.slow
def test_an_operator_that_executorch_lacks_is_named(tmp_path):
    class Spectrum(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    network = fold_batch_norm(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), Spectrum(), torch.nn.Flatten()))
    with pytest.raises(ValueError, match="cannot be written as an ExecuTorch program .*svd"):
        pte.export_pte(network, tmp_path / "model.pte", 95)
    assert list(tmp_path.iterdir()) == []


@needs_executorch
@pytest.mark.slow
def test_any_number_of_images_and_no_others(program, tissue, tmp_path):
    run = pte.load_pte(program)
    many = tissue[:5].repeat(14, 1, 1, 1)  # 70, and a program takes 32 at once
    assert torch.equal(run(many)[65:], run(tissue[:5]))
    for images, words in ((tissue[:0], "empty"), (tissue[..., :94], r"\(B, 3, 95, 95\)"), (tissue / 0, "NaN")):
        with pytest.raises(ValueError, match=words):
            run(images)
    single = pte.load_pte(pte.export_pte(exported(shipped_network(NAME)), tmp_path / "one.pte", 95, largest_batch=1))
    assert single(tissue[:3]).shape == (3, 2)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_counts_are_asked_before_executorch(count, tmp_path):
    with pytest.raises(ValueError, match="largest_batch must be a whole number"):
        pte.export_pte(torch.nn.Identity(), tmp_path / "x.pte", 95, largest_batch=count)
    with pytest.raises(ValueError, match="threads must be a whole number"):
        pte.load_pte(tmp_path / "x.pte", threads=count)
