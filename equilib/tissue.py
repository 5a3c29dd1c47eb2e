"""Procedural patches in the look of haematoxylin and eosin: the random streams, the layout of a patch, and its label.

The course needs a data set before anything has been downloaded. This module draws one: 96x96 patches of made-up
lymph-node tissue, some with made-up metastases. :mod:`equilib.canvas` has the random fields, :mod:`equilib.cells` the
nuclei, :mod:`equilib.stains` the colours; :mod:`equilib.synthetic` writes files as PatchCamelyon (PCam) has them.

The patches imitate the statistics of real ones (stains, nucleus sizes, counts, power spectrum), not their biology. A
model trained on them is close to chance (53 %) on real PCam, and an accuracy measured on them says nothing about PCam.

Every construction is isotropic, because a course about rotations needs data without a preferred direction.

The import stays light (numpy and scipy), because each process that draws imports this module.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from equilib.canvas import CANVAS, CENTRE, INNER, PATCH, SIZE, YX, fibres, grain, waves
from equilib.cells import STROMA, TUMOUR, paint_nuclei, place_nuclei, red_cells
from equilib.stains import Slide, develop, random_slide

__all__ = ["GENERATOR_VERSION", "SPLITS", "Patch", "draw_patch", "draw_slide", "slide_of", "whole_number"]

GENERATOR_VERSION = 1
"""Part of the folder name. Raise it with every change to what is drawn, here or in what this module imports."""

SPLITS = {"train": 160, "valid": 40, "test": 40}
"""Number of slides in each split."""

MIN_TUMOUR = 140
"""Least number of tumour pixels in the centre of a positive patch."""

TUMOUR_OUTSIDE = 0.21
"""Share of the negatives that have tumour, but only outside the centre."""

# What a random stream is for; the last words of its key.
_FOR_SLIDE, _FOR_LABEL, _FOR_PATCH = range(3)

# Per compartment: haematoxylin and eosin between the nuclei.
_GROUND = np.array([[0.04, 0.66], [0.26, 0.58], [0.11, 0.52], [0.10, 0.50]], np.float32)

# Opening with this disc removes strands of tumour that are thinner than 5 px.
_DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.3


@dataclass(frozen=True, eq=False)
class Patch:
    """One drawn patch.

    Attributes:
        image: uint8, shape (96, 96, 3), RGB.
        tumour: bool, shape (96, 96), True where the tissue is tumour.
    """

    image: np.ndarray
    tumour: np.ndarray

    @property
    def label(self) -> bool:
        """PCam's rule: is there any tumour pixel in the central 32x32?"""
        return bool(self.tumour[CENTRE, CENTRE].any())


def _rng(seed: int, split: str, purpose: int, number: int) -> np.random.Generator:
    """The random stream of one slide, pair of labels or patch."""
    key = (list(SPLITS).index(split), purpose, number)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def draw_slide(seed: int, split: str, number: int) -> Slide:
    """The slide ``number`` of a split; splits share no slide.

    Args:
        seed: whole number, 0 or more.
        split: "train", "valid" or "test".
        number: 0 to SPLITS[split] - 1.

    Returns:
        The slide; the same arguments give the same one.

    Raises:
        ValueError: an argument is none of these; the message names it.
    """
    seed, number = whole_number("seed", seed), whole_number("number", number)
    _check_split(split)
    if number >= SPLITS[split]:
        raise ValueError(f"number: {split} has slides 0 to {SPLITS[split] - 1}, got {number}")
    return random_slide(_rng(seed, split, _FOR_SLIDE, number))


def slide_of(seed: int, split: str, index: int) -> int:
    """The slide that a patch is on.

    Args:
        seed: whole number, 0 or more.
        split: "train", "valid" or "test".
        index: number of the patch, 0 or more.

    Returns:
        Number of the slide within its split.

    Raises:
        ValueError: an argument is none of these; the message names it.
    """
    seed, index = whole_number("seed", seed), whole_number("index", index)
    _check_split(split)
    return int(_rng(seed, split, _FOR_PATCH, index).integers(SPLITS[split]))


