"""One training step, as `equilib train` takes it, of each of the networks that are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks import THEIRS, network

BATCH = 32


def batch(variant: str, size: int = 95) -> tuple[torch.Tensor, torch.Tensor]:
    layout = torch.contiguous_format if variant in THEIRS else torch.channels_last
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=layout), torch.arange(BATCH) % 2


def training_step(variant: str, width: float, group: str, precision: str = "float32"):
    """One step as `equilib train` takes it; in bfloat16, as with ``--precision bf16-mixed``."""
    return step_of(network(variant, width, group), *batch(variant), precision)


def step_of(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str = "float32"):
    """Forward, backward and AdamW, on patches that are there already."""
    optimizer = torch.optim.AdamW(net.train().parameters(), 1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    return step
