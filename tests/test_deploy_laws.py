"""The rungs of the ladder and the table of bit widths, against networks that are quantized by hand."""

import pytest
import torch
from conftest import randomize
from torch import nn

from equilib import dfq, int8
from equilib.deploy import bit_width_accuracies, quantization_ladder
from equilib.equivariance import run_model
from equilib.mobilenet import build, exported
from equilib.pcam import input_range


@pytest.fixture(scope="module")
def plain(small, tissue):
    return exported(randomize(build("equivariant", small), tissue))


def test_each_rung_is_what_its_name_says(plain, tissue):
    folded = dfq.fold_batch_norm(plain)
    equalized, _ = dfq.equalize(folded)
    by_hand = {
        "naive": int8.quantize(folded, input_range()),
        "+ equalization": int8.quantize(equalized, input_range()),
        "+ absorption": int8.quantize(dfq.absorb_high_bias(equalized)[0], input_range()),
        "per channel": int8.quantize(folded, input_range(), scheme=int8.Scheme(per_channel=True)),
    }
    ladder = quantization_ladder(plain)
    for name, network in by_hand.items():
        assert torch.equal(run_model(ladder[name], tissue[:2]), run_model(network, tissue[:2])), name


def test_bit_widths_are_weights_first_then_activations():
    """Against networks quantized by hand; the labels are what the one with 8-bit weights and 3-bit activations says."""
    images = torch.randn(300, 3, 3, 3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    network(images)  # statistics for the ranges
    network.eval()
    network[-1].bias.data[1] -= run_model(network, images).diff(dim=1).median()  # so that both classes occur
    equalized, _ = dfq.equalize(dfq.fold_batch_norm(network))
    said = {}
    for pair in ((8, 3), (3, 8)):
        scheme = int8.Scheme(weight_bits=pair[0], activation_bits=pair[1])
        said[pair] = run_model(int8.quantize(equalized, input_range(), scheme=scheme), images).argmax(1)
    expected = (said[3, 8] == said[8, 3]).double().mean().item()
    assert 0 < expected < 1, "the two must differ for this test to mean anything"
    table = bit_width_accuracies({"net": network}, images, said[8, 3], (3, 8))["net"]
    assert table[8, 3] == 1.0 and table[3, 8] == expected
