"""How many patches a second come from a file to the network's input, beside the access pattern of other loaders."""

from __future__ import annotations

import tempfile
import time

import h5py
import numpy as np
import torch
from training_step import BATCH

from equilib.pcam import Patches, collate, crop, normalize, shuffled_order, split_path, turn_and_reflect
from equilib.progress import bar


def data_path(quick: bool, step_seconds: float) -> list[dict]:
    """Patches a second from file to the network's input: shuffled, cropped, augmented, normalised."""
    count = 256 if quick else 8192
    generator = np.random.default_rng(0)
    # Smooth enough that gzip has something to do, as with tissue.
    blocks = generator.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    images = blocks.repeat(4, 1).repeat(4, 2)
    layouts = {
        "contiguous": {},
        "chunks of (512, 12, 12, 1), as h5py chooses": {"chunks": (min(512, count), 12, 12, 1)},
        "chunks of 32 patches, gzip": {"chunks": (32, 96, 96, 3), "compression": "gzip"},
    }
    rows = []
    for name, options in bar(layouts.items(), words="data path", unit="layout"):
        with tempfile.TemporaryDirectory() as folder:
            with h5py.File(split_path(folder, "train", "x"), "w") as file:
                file.create_dataset("x", data=images, **options)
            with h5py.File(split_path(folder, "train", "y"), "w") as file:
                file.create_dataset("y", data=(np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1))
            ours = _our_speed(folder, count)
            theirs = _reopening_speed(folder, 8 if quick else 64)
        consumed = BATCH / step_seconds
        rows.append(
            {
                "layout": name,
                "equilib": ours,
                "both files reopened for each patch": theirs,
                "network": consumed,
                "ratio": ours / consumed,
            }
        )
    return rows


def _our_speed(folder: str, count: int) -> float:
    patches = Patches(folder, "train")
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for indices in shuffled_order(count, patches.slab, generator).split(BATCH):
        images, _ = collate(patches.__getitems__(indices.tolist()))
        normalize(turn_and_reflect(crop(images, 95), generator))
    return count / (time.perf_counter() - start)


def _reopening_speed(folder: str, count: int) -> float:
    """The access pattern of torchvision.datasets.PCAM, without its conversion to PIL."""
    order = torch.randperm(len(Patches(folder, "train")), generator=torch.Generator().manual_seed(0))[:count]
    start = time.perf_counter()
    for index in order.tolist():
        with h5py.File(split_path(folder, "train", "x")) as file:
            file["x"][index]
        with h5py.File(split_path(folder, "train", "y")) as file:
            file["y"][index, 0, 0, 0]
    return count / (time.perf_counter() - start)
