"""ExecuTorch: the same integers, the same bits under quarter turns."""

import pytest
import torch

from equilib import pte
from equilib.deploy import deploy
from equilib.equivariance import run_model
from equilib.training import shipped_network


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pte")
    return deploy(shipped_network("pcam_C4_w0.35_20000_seed0"), folder / "model.onnx").simulated


def test_signed_integers_are_the_same_function(simulated, tissue):
    """Levels and zero points move by 128 together; sums of whole numbers are exact, so little is left to differ."""
    signed = pte.with_signed_integers(simulated)
    expected = run_model(simulated, tissue)
    assert (run_model(signed, tissue) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all(buffer.dtype == torch.int8 for name, buffer in signed.named_buffers() if name.endswith("conv.weight"))


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


def test_without_executorch_one_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .equilib\[executorch\]"):
        pte.load_pte(tmp_path / "model.pte")


@pytest.mark.slow
def test_the_program_gives_the_same_bits_under_quarter_turns(tissue, tmp_path):
    pytest.importorskip("executorch", reason=pte.INSTALL)
    deployed = deploy(shipped_network("pcam_C4_w0.35_20000_seed0"), tmp_path / "model.onnx")
    run = pte.load_pte(pte.export_pte(deployed.simulated, tmp_path / "model.pte", 95, largest_batch=8))
    upright = run_model(run, tissue)
    for turns in (1, 2, 3):
        assert torch.equal(run_model(run, torch.rot90(tissue, turns, (-2, -1))), upright)
    theirs = run_model(deployed.session, tissue)
    assert (upright - theirs).abs().max() < 0.1 * theirs.std(), "single levels may be rounded otherwise"
    (tmp_path / "damaged.pte").write_bytes((tmp_path / "model.pte").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged.pte is no ExecuTorch program"):
        pte.load_pte(tmp_path / "damaged.pte")
