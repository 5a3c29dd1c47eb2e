"""Test patches as every runtime reads them, with numpy alone: `patches.npy` (N, 3, n, n) uint8, `levels.npy` (3, 256) float32.

The normalised value of each intensity stands in a table, so that no runtime's own division can make another input of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BATCH = 32


def batches(folder: str | Path, turns: int) -> Iterator[np.ndarray]:
    """All patches, turned so many times by 90 degrees, normalised: (at most 32, 3, n, n) float32, contiguous."""
    patches = np.load(Path(folder) / "patches.npy", mmap_mode="r")
    levels = np.load(Path(folder) / "levels.npy")
    channels = np.arange(3)[:, None, None]
    for start in range(0, len(patches), BATCH):
        turned = np.rot90(patches[start : start + BATCH], turns, (-2, -1))
        yield np.ascontiguousarray(levels[channels, turned])


def four_answers(run: Callable[[np.ndarray], np.ndarray], folder: str | Path) -> np.ndarray:
    """(4, N, 2): the logits of all patches under the four quarter turns."""
    return np.stack([np.concatenate([run(images) for images in batches(folder, turns)]) for turns in range(4)])
