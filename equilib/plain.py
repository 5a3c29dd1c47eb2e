"""Plain torch layers that the conventional network and the exported equivariant one share.

Nothing here knows of e2cnn: from `export()` on, data-free quantization and INT8 need torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equilib.checks import check_count
from equilib.fields import disc_mask


@dataclass(frozen=True)
class QuarterTurn:
    """What rotating a layer's fields by 90 degrees (by 180, where the group holds no 90) does to its weights: nothing.

    Such rotations move pixels without interpolation, so they can leave weights equal to the last bit.

    Attributes:
        degrees: 90 or 180.
        source: channel ``i`` of a field is channel ``source[i]`` before the rotation.
        inputs, outputs: whether the weight's second and first dimension run over the channels of fields.
        mirror: of a group with reflections: channel ``i`` of a field is channel ``mirror[i]`` before left and right change
            places, which leaves the weights alone too.
    """

    degrees: int
    source: tuple[int, ...]
    inputs: bool
    outputs: bool
    mirror: tuple[int, ...] | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """The weight (out, in) or (out, in / groups, k, k), or the bias (out,), after the rotation."""
        if weight.ndim == 4:
            weight = torch.rot90(weight, self.degrees // 90, (-2, -1))
        return self._permuted(weight, list(self.source))

    def reflect(self, weight: Tensor) -> Tensor:
        """The same after left and right change places; only with ``mirror``."""
        return self._permuted(weight.flip(-1) if weight.ndim == 4 else weight, list(self.mirror))

    def _permuted(self, weight: Tensor, source: list[int]) -> Tensor:
        if self.outputs:
            weight = weight.unflatten(0, (-1, len(source)))[:, source].flatten(0, 1)
        if self.inputs and weight.ndim > 1:
            weight = weight.unflatten(1, (-1, len(source)))[:, :, source].flatten(1, 2)
        return weight

    def tie(self, weight: Tensor) -> Tensor:
        """The mean over the rotations, and reflections: left alone by :meth:`apply` and :meth:`reflect`, to the bit.

        Raises:
            ValueError: the weight is not (nearly) invariant to begin with.
        """
        copies = [weight]
        while len(copies) < 360 // self.degrees:
            copies.append(self.apply(copies[-1]))
        mirrored = [] if self.mirror is None else [self.reflect(weight)]
        if max((copy - weight).abs().max().item() for copy in copies + mirrored) > 1e-3 * weight.abs().max().item():
            raise ValueError("the weights are not rotated copies of each other, so they cannot be tied")
        # Sums of two do not depend on their order, so neither do these on where in the orbit they start.
        if len(copies) == 2:
            tied = (copies[0] + copies[1]) / 2
        else:
            tied = ((copies[0] + copies[2]) + (copies[1] + copies[3])) / 4
        return tied if self.mirror is None else (tied + self.reflect(tied)) / 2


@dataclass(frozen=True)
class LayerFacts:
    """What is known of a layer beside its weights: all that one stage tells the next, from export to INT8.

    Kept in the layer's attribute ``facts``; read by :func:`facts`, changed by :func:`note`.

    Attributes:
        field_size: the output channels (of a classifier the input channels) are partitioned into fields of so many
            neighbours; None without such a partition.
        quarter_turn: under which rotation the weights are copies of each other; None where under none.
        mean, std: (channels,), of the output, as batch normalization knew it before it was folded: beta and |gamma|;
            equalization and absorption keep them up to date.  None without batch normalization.
    """

    field_size: int | None = None
    quarter_turn: QuarterTurn | None = None
    mean: Tensor | None = None
    std: Tensor | None = None


def facts(layer: nn.Module) -> LayerFacts:
    """What is known of a layer, its statistics in the layer's own precision; nothing where nobody noted anything."""
    known = getattr(layer, "facts", LayerFacts())
    if known.mean is None:
        return known
    return replace(known, mean=known.mean.to(layer.weight), std=known.std.to(layer.weight))


