"""A function in place of a layer is that layer to every step; what is none stays as it is written."""

import pytest
import torch
from by_hand import Written, conv
from torch import nn
from torch.nn import functional as F

from equilib import dfq, int8
from equilib.graph import activations, trace

SAME = (
    (lambda x: x.mean((2, 3)), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: x.mean(dim=[-1, -2]), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: x.mean([2, 3], True).flatten(1), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: torch.mean(x, dim=(2, 3)), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: torch.mean(x, (3, 2), keepdim=True).reshape(-1, 6), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.adaptive_avg_pool2d(x, 1).view((x.shape[0], 6)), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: torch.reshape(F.adaptive_avg_pool2d(x, 1), (x.size()[0], -1)), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.avg_pool2d(x, 12).view(-1, 6), (nn.AvgPool2d(12), nn.Flatten())),
    (lambda x: F.avg_pool2d(x, x.size(3)).view(x.size(0), -1), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.avg_pool2d(x, kernel_size=x.shape[2:]).flatten(1), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.max_pool2d(x, (x.size()[2], x.size(3))).flatten(1), (nn.AdaptiveMaxPool2d(1), nn.Flatten())),
    (lambda x: torch.reshape(input=F.adaptive_avg_pool2d(input=x, output_size=1), shape=(-1, 6)), (nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.avg_pool2d(x, 2, padding=1).mean((2, 3)), (nn.AvgPool2d(2, None, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True).mean((2, 3)), (nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (lambda x: torch.max_pool2d(x, 2).amax((2, 3)), (nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten())),
    (lambda x: F.adaptive_max_pool2d(x, 1).flatten(1), (nn.AdaptiveMaxPool2d(1), nn.Flatten())),
    (lambda x: F.dropout(x.mean((2, 3)), 0.2, False), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))),
)  # fmt: skip


def networks(function, layers):
    """One network with the function, one with the layers, of the same weights, folded."""
    torch.manual_seed(0)
    parts = {"a": conv(3, 6, 3, padding=1), "n": nn.BatchNorm2d(6), "c": nn.Linear(6, 2)}
    rest = nn.Sequential(*layers)
    both = (
        Written(lambda s, x: s.c(function(torch.relu(s.n(s.a(x))))), **parts),
        Written(lambda s, x: s.c(s.rest(torch.relu(s.n(s.a(x))))), rest=rest, **parts),
    )
    return [dfq.fold_batch_norm(network.eval(), input_shape=(3, 12, 12)) for network in both]


@pytest.mark.parametrize("function, layers", SAME)
def test_a_function_is_the_layer_to_the_last_bit(function, layers):
    x = torch.randn(4, 3, 12, 12)
    answers, pairs = [], []
    for network in networks(function, layers):
        equalized, report = dfq.equalize(network)
        absorbed, _ = dfq.absorb_high_bias(equalized)
        pairs.append(len(report.pairs))
        answers.append(int8.quantize(absorbed, (-3.0, 3.0))(x))
    assert pairs == [pairs[0]] * 2 and torch.equal(*answers)


@pytest.mark.parametrize("function, layers", SAME[:2])
def test_corrected_biases_agree_too(function, layers):
    def rounded(layer):
        return int8.rounded_weight(layer, int8.Scheme(weight_bits=4))

    corrected = [dfq.correct_bias(network, rounded, 12)[0] for network in networks(function, layers)]
    first, second = (dict(network.named_parameters()) for network in corrected)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((1, 2)),
        lambda x: x.mean((0, 2, 3), keepdim=True),
        lambda x: x.flatten(2).mean((-2, -1)),
        lambda x: x.mean((2, 3), dtype=torch.float64),
        lambda x: x.mean(3).mean(2),
        lambda x: F.avg_pool2d(x, x.size(3) // 2),
        lambda x: F.avg_pool2d(x, x.size(1)),
        lambda x: F.avg_pool2d(x, x.shape[2:], 1),
        lambda x: F.max_pool2d(x, x.size(3), padding=1),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: x.view(x.size(0), x.size(1), -1),
        lambda x: x.reshape(-1, 144),
        lambda x: x.reshape(1, -1),
        lambda x: F.avg_pool2d(x, 2, 2, 0, False, True, x.size(0)),
    ],
)
def test_what_is_no_layer_stays_as_it_is_written(function):
    network = Written(lambda s, x: function(s.a(x)), a=conv(3, 6))
    traced = trace(network.eval(), input_shape=(3, 12, 12))
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(traced(x), network(x))
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["a"]


def test_a_dropout_that_always_acts_is_none_that_is_idle():
    network = Written(lambda s, x: s.a(F.dropout(x, 0.5)), a=conv(3, 6)).eval()
    with pytest.raises(ValueError, match="dropout .* has no batch-norm statistics"):
        int8.quantize(trace(network, input_shape=(3, 4, 4)), (-1.0, 1.0))


@pytest.mark.parametrize("clip", [F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0)])
def test_functions_that_clip_are_refused_as_their_layers_are(clip):
    with pytest.raises(ValueError, match="is a ReLU6: .* Replace it by ReLU"):
        trace(Written(lambda s, x: clip(s.a(x)), a=conv(3, 6)))


def test_a_network_whose_image_is_not_found_is_traced_as_before():
    network = Written(lambda s, x: s.a(x.view(7, 3, 9, 9)).mean((2, 3)), a=conv(3, 6)).eval()
    assert "mean" in [node.target for node in trace(network).graph.nodes]


def test_sizes_that_nobody_asks_for_any_more_are_gone():
    network = Written(
        lambda s, x: s.c(s.a(x).mean((2, 3), keepdim=True).view(x.shape[0], -1)), a=conv(3, 6), c=nn.Linear(6, 2)
    )
    traced = trace(network.eval(), input_shape=(3, 8, 8))
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}
    assert activations(traced, torch.randn(5, 3, 8, 8))["c"].shape == (5, 2)


def test_every_spelling_of_a_flattening_gives_an_integer_classifier(tmp_path):
    from equilib import device

    for function, layers in (SAME[0], SAME[5]):
        for network in networks(function, layers):
            path = device.export_onnx(int8.quantize(network, (-3.0, 3.0)), tmp_path / "model.onnx", 12)
            operators = device.optimized_operators(path)
            assert "QGemm" in operators and not {"Gemm", "Conv", "FusedConv"} & set(operators), operators
