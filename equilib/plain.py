"""Plain torch layers that the conventional network and the exported equivariant one share.

Nothing here knows of e2cnn: from `export()` on, data-free quantization and INT8 need torch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equilib.fields import disc_mask


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DiscMask(nn.Module):
    """Multiply by the circular binary mask, so that no pixel can leave the picture by a rotation (section 4)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("mask", disc_mask(size).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"this network takes {self.size} x {self.size} pixels, got {x.shape[-2]} x {x.shape[-1]}; "
                "crop the batch first (equilib.pcam.crop)"
            )
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
