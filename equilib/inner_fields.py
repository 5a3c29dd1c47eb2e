"""How the fields inside a network follow a rotation between the quarter turns, block by block, and what keeps them from it.

Pixels cannot be turned by 30 degrees, so every part of a network that brings detail to the grid, or samples it, adds an
error: the picture's own detail, strides, ReLU (a kink has all frequencies), filters of 3 x 3 samples, and the border.  The
functions here take one of these away and measure again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equilib.equivariance import field_difference, layer_outputs
from equilib.fields import Group, rotate_field
from equilib.mobilenet import KINDS, build, estimate_statistics, exported


def smooth_patterns(count: int, size: int, highest: float, *, degrees: float = 0, seed: int = 0) -> Tensor:
    """Random band-limited pictures, turned without interpolation: sums of plane waves, evaluated where the turn puts them.

    Args:
        count, size: pictures, and their height and width in pixels.
        highest: frequency of the fastest wave, in periods a pixel; a grid holds up to 0.5.
        degrees: counter-clockwise.  The same ``seed`` gives the same pictures at every angle.
        seed: of the 24 waves of each colour; frequencies are uniform over the disc of radius ``highest``.

    Returns:
        (count, 3, size, size), mean about 0 and variance about 1.

    Raises:
        ValueError: ``highest`` is not between 0 and 0.5.
    """
    if not 0 < highest <= 0.5:
        raise ValueError(f"highest must lie between 0 and 0.5 periods a pixel, got {highest}")
    waves = 24
    generator = torch.Generator().manual_seed(seed)
    radius, direction, phase = torch.rand(3, count, 3, waves, generator=generator)
    radius, direction, phase = highest * radius.sqrt(), 2 * math.pi * direction, 2 * math.pi * phase
    direction = direction + math.radians(degrees)  # turning a wave turns its direction
    along = torch.arange(size) - (size - 1) / 2
    x = (radius * direction.cos())[..., None, None] * along
    y = (radius * direction.sin())[..., None, None] * -along[:, None]  # rows run downwards
    return (2 * math.pi * (x + y) + phase[..., None, None]).cos().sum(2) * math.sqrt(2 / waves)


@dataclass(frozen=True)
class Rung:
    """How one inner field follows a rotation.

    Attributes:
        name: of the layer.
        size: height and width of the field, in pixels.
        error: root mean square of the field of the turned picture minus the turned field, in standard deviations of the
            field over pictures; two fields that have nothing to do with each other differ by sqrt(2).
        interpolation: the same measure for the field turned there and back: what bicubic interpolation costs on this
            grid, twice.
    """

    name: str
    size: int
    error: float
    interpolation: float


def field_ladder(
    network: nn.Module, images: Tensor, turned: Tensor, rotation: int, *, radius: float = 1.0, group: str | None = None
) -> list[Rung]:
    """The error of the stem's, each block's and the head's field.

    Args:
        network: of :mod:`equilib.mobilenet`, in evaluation mode; it is exported first.
        images, turned: (B, 3, n, n), and the same pictures turned by ``rotation``.
        rotation: in steps of the group.
        radius: of the disc that is compared, as a share of the largest; less than 1 leaves the border out.
        group: by default the network's.
    """
    plain = exported(network)
    group = Group.parse(group or plain.config.group)
    layers = {name: module for name, module in plain.features.named_children() if name != "group_pool"}
    before, after = layer_outputs(plain, layers, images), layer_outputs(plain, layers, turned)
    rungs = []
    for name, field in before.items():
        expected = rotate_field(field, group, rotation)
        there_and_back = rotate_field(expected, group, -rotation)
        error = field_difference(expected, after[name], radius)
        rungs.append(Rung(name, field.shape[-1], error, field_difference(field, there_and_back, radius)))
    return rungs


def altered(network: nn.Module, images: Tensor, *, relu: bool = True, **changes) -> nn.Module:
    """The same weights in another architecture, for a controlled experiment; the network given stays as it is.

    Args:
        network: of :mod:`equilib.mobilenet`.
        images: (B, 3, n, n), from which the statistics of batch normalization are estimated anew.
        relu: False leaves all ReLUs out, which makes the network linear.
        changes: of :class:`equilib.architecture.MobileNetConfig` that keep the shapes of the weights: ``strides`` (a block
            that loses its stride may gain a skip connection), ``antialias``, ``input_size``.
    """
    kind = KINDS[hasattr(network, "export")]
    other = build(kind, network.config.replace(**changes))
    # Where a stride goes, a skip connection may come, and its block's layers then stand one level deeper.
    weights = {name.replace(".body.", "."): value for name, value in network.state_dict().items()}
    other.load_state_dict({name: weights[name.replace(".body.", ".")] for name in other.state_dict()})
    if not relu:
        for module in other.modules():
            module._modules.pop("relu", None)
    return estimate_statistics(other, images)
