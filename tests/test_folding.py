"""Batch normalization of every make: the same function, or one sentence."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from equilib import dfq
from equilib.equivariance import run_model
from equilib.plain import facts

X = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seen(norm):
    """A normalization with the statistics and parameters of a trained one."""
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        if tensor is not None:
            tensor.data.normal_()
    if norm.running_var is not None:
        norm.running_var.uniform_(0.5, 2)
    return norm


class NormAct(nn.BatchNorm2d):
    """As timm's: normalization by the function, then an activation of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        training = self.training or self.running_mean is None
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        return self.act(y)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), seen(nn.BatchNorm2d(8))

    def forward(self, x):
        return self.norm(input=self.conv(input=x))


class Inherits(nn.BatchNorm2d):
    pass


def _twice():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), seen(nn.BatchNorm2d(8)), nn.ReLU(), nn.Conv2d(8, 8, 1))
    network.append(network[1])
    return network


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(nn.BatchNorm2d(8, affine=False))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(nn.SyncBatchNorm(8))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(Inherits(8))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(NormAct(8)), nn.Conv2d(8, 8, 1), seen(NormAct(8))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), seen(nn.BatchNorm2d(8)), seen(nn.BatchNorm2d(8))),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 49, 5), seen(nn.BatchNorm1d(5))),
        _twice,
        ByKeyword,
    ],
)
def test_every_batch_normalization_that_can_be_folded_is(make):
    network = make().double().eval()
    folded = dfq.fold_batch_norm(network, input_shape=(3, 9, 9))
    assert torch.allclose(run_model(folded, X), run_model(network, X), rtol=1e-10, atol=1e-10)
    assert not any("norm" in str(node.target).lower() for node in folded.graph.nodes if node.op == "call_function")
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in folded.modules())
    last = [m for m in folded.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    assert facts(last).mean is not None


class Frozen(nn.Module):
    """As torchvision's: the same numbers by plain arithmetic."""

    def __init__(self):
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(8))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(8))

    def forward(self, x):
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return F.batch_norm(self.conv(x), None, None, training=True)


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
            "1 keeps no statistics",
        ),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), "0 does not follow a convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)), "2 does not follow a convolution"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8)), "1 does not follow a convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Frozen()), r"1 \(Frozen\) normalizes in a way of its own"),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(81, 6), nn.BatchNorm1d(3)), "linear along another axis"),
        (Functional, "normalizes by the statistics of each batch"),
        (ReadTwice, "norm does not follow a convolution of its own"),
    ],
)
def test_what_cannot_be_folded_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        dfq.fold_batch_norm(make(), input_shape=(3, 9, 9))


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LayerNorm([8, 7, 7])])
def test_what_normalizes_each_image_stays_and_is_said(norm):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    with pytest.warns(UserWarning, match="^1 normalizes each image"):
        folded = dfq.fold_batch_norm(network, input_shape=(3, 9, 9))
    assert torch.allclose(run_model(dfq.equalize(folded)[0], X), run_model(network, X))