def _label_of(seed: int, split: str, index: int) -> bool:
    """Each pair of patches (0 1, 2 3, ...) has one positive, in random order."""
    first = bool(_rng(seed, split, _FOR_LABEL, index // 2).integers(2))
    return first ^ bool(index % 2)


def _tumour_region(rng: np.random.Generator, label: bool) -> np.ndarray:
    """Bool mask of the canvas. Its centre is empty, or at least MIN_TUMOUR px."""
    if not label and rng.random() >= TUMOUR_OUTSIDE:
        return np.zeros((CANVAS, CANVAS), bool)
    field = waves(rng, rng.uniform(45, 140))
    if label:
        # The tumour is where the field is above a quantile of the centre.
        share = 1 - 0.80 * rng.random() ** 1.2
        mask = field >= np.quantile(field[INNER, INNER], 1 - share)
        return ndimage.binary_opening(mask, _DISC) | _seed_nest(mask)
    reach = np.maximum(np.abs(YX[0] - CANVAS / 2 + 0.5), np.abs(YX[1] - CANVAS / 2 + 0.5))
    # Nuclei reach over the edge of their region: keep it off the centre.
    allowed = reach > 16 + 7
    ring = allowed & (reach < SIZE / 2)
    level = np.quantile(field[ring], rng.uniform(0.25, 0.80))
    return (field >= level) & allowed


def _seed_nest(mask: np.ndarray) -> np.ndarray:
    """The part of a mask in the centre, which keeps positives positive."""
    nest = np.zeros_like(mask)
    nest[INNER, INNER] = mask[INNER, INNER]
    return nest


def _tissue(rng: np.random.Generator, tumour: np.ndarray, label: bool) -> np.ndarray:
    """Density of tissue on the canvas, 0 (glass, fat) to 1, float32."""
    kind = rng.choice(3, p=[0.72, 0.06, 0.22] if label else [0.47, 0.22, 0.31])
    if kind == 1:
        gap = _fat(rng)
    elif kind == 2:
        wavelength = rng.uniform(60, 150)
        field = waves(rng, wavelength)
        share = rng.uniform(0.1, 0.5) if label else rng.uniform(0.2, 0.97)
        # Dividing by the typical slope turns the field into px.
        gap = (field - np.quantile(field, 1 - share)) * (wavelength / 6.0)
    else:
        gap = np.full((CANVAS, CANVAS), -9.0, np.float32)
    if rng.random() < 0.5:
        wavelength = rng.uniform(14, 40)
        level = rng.uniform(1.5, 2.6)
        gap = np.maximum(gap, (waves(rng, wavelength) - level) * (wavelength / 6.0))
    gap = gap + 0.5 * waves(rng, 9) + 0.6 * grain(rng, 1.2)
    density = np.clip(0.5 - gap / 1.6, 0, 1)
    if tumour.any():
        density = np.maximum(density, ndimage.gaussian_filter(tumour.astype(np.float32), 0.8))
    return density.astype(np.float32)


def _fat(rng: np.random.Generator) -> np.ndarray:
    """Depth in px inside fat cells (large circles); negative outside."""
    depth = np.full((CANVAS, CANVAS), -9.0, np.float32)
    wall = rng.uniform(0.8, 2.5)
    nearest = np.full((CANVAS, CANVAS), -99.0, np.float32)
    for _ in range(int(rng.integers(2, 14))):
        cy, cx = rng.uniform(0, CANVAS, 2)
        cell = rng.uniform(14, 34) - np.hypot(YX[0] - cy, YX[1] - cx)
        # Neighbours flatten against each other, with a wall between them.
        depth = np.maximum(np.minimum(depth, -cell), np.minimum(cell, -nearest) - wall)
        nearest = np.maximum(nearest, cell)
    return depth


def _compartments(rng: np.random.Generator, tumour: np.ndarray, label: bool) -> np.ndarray:
    """Compartment of each pixel of the canvas, int8."""
    shares = rng.dirichlet([0.80, 0.55, 0.40] if label or tumour.any() else [0.40, 1.20, 0.40])
    field = waves(rng, rng.uniform(50, 130))
    cuts = np.quantile(field, np.cumsum(shares)[:2])
    # The order of the compartments along the field is random, too.
    region = rng.permutation(3)[np.searchsorted(cuts, field)].astype(np.int8)
    region[tumour] = TUMOUR
    return region


def _ground(rng: np.random.Generator, region: np.ndarray, bundles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin between the nuclei, float32 canvases."""
    levels = _GROUND * np.exp(rng.normal(0, 0.22, _GROUND.shape)).astype(np.float32)
    h, e = np.moveaxis(levels[region], -1, 0)
    h = ndimage.gaussian_filter(h, 1.2)
    e = ndimage.gaussian_filter(e, 1.2)
    cloud, fine = waves(rng, 17), grain(rng, rng.uniform(0.55, 0.9))
    stroma = ndimage.gaussian_filter((region == STROMA).astype(np.float32), 1.0)
    lines = stroma * np.float32(rng.uniform(0.2, 0.65)) * bundles
    e *= np.exp(0.20 * cloud + 0.30 * fine + lines)
    h *= np.exp(0.20 * cloud + 0.55 * grain(rng, 0.9) + 0.5 * lines)
    # Shrinkage tears small gaps into the ground, more in some patches.
    level = rng.uniform(0.1, 2.0)
    gaps = np.clip((grain(rng, rng.uniform(1.0, 1.8)) + 0.35 * cloud - level) / 0.8, 0, 1)
    left = 1 - np.float32(rng.uniform(0.6, 1.0)) * gaps
    return h * left, e * left


def _glass(rng: np.random.Generator) -> np.ndarray:
    """Eosin where there is no tissue: haze, and threads in some patches."""
    haze = 0.03 * np.abs(waves(rng, 30))
    threads = rng.uniform(0, 0.5) * np.exp(-((waves(rng, 40) * 7) ** 2))
    return haze + threads * np.clip(waves(rng, 40), 0, 1)


def draw_patch(seed: int, split: str, index: int) -> Patch:
    """Draw one patch; a pure function of its three arguments.

    Patches 2i and 2i + 1 have opposite labels. Drawing takes some milliseconds. The same arguments give the same bytes
    on one machine; another processor or version of numpy may round a few pixels differently.

    Args:
        seed: whole number, 0 or more.
        split: "train", "valid" or "test".
        index: whole number, 0 or more.

    Returns:
        The patch, with its tumour and so its label.

    Raises:
        ValueError: an argument is none of these; the message names it.
    """
    seed, index = whole_number("seed", seed), whole_number("index", index)
    slide = draw_slide(seed, split, slide_of(seed, split, index))
    rng = _rng(seed, split, _FOR_PATCH, index)
    rng.integers(SPLITS[split])  # the draw of slide_of
    label = _label_of(seed, split, index)

    tumour = _tumour_region(rng, label)
    tissue = _tissue(rng, tumour, label)
    region = _compartments(rng, tumour, label)
    angle = rng.uniform(0, 2 * np.pi)
    bend = rng.uniform(0, 5)
    warp = np.float32(bend) * np.stack([waves(rng, 45), waves(rng, 45)])
    bundles = fibres(rng, angle, warp)
    along = angle + 0.12 * bend * waves(rng, 60)

    h, e = _ground(rng, region, bundles)
    nuclei = place_nuclei(rng, slide, region, tissue, along)
    paint_nuclei(rng, slide, nuclei, h, e)
    blood = red_cells(rng)
    h *= tissue
    e = e * tissue + _glass(rng) * (1 - tissue)
    image = develop(rng, slide, h, e, blood * tissue)
    return Patch(image, tumour[PATCH, PATCH].copy())


def whole_number(name: str, value: int, least: int = 0) -> int:
    """Check an argument that counts something.

    Args:
        name: of the argument, for the message.
        value: what was passed; a bool is no number.
        least: the smallest value allowed.

    Returns:
        ``value`` as an int.

    Raises:
        ValueError: it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or number < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return number


def _check_split(split: str) -> None:
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")


def __getattr__(name: str):
    """``ensure_dataset`` stands in :mod:`equilib.synthetic`; scripts from before that ask for it here."""
    if name == "ensure_dataset":
        from equilib.synthetic import ensure_dataset

        return ensure_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