def note(layer: nn.Module, **changes) -> None:
    """Change what is known of a layer, in place; the keywords are those of :class:`LayerFacts`."""
    layer.facts = replace(getattr(layer, "facts", LayerFacts()), **changes)


def blurred(weight: Tensor) -> Tensor:
    """Filters convolved with the binomial one, (1, 2, 1) / 4 along each axis: (..., k, k) to (..., k + 2, k + 2).

    Filtering with the result is blurring first, so that a stride samples less of what it cannot hold (Zhang 2019).  The
    binomial filter is the same after a rotation by 90 degrees, so what was equivariant stays so.
    """
    # In double precision sums of single-precision weights are exact, so rotated copies stay equal to the last bit.
    row = weight.new_tensor((0.25, 0.5, 0.25), dtype=torch.float64)
    wide = F.conv2d(weight.double().flatten(0, -3)[:, None], (row[:, None] * row)[None, None], padding=2)
    return wide.reshape(*weight.shape[:-2], *wide.shape[-2:]).to(weight)


class BlurredConv2d(nn.Conv2d):
    """A convolution whose filters are blurred ones (:func:`blurred`): it learns k x k and applies (k + 2) x (k + 2).

    ``padding`` is that of the filter applied.
    """

    def filter(self) -> Tensor:
        """The filter applied, (out, in / groups, k + 2, k + 2)."""
        return blurred(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.filter(), self.bias)

    def export(self) -> nn.Conv2d:
        """The same function as a plain convolution."""
        weight = self.filter().detach()
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            tuple(weight.shape[-2:]),
            self.stride,
            self.padding,
            groups=self.groups,
            bias=self.bias is not None,
        )
        plain.weight = nn.Parameter(weight.clone(memory_format=torch.preserve_format))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain.eval()


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def check_pixels(images: Tensor, size: int) -> None:
    """ValueError unless these are (…, size, size), what a network was built and trained for."""
    if tuple(images.shape[-2:]) != (size, size):
        raise ValueError(
            f"this network takes {size} x {size} pixels, got {images.shape[-2]} x {images.shape[-1]}; "
            "crop the batch first (equilib.pcam.crop)"
        )


class DiscMask(nn.Module):
    """Multiply by the circular binary mask, so that no pixel can leave the picture by a rotation (section 4)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("mask", disc_mask(size).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_pixels(x, self.size)
        return x * self.mask


class DiscMean(nn.Module):
    """Mean over the pixels inside the disc: (B, C, n, n) to (B, C)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        mask = disc_mask(size)
        self.register_buffer("weight", mask / mask.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # A matrix product along the pixels: reads x once, in its own layout, and its gradient has that layout too.
        return torch.matmul(self.weight.flatten(), x.permute(0, 2, 3, 1).flatten(1, 2))


class GroupMax(nn.Module):
    """Maximum over the |G| channels of each regular field: (B, fields * |G|, ...) to (B, fields, ...), invariant."""

    def __init__(self, field_size: int):
        super().__init__()
        self.field_size = field_size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.field_size)).amax(2)


class FieldDropout(nn.Dropout1d):
    """Dropout of whole fields: (B, fields * size) to the same shape; of single channels with ``size`` 1."""

    def __init__(self, p: float, size: int):
        super().__init__(p)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (-1, self.size))).flatten(1)


class Crop(nn.Module):
    """Leave out ``margin`` pixels at each side: (..., n, n) to (..., n - 2 margin, n - 2 margin)."""

    def __init__(self, margin: int):
        super().__init__()
        check_count("margin", margin)
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.margin : -self.margin, self.margin : -self.margin]


class DenseBlock(nn.Module):
    """The input, cropped by one pixel at each side, and behind it what ``body`` (no padding) makes of it."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body, self.crop = body, Crop(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.crop(x), self.body(x)), 1)
