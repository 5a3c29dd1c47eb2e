"""What may not stand in a network whose weights are changed in place of its function, and how it is said."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from equilib import dfq, graph
from equilib.equivariance import run_model
from equilib.same_function import check_same_function


def conv(inputs, outputs, kernel=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, **options)


def chain(*between):
    return nn.Sequential(conv(3, 8), nn.ReLU(), *between, conv(8, 8), nn.ReLU(), conv(8, 2))


def _shared():
    network = chain(conv(8, 8), nn.ReLU())
    network[4].weight = network[2].weight
    return network


def _shared_bias():
    network = chain(conv(8, 8), nn.ReLU())
    network[4].bias = network[2].bias
    return network


def _on_second(change):
    def make():
        network = chain()
        change(network[2])
        return network

    return make


def _buffer_for_weight(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)


def _low_rank(layer):
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))

        def forward(self, weight):
            return weight + (self.a @ self.b)[..., None, None]

    nn.utils.parametrize.register_parametrization(layer, "weight", LowRank())


def _hook_on_relu():
    network = chain()
    network[1].register_forward_hook(lambda module, inputs, output: output.clamp(max=0.1))
    return network


def _hook_on_the_whole():
    network = chain()
    network.register_forward_hook(lambda module, inputs, output: output.abs())
    return network


def _forward_of_its_own(layer):
    layer.forward = lambda x: F.conv2d(x, layer.weight.abs())


class ReadElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 8)

    def forward(self, x):
        return self.b(F.relu(self.a(x))) + self.a.weight.sum()


class OfQuantizationAwareTraining(nn.Module):
    def __init__(self):
        super().__init__()
        from torch.ao.nn import qat
        from torch.ao.quantization import get_default_qat_qconfig

        self.a, self.b = conv(3, 8), qat.Conv2d(8, 8, 1, qconfig=get_default_qat_qconfig())

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, words",
    [
        (_shared, "2.weight and 4.weight are one parameter.*Give 4 its own"),
        (_shared_bias, "2.bias and 4.bias are one parameter"),
        (
            _on_second(parametrizations.weight_norm),
            "2 computes its weight by a parametrization.*remove_parametrizations",
        ),
        (_on_second(parametrizations.spectral_norm), "2 computes its weight by a parametrization"),
        (_on_second(_low_rank), "2 computes its weight by a parametrization"),
        (_on_second(nn.utils.weight_norm), "2 computes its weight anew.*remove_weight_norm"),
        (_on_second(nn.utils.spectral_norm), "2 computes its weight anew.*remove_spectral_norm"),
        (
            _on_second(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
            "2 computes its weight anew.*prune.remove",
        ),
        (_on_second(_buffer_for_weight), "2 keeps its weight or bias as something else than a parameter"),
        (_on_second(_forward_of_its_own), "2 has a forward of its own"),
        (_on_second(lambda layer: layer.register_forward_pre_hook(lambda m, x: None)), "2 has a forward hook"),
        (_hook_on_relu, "1 has a forward hook.*handle.remove"),
        (_hook_on_the_whole, "Sequential has a forward hook"),
        (ReadElsewhere, "also reads a.weight beside calling a"),
        (OfQuantizationAwareTraining, "b is a torch.ao.nn.qat"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 1), nn.ReLU(), conv(8, 2)), "0 has no weights yet"),
    ],
)
def test_layers_that_are_not_what_their_class_says_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        dfq.fold_batch_norm(make())


def test_a_hook_that_comes_after_folding_is_seen_too():
    folded = dfq.fold_batch_norm(chain())
    folded.get_submodule("1").register_forward_hook(lambda module, inputs, output: output.clamp(max=0.1))
    for step in (dfq.equalize, dfq.absorb_high_bias, lambda network: dfq.rescale(network, {})):
        with pytest.raises(ValueError, match="1 has a forward hook"):
            step(folded)


class Inherits(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "network",
    [
        chain().requires_grad_(False),
        nn.Sequential(Inherits(3, 8, 1), nn.ReLU(), Inherits(8, 2, 1)),
        nn.Sequential(nn.utils.remove_weight_norm(nn.utils.weight_norm(conv(3, 8))), nn.ReLU(), conv(8, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_harmless_kinds_are_equalized(network):
    x = torch.randn(2, 3, 8, 8)
    equalized, report = dfq.equalize(dfq.fold_batch_norm(network))
    assert len(report.pairs) == len([m for m in network if isinstance(m, nn.Conv2d)]) - 1
    assert torch.allclose(run_model(equalized, x), run_model(network, x), atol=1e-5)


def test_two_functions_are_told_apart_with_the_layer_where_they_part():
    traced = dfq.trace(chain()).double()
    graph.find_input_shape(traced)
    other = copy.deepcopy(traced)
    check_same_function(traced, other, "nothing", traced=traced)
    other.get_submodule("2").weight.data[3, 2] += 0.01
    with pytest.raises(ValueError, match="nothing would change the function.*begins at 2"):
        check_same_function(traced, other, "nothing", traced=traced)


def test_what_draws_at_random_is_one_function():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 2)

        def forward(self, x):
            return F.dropout(self.b(F.relu(self.a(x))))

    _, report = dfq.equalize(dfq.fold_batch_norm(Noisy()))
    assert len(report.pairs) == 1


@pytest.mark.parametrize(
    "network, shape",
    [
        (nn.Sequential(conv(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 2)), (1, 28, 28)),
        (nn.Sequential(conv(5, 4, 3), nn.Flatten(), nn.Linear(4 * 9 * 9, 2)), (5, 11, 11)),
        (nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2)), (7,)),
    ],
)
def test_the_size_of_images_is_found(network, shape):
    assert graph.find_input_shape(dfq.trace(network)) == shape


def test_a_size_that_is_not_found_is_asked_for():
    network = nn.Sequential(conv(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 10, 2))
    with pytest.raises(ValueError, match="takes no single image that could be found.*input_shape"):
        dfq.fold_batch_norm(network)
    folded = dfq.fold_batch_norm(network, input_shape=(3, 8, 12))
    assert not dfq.equalize(folded)[1].pairs


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_that_are_no_numbers_are_named(part):
    network = chain()
    getattr(network[2], part).data[0] = float("nan")
    with pytest.raises(ValueError, match="2 (has|gives).*NaN or infinite"):
        dfq.equalize(dfq.fold_batch_norm(network))


VOLUME = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2))
SIGNAL = nn.Sequential(nn.Conv1d(4, 2, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 2))


@pytest.mark.parametrize(
    "network, shape, size, expected",
    [
        (SIGNAL, None, 32, (4, 32)),
        (SIGNAL, (4, 64), 32, (4, 32)),
        (SIGNAL, (4, 64), (32,), (4, 32)),
        (VOLUME, (1, 16, 16, 16), 8, (1, 8, 8, 8)),
        (VOLUME, (1, 16, 16, 16), (8, 9, 10), (1, 8, 9, 10)),
        (chain(), (3, 8, 8), [9, 7], (3, 9, 7)),
        (chain(), None, (9, 7), (3, 9, 7)),
    ],
)
def test_a_size_has_the_axes_of_the_network_asked_once_or_twice(network, shape, size, expected):
    traced = dfq.trace(copy.deepcopy(network), input_shape=shape)
    assert [graph.find_input_shape(traced, size) for _ in range(2)] == [expected] * 2
    assert graph.find_input_shape(traced) == (shape or expected), "what was said at tracing stays"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [(9,), (9, 9, 9), b"9", "9", torch.tensor(9), 0, -9, 9.5, (9, 9.5), (9, 0)])
def test_a_size_of_another_kind_is_refused_in_one_sentence(known, size):
    traced = dfq.trace(chain(), input_shape=(3, 8, 8) if known else None)
    with pytest.raises(ValueError, match="^the input's size must be"):
        graph.find_input_shape(traced, size)


def test_a_network_of_features_takes_no_size_of_images():
    traced = dfq.trace(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)), input_shape=(16,))
    with pytest.raises(ValueError, match="takes 16 features, no images: leave the size out"):
        graph.find_input_shape(traced, 16)


def test_a_trial_leaves_the_network_as_it_is():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 2)).train()
    network[2].eval()
    before = copy.deepcopy(network.state_dict())
    assert graph.find_input_shape(network, 9) == (3, 9, 9)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network] == [True, True, False]
