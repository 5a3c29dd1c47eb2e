"""A training of seconds, for tests: its patches, its network, its command, and what it wrote."""

import csv
import sys

import h5py
import numpy as np

from equilib.mobilenet import MobileNetConfig
from equilib.pcam import split_path

# All layers, few channels and pixels: nothing that is held here depends on how many there are.
TINY = MobileNetConfig(width=0.1, group="C4", input_size=31)

OPTIONS = [
    *("--width", "0.1", "--group", "C4", "--input-size", "31", "--epochs", "6", "--batch-size", "16"),
    *("--threads", "1", "--no-progress", "--accelerator", "cpu", "--seed", "3"),
]


def write_noise(root):
    """PCam's files in a folder: noise whose variance tells the class, learnable in a few steps."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 96), ("valid", 32), ("test", 32)):
        y = np.arange(n) % 2
        noise = rng.normal(size=(n, 96, 96, 3)) * np.where(y, 60, 20)[:, None, None, None] + 128
        for key, values in (("x", noise.clip(0, 255).astype(np.uint8)), ("y", y.astype(np.uint8).reshape(-1, 1, 1, 1))):
            with h5py.File(split_path(root, split, key), "w") as file:
                file.create_dataset(key, data=values)
    return root


def command(data, run, *extra):
    return [
        sys.executable,
        "-m",
        "equilib",
        "train",
        "equivariant",
        "--data",
        str(data),
        "--folder",
        str(run),
        *OPTIONS,
        *extra,
    ]


def rows(run):
    path = run / "metrics.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []
