"""Procedural H&E-like patches.

The course needs a data set before anything has been downloaded.  This module
draws one: 96x96 patches of made-up lymph-node tissue, some with made-up
metastases; `equilib.synthetic` writes them in the files of PatchCamelyon (PCam).

The patches imitate the statistics of real ones (stains, nucleus sizes, counts,
power spectrum), not their biology.  A model trained on them is close to chance
(53 %) on real PCam, and an accuracy measured on them says nothing about PCam.

Every construction is isotropic: directions are drawn uniformly on the circle,
and no filter prefers an axis.  A course about rotations needs data without a
preferred direction.

The import stays light (numpy and scipy), because each process that draws
imports this module.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = [
    "GENERATOR_VERSION",
    "SIZE",
    "SPLITS",
    "Patch",
    "Slide",
    "draw_patch",
    "draw_slide",
    "slide_of",
    "whole_number",
]

GENERATOR_VERSION = 1
"""Part of the folder name.  Raise it with every change to what is drawn."""

SIZE = 96
"""Height and width of a patch, in pixels (about 1 micrometre each)."""

SPLITS = {"train": 160, "valid": 40, "test": 40}
"""Number of slides in each split."""

CENTRE = slice(32, 64)
"""Rows and columns of the square that decides the label."""

MIN_TUMOUR = 140
"""Least number of tumour pixels in the centre of a positive patch."""

TUMOUR_OUTSIDE = 0.21
"""Share of the negatives that have tumour, but only outside the centre."""

# The canvas has a margin, so that a nucleus near the border needs no clipping.
_PAD = 22
_CANVAS = SIZE + 2 * _PAD
_PATCH = slice(_PAD, _PAD + SIZE)
_INNER = slice(_PAD + CENTRE.start, _PAD + CENTRE.stop)
_YX = np.mgrid[:_CANVAS, :_CANVAS].astype(np.float32)

# What a random stream is for; the last words of its key.
_FOR_SLIDE, _FOR_LABEL, _FOR_PATCH = range(3)

# Compartments of the tissue.
_STROMA, _LYMPHOID, _HISTIOCYTIC, _TUMOUR = range(4)

# Kinds of nuclei.
_TUMOUR_CELL, _LYMPHOCYTE, _FIBROCYTE, _HISTIOCYTE = range(4)

# Median equivalent diameter (px), spread of its log, median aspect, spread of
# the log of the aspect.  Measured on annotated H&E images at 10x.
_SHAPES = np.array(
    [
        [13.9, 0.21, 1.36, 0.14],
        [7.6, 0.19, 1.24, 0.09],
        [8.6, 0.31, 2.30, 0.28],
        [10.2, 0.22, 1.40, 0.16],
    ]
)

_LONGEST = 12.5  # largest semi-axis of a nucleus, px

# Per compartment: the shares of the four kinds of nuclei.
_MIXTURES = np.array(
    [
        [0.00, 0.20, 0.74, 0.06],
        [0.00, 0.93, 0.02, 0.05],
        [0.00, 0.34, 0.08, 0.58],
        [0.93, 0.05, 0.02, 0.00],
    ]
)

# Per compartment: haematoxylin and eosin between the nuclei.
_GROUND = np.array([[0.04, 0.66], [0.26, 0.58], [0.11, 0.52], [0.10, 0.50]], np.float32)

# Unit optical densities (natural logarithm) of haematoxylin and eosin, for the
# two stain modes of PCam: A is pink, B is violet.
_STAINS = np.array(
    [
        [[0.520, 0.715, 0.465], [0.365, 0.830, 0.420]],
        [[0.590, 0.755, 0.290], [0.310, 0.905, 0.290]],
    ]
)
_RED_CELLS = np.array([0.14, 0.86, 0.49])

_WHITE = np.array([[0.965, 0.950, 0.950], [0.930, 0.910, 0.925]])


@dataclass(frozen=True, eq=False)
class Patch:
    """One drawn patch.

    image: uint8, shape (96, 96, 3), RGB.
    tumour: bool, shape (96, 96), True where the tissue is tumour.
    """

    image: np.ndarray
    tumour: np.ndarray

    @property
    def label(self) -> bool:
        """PCam's rule: is there any tumour pixel in the central 32x32?"""
        return bool(self.tumour[CENTRE, CENTRE].any())


@dataclass(frozen=True, eq=False)
class Slide:
    """What the patches of one slide share.

    mode: stain mode, "A" (pink) or "B" (violet).
    stains: shape (3, 3), optical density per unit of haematoxylin, eosin and
        haemoglobin, in the channels R, G, B.
    white: shape (3,), light where there is no tissue, 0 to 1.
    gains: shape (2,), staining strength of haematoxylin and eosin, about 1.
    blur: sigma of the optics in px.
    sharpening: share of the fine detail that the scanner adds.
    noise: standard deviation of the camera noise, 0 to 1.
    nucleus: size of the tumour nuclei relative to the median.
    depth: staining of the tumour nuclei relative to the median.
    vesicular: 0 (tumour chromatin is even) to 1 (empty, with a dark rim).
    crowding: distance between the tumour cells relative to the median.
    """

    mode: str
    stains: np.ndarray
    white: np.ndarray
    gains: np.ndarray
    blur: float
    sharpening: float
    noise: float
    nucleus: float
    depth: float
    vesicular: float
    crowding: float


@dataclass(frozen=True, eq=False)
class _Nuclei:
    """Nuclei of one patch: arrays of one length, in px and radians."""

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    diameter: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray


# --------------------------------------------------------------------------
# Random streams, slides and labels


def _rng(seed: int, split: str, purpose: int, number: int) -> np.random.Generator:
    """The random stream of one slide, pair of labels or patch."""
    key = (list(SPLITS).index(split), purpose, number)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def draw_slide(seed: int, split: str, number: int) -> Slide:
    """The slide `number` of a split; splits share no slide.

    Raises ValueError for an unknown split, or a number outside
    0 ... SPLITS[split] - 1.
    """
    seed, number = whole_number("seed", seed), whole_number("number", number)
    _check_split(split)
    if number >= SPLITS[split]:
        raise ValueError(f"number: {split} has slides 0 to {SPLITS[split] - 1}, got {number}")
    rng = _rng(seed, split, _FOR_SLIDE, number)
    mode = int(rng.integers(2))
    vectors = _STAINS[mode] + rng.normal(0, 0.03, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    white = _WHITE[mode] + rng.normal(0, 0.018) + rng.normal(0, 0.006, 3)
    return Slide(
        mode="AB"[mode],
        stains=np.vstack([vectors, _RED_CELLS]),
        white=np.clip(white, 0.8, 1.0),
        gains=np.exp(rng.normal([-0.28, -0.04], [0.20, 0.26])),
        blur=float(rng.uniform(0.28, 0.40)),
        sharpening=float(rng.uniform(0.7, 1.6)),
        noise=float(rng.uniform(0.008, 0.018)),
        nucleus=float(np.exp(rng.normal(0, 0.14))),
        depth=float(np.exp(rng.normal(0, 0.16))),
        vesicular=float(rng.uniform(0, 1)),
        crowding=float(np.exp(rng.normal(0, 0.10))),
    )


def slide_of(seed: int, split: str, index: int) -> int:
    """Number of the slide, within its split, that a patch belongs to."""
    seed, index = whole_number("seed", seed), whole_number("index", index)
    _check_split(split)
    return int(_rng(seed, split, _FOR_PATCH, index).integers(SPLITS[split]))


def _label_of(seed: int, split: str, index: int) -> bool:
    """Each pair of patches (0 1, 2 3, ...) has one positive, in random order."""
    first = bool(_rng(seed, split, _FOR_LABEL, index // 2).integers(2))
    return first ^ bool(index % 2)


# --------------------------------------------------------------------------
# Random fields, all isotropic


def _waves(rng: np.random.Generator, wavelength: float, count: int = 24) -> np.ndarray:
    """Smooth field of about unit variance, float32, of the canvas' size.

    A sum of plane waves whose directions are uniform, so isotropic by
    construction.  `einsum` rather than `@`: a threaded BLAS may add in another
    order on another machine load, and patches must not depend on that.
    """
    angle = rng.uniform(0, 2 * np.pi, count)
    k = 2 * np.pi / (wavelength * np.exp(rng.normal(0, 0.35, count)))
    t = np.arange(_CANVAS)[:, None] - _CANVAS / 2
    # cos(a + b) = cos a cos b - sin a sin b: a product of rows and columns.
    a = t * (k * np.sin(angle)) + rng.uniform(0, 2 * np.pi, count)
    b = t * (k * np.cos(angle))
    rows = np.hstack([np.cos(a), -np.sin(a)]).astype(np.float32)
    columns = np.hstack([np.cos(b), np.sin(b)]).astype(np.float32)
    return np.einsum("ik,jk->ij", rows, columns) * np.float32(np.sqrt(2 / count))


def _grain(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Filtered white noise of unit variance, float32, of the canvas' size."""
    field = rng.standard_normal((_CANVAS, _CANVAS), dtype=np.float32)
    field = ndimage.gaussian_filter(field, sigma, truncate=3)
    return field / field.std()


def _fibres(rng: np.random.Generator, angle: float, warp: np.ndarray) -> np.ndarray:
    """Wavy bundles along `angle` (radians), about -1 to 1, float32.

    warp: shape (2, canvas, canvas), displacement in px that bends the bundles.
    """
    count = 7
    across = angle + np.pi / 2 + rng.normal(0, 0.16, count)
    k = 2 * np.pi / np.exp(rng.uniform(np.log(3.5), np.log(16), count))
    y, x = _YX + warp
    field = np.zeros((_CANVAS, _CANVAS), np.float32)
    for ky, kx, phase in zip(k * np.sin(across), k * np.cos(across), rng.uniform(0, 2 * np.pi, count), strict=True):
        field += np.cos(np.float32(ky) * y + np.float32(kx) * x + np.float32(phase))
    return np.tanh(field * np.float32(1.1 / np.sqrt(count)))


# --------------------------------------------------------------------------
# Layout: where is tumour, where is tissue, which compartment


def _tumour_region(rng: np.random.Generator, label: bool) -> np.ndarray:
    """Bool mask of the canvas.  Its centre is empty, or at least MIN_TUMOUR px."""
    if not label and rng.random() >= TUMOUR_OUTSIDE:
        return np.zeros((_CANVAS, _CANVAS), bool)
    field = _waves(rng, rng.uniform(45, 140))
    if label:
        # The tumour is where the field is above a quantile of the centre.
        share = 1 - 0.80 * rng.random() ** 1.2
        mask = field >= np.quantile(field[_INNER, _INNER], 1 - share)
        return ndimage.binary_opening(mask, _DISC) | _seed_nest(mask)
    reach = np.maximum(np.abs(_YX[0] - _CANVAS / 2 + 0.5), np.abs(_YX[1] - _CANVAS / 2 + 0.5))
    # Nuclei reach over the edge of their region: keep it off the centre.
    allowed = reach > 16 + 7
    ring = allowed & (reach < SIZE / 2)
    level = np.quantile(field[ring], rng.uniform(0.25, 0.80))
    return (field >= level) & allowed


_DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.3


def _seed_nest(mask: np.ndarray) -> np.ndarray:
    """The part of a mask in the centre, which keeps positives positive."""
    nest = np.zeros_like(mask)
    nest[_INNER, _INNER] = mask[_INNER, _INNER]
    return nest


def _tissue(rng: np.random.Generator, tumour: np.ndarray, label: bool) -> np.ndarray:
    """Density of tissue on the canvas, 0 (glass, fat) to 1, float32."""
    kind = rng.choice(3, p=[0.72, 0.06, 0.22] if label else [0.47, 0.22, 0.31])
    if kind == 1:
        gap = _fat(rng)
    elif kind == 2:
        wavelength = rng.uniform(60, 150)
        field = _waves(rng, wavelength)
        share = rng.uniform(0.1, 0.5) if label else rng.uniform(0.2, 0.97)
        # Dividing by the typical slope turns the field into px.
        gap = (field - np.quantile(field, 1 - share)) * (wavelength / 6.0)
    else:
        gap = np.full((_CANVAS, _CANVAS), -9.0, np.float32)
    if rng.random() < 0.5:
        wavelength = rng.uniform(14, 40)
        level = rng.uniform(1.5, 2.6)
        gap = np.maximum(gap, (_waves(rng, wavelength) - level) * (wavelength / 6.0))
    gap = gap + 0.5 * _waves(rng, 9) + 0.6 * _grain(rng, 1.2)
    density = np.clip(0.5 - gap / 1.6, 0, 1)
    if tumour.any():
        density = np.maximum(density, ndimage.gaussian_filter(tumour.astype(np.float32), 0.8))
    return density.astype(np.float32)


def _fat(rng: np.random.Generator) -> np.ndarray:
    """Depth in px inside fat cells (large circles); negative outside."""
    depth = np.full((_CANVAS, _CANVAS), -9.0, np.float32)
    wall = rng.uniform(0.8, 2.5)
    nearest = np.full((_CANVAS, _CANVAS), -99.0, np.float32)
    for _ in range(int(rng.integers(2, 14))):
        cy, cx = rng.uniform(0, _CANVAS, 2)
        cell = rng.uniform(14, 34) - np.hypot(_YX[0] - cy, _YX[1] - cx)
        # Neighbours flatten against each other, with a wall between them.
        depth = np.maximum(np.minimum(depth, -cell), np.minimum(cell, -nearest) - wall)
        nearest = np.maximum(nearest, cell)
    return depth


def _compartments(rng: np.random.Generator, tumour: np.ndarray, label: bool) -> np.ndarray:
    """Compartment of each pixel of the canvas, int8."""
    shares = rng.dirichlet([0.80, 0.55, 0.40] if label or tumour.any() else [0.40, 1.20, 0.40])
    field = _waves(rng, rng.uniform(50, 130))
    cuts = np.quantile(field, np.cumsum(shares)[:2])
    # The order of the compartments along the field is random, too.
    region = rng.permutation(3)[np.searchsorted(cuts, field)].astype(np.int8)
    region[tumour] = _TUMOUR
    return region


# --------------------------------------------------------------------------
# Nuclei


def _place_nuclei(
    rng: np.random.Generator,
    slide: Slide,
    region: np.ndarray,
    tissue: np.ndarray,
    along: np.ndarray,
) -> _Nuclei:
    """Throw darts: a nucleus stays if it keeps its distance to those before it.

    along: shape (canvas, canvas), direction of the fibres in radians.
    """
    count = 1300
    y, x = rng.uniform(_PAD - 6, _PAD + SIZE + 6, (2, count))
    iy, ix = y.astype(int), x.astype(int)
    where = region[iy, ix]
    kind = (rng.random((count, 1)) > np.cumsum(_MIXTURES, axis=1)[where]).sum(1).clip(0, 3)
    size, size_spread, aspect, aspect_spread = _SHAPES[kind].T
    is_tumour = kind == _TUMOUR_CELL
    # Pleomorphism: tumour nuclei vary within the patch, too.
    diameter = size * np.exp(size_spread * rng.standard_normal(count))
    diameter = np.where(is_tumour, diameter * slide.nucleus, diameter).clip(3.5, 22)
    aspect = np.maximum(1, aspect * np.exp(aspect_spread * rng.standard_normal(count)))
    # A nucleus that outgrew its square window would have straight edges.
    aspect = np.minimum(aspect, (2 * _LONGEST / diameter) ** 2)
    loose = rng.uniform(0, 2 * np.pi, count)
    aligned = along[iy, ix] + 0.25 * rng.standard_normal(count)
    angle = np.where(kind == _FIBROCYTE, aligned, loose)

    # Share of the darts that count, per compartment, and the distance kept.
    density = np.array([rng.uniform(0.04, 0.20), rng.uniform(0.35, 1.0), rng.uniform(0.12, 0.4), rng.uniform(0.3, 0.8)])
    reach = diameter * np.array([0.52 * slide.crowding, 0.45, 0.55, 0.56])[kind]
    keep = (rng.random(count) < density[where]) & (tissue[iy, ix] > 0.8)
    kept = _spaced(y, x, reach, np.flatnonzero(keep))
    return _Nuclei(y[kept], x[kept], kind[kept], diameter[kept], aspect[kept], angle[kept])


def _spaced(y: np.ndarray, x: np.ndarray, reach: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Indices out of `order`, kept greedily so that no two discs overlap."""
    y, x, reach = y[order], x[order], reach[order]
    gap = reach[:, None] + reach[None]
    clash = (y[:, None] - y[None]) ** 2 + (x[:, None] - x[None]) ** 2 < gap**2
    blocked = np.zeros(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not blocked[i]:
            kept.append(order[i])
            blocked |= clash[i]
    return np.array(kept, int)


def _nucleus_look(
    rng: np.random.Generator, slide: Slide, kind: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Haematoxylin of the inside, the rim, the chromatin's contrast, and the halo."""
    pale = np.clip(slide.vesicular + 0.15 * rng.standard_normal(len(kind)), 0, 1)
    dark = slide.depth * np.exp(0.16 * rng.standard_normal(len(kind)))
    plain = np.exp(0.13 * rng.standard_normal(len(kind)))
    choose = [kind == k for k in range(4)]
    inside = np.select(choose, [(1.02 - 0.52 * pale) * dark, 1.85 * plain, 1.45 * plain, 0.70 * plain])
    rim = np.select(choose, [(0.05 + 0.70 * pale) * dark, 0.12 * plain, 0.05 * plain, 0.45 * plain])
    contrast = np.select(choose, [0.25 * dark, 0.40 * plain, 0.30 * plain, 0.22 * plain])
    halo = np.select(choose, [0.12, 0.38, 0.15, 0.10]) * rng.uniform(0, 2, len(kind))
    return inside, rim, contrast, halo


def _paint_nuclei(
    rng: np.random.Generator,
    slide: Slide,
    nuclei: _Nuclei,
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
) -> None:
    """Paint the nuclei into both canvases, in place."""
    inside, rim, contrast, halo = _nucleus_look(rng, slide, nuclei.kind)
    wobble = rng.normal(0, 1, (2, len(nuclei.kind))) * np.array([0.09, 0.05, 0.07, 0.08])[nuclei.kind]
    phase = rng.uniform(0, 2 * np.pi, (2, len(nuclei.kind)))
    spots = rng.uniform(0, 1, (4, len(nuclei.kind)))
    chromatin = _grain(rng, 0.62) + 0.45 * _grain(rng, 1.6)
    longest = nuclei.diameter * np.sqrt(nuclei.aspect) / 2
    # One batch of small windows and one of large ones.
    for low, high, half in ((0, 5.5, 9), (5.5, 99, 15)):
        pick = np.flatnonzero((longest >= low) & (longest < high))
        if not len(pick):
            continue
        radius, cover, ring, nucleolus = _outlines(nuclei, pick, half, wobble, phase, spots)
        body = inside[pick, None, None] + rim[pick, None, None] * ring + nucleolus
        pale = 1 - halo[pick, None, None] * np.exp(-(((radius - 1.30) / 0.22) ** 2)) * (1 - cover)
        body, pale, cover = (a.astype(np.float32) for a in (body, pale, cover))
        for i, n in enumerate(pick):
            top, left = int(nuclei.y[n]) - half, int(nuclei.x[n]) - half
            here = (slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1))
            h, e = haematoxylin[here], eosin[here]
            h *= pale[i]
            e *= pale[i]
            value = body[i] + np.float32(contrast[n]) * chromatin[here]
            h += cover[i] * (value - h * np.float32(0.6))
            e *= 1 - 0.35 * cover[i]


def _outlines(
    nuclei: _Nuclei,
    pick: np.ndarray,
    half: int,
    wobble: np.ndarray,
    phase: np.ndarray,
    spots: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Windows of shape (len(pick), 2 half + 1, 2 half + 1).

    Radius (1 on the outline), cover (0 to 1, soft over about a pixel), ring
    along the membrane (0 to 1), and extra haematoxylin of the nucleolus.
    """

    def at(values: np.ndarray) -> np.ndarray:
        return values[pick, None, None].astype(np.float32)

    t = np.arange(-half, half + 1, dtype=np.float32)
    dy = t[:, None] - at(nuclei.y % 1)
    dx = t[None, :] - at(nuclei.x % 1)
    cos, sin = at(np.cos(nuclei.angle)), at(np.sin(nuclei.angle))
    long = nuclei.diameter * np.sqrt(nuclei.aspect) / 2
    short = nuclei.diameter / np.sqrt(nuclei.aspect) / 2
    u = (dx * cos + dy * sin) / at(long)
    v = (dy * cos - dx * sin) / at(short)
    turn = np.arctan2(v, u)
    bumps = 1 + at(wobble[0]) * np.cos(2 * turn + at(phase[0]))
    bumps += at(wobble[1]) * np.cos(3 * turn + at(phase[1]))
    radius = np.hypot(u, v) / bumps
    # Distance to the outline in px, by the mean semi-axis: exact for a circle.
    width = at(np.minimum(nuclei.diameter / 2, 1.3 * short))
    depth = (1 - radius) * width
    cover = np.clip(0.5 + depth / 0.9, 0, 1)
    ring = np.exp(-(((depth - 0.9) / 0.8) ** 2))
    strength = np.array([0.55, 0.0, 0.0, 0.15])[nuclei.kind] * (spots[0] < 0.7)
    angle, away = 2 * np.pi * spots[1], 0.5 * np.sqrt(spots[2])
    su, sv = u - at(away * np.cos(angle)), v - at(away * np.sin(angle))
    size = 1.0 + 0.6 * spots[3]
    nucleolus = at(strength) * np.exp(-(su**2 + sv**2) * at((nuclei.diameter / 2 / size) ** 2))
    return radius, cover, ring, nucleolus


# --------------------------------------------------------------------------
# Ground substance, red cells, light


def _ground(rng: np.random.Generator, region: np.ndarray, fibres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin between the nuclei, float32 canvases."""
    levels = _GROUND * np.exp(rng.normal(0, 0.22, _GROUND.shape)).astype(np.float32)
    h, e = np.moveaxis(levels[region], -1, 0)
    h = ndimage.gaussian_filter(h, 1.2)
    e = ndimage.gaussian_filter(e, 1.2)
    cloud, fine = _waves(rng, 17), _grain(rng, rng.uniform(0.55, 0.9))
    stroma = ndimage.gaussian_filter((region == _STROMA).astype(np.float32), 1.0)
    lines = stroma * np.float32(rng.uniform(0.2, 0.65)) * fibres
    e *= np.exp(0.20 * cloud + 0.30 * fine + lines)
    h *= np.exp(0.20 * cloud + 0.55 * _grain(rng, 0.9) + 0.5 * lines)
    # Shrinkage tears small gaps into the ground, more in some patches.
    level = rng.uniform(0.1, 2.0)
    gaps = np.clip((_grain(rng, rng.uniform(1.0, 1.8)) + 0.35 * cloud - level) / 0.8, 0, 1)
    left = 1 - np.float32(rng.uniform(0.6, 1.0)) * gaps
    return h * left, e * left


def _glass(rng: np.random.Generator) -> np.ndarray:
    """Eosin where there is no tissue: haze, and threads in some patches."""
    haze = 0.03 * np.abs(_waves(rng, 30))
    threads = rng.uniform(0, 0.5) * np.exp(-((_waves(rng, 40) * 7) ** 2))
    return haze + threads * np.clip(_waves(rng, 40), 0, 1)


def _red_cells(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Haemoglobin on the canvas, float32: a few red cells in some patches."""
    blood = np.zeros((_CANVAS, _CANVAS), np.float32)
    if rng.random() >= 0.22:
        return blood
    centre = rng.uniform(_PAD, _PAD + SIZE, 2)
    spread = rng.uniform(5, 16)
    for cy, cx in centre + spread * rng.standard_normal((int(rng.integers(3, 28)), 2)):
        half = 5
        top, left = int(cy) - half, int(cx) - half
        if min(top, left) < 0 or max(top, left) + 2 * half + 1 > _CANVAS:
            continue
        here = (slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1))
        distance = np.hypot(_YX[0][here] - cy, _YX[1][here] - cx)
        # Red cells are thinner in the middle.
        disc = np.clip(3.1 - distance, 0, 1) * (0.75 + 0.08 * distance)
        blood[here] = np.maximum(blood[here], disc * rng.uniform(0.5, 0.9))
    return blood


def _develop(
    rng: np.random.Generator,
    slide: Slide,
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
    blood: np.ndarray,
) -> np.ndarray:
    """Light through the stains (Beer and Lambert): uint8 (96, 96, 3)."""
    # Sections differ in thickness, slides in staining.
    gains = slide.gains * np.exp(rng.normal(0, [0.15, 0.20]))
    amounts = np.stack([haematoxylin * gains[0], eosin * gains[1], blood])
    amounts = amounts[:, _PAD - 3 : _PAD + SIZE + 3, _PAD - 3 : _PAD + SIZE + 3]
    image = np.empty((SIZE, SIZE, 3), np.float32)
    for channel in range(3):
        density = sum(float(w) * a for w, a in zip(slide.stains[:, channel], amounts, strict=True))
        light = np.float32(slide.white[channel]) * np.exp(-density)
        light = ndimage.gaussian_filter(light, slide.blur, truncate=3)
        # Scanners sharpen; real patches show its overshoot around nuclei.
        light += np.float32(slide.sharpening) * (light - ndimage.gaussian_filter(light, 1.0, truncate=3))
        image[..., channel] = light[3:-3, 3:-3]
    image += np.float32(slide.noise) * rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)
    image += np.float32(0.006) * rng.standard_normal(image.shape, dtype=np.float32)
    return (image * 255 + 0.5).clip(0, 255).astype(np.uint8)


def draw_patch(seed: int, split: str, index: int) -> Patch:
    """Draw one patch; a pure function of its three arguments.

    Patches 2i and 2i + 1 have opposite labels.  Drawing takes some
    milliseconds.  The same arguments give the same bytes on one machine;
    another processor or version of numpy may round a few pixels differently.

    seed: whole number, 0 or more.
    split: "train", "valid" or "test".
    index: whole number, 0 or more.

    Raises ValueError naming the argument.
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
    warp = np.float32(bend) * np.stack([_waves(rng, 45), _waves(rng, 45)])
    fibres = _fibres(rng, angle, warp)
    along = angle + 0.12 * bend * _waves(rng, 60)

    h, e = _ground(rng, region, fibres)
    nuclei = _place_nuclei(rng, slide, region, tissue, along)
    _paint_nuclei(rng, slide, nuclei, h, e)
    blood = _red_cells(rng, tissue)
    h *= tissue
    e = e * tissue + _glass(rng) * (1 - tissue)
    image = _develop(rng, slide, h, e, blood * tissue)
    return Patch(image, tumour[_PATCH, _PATCH].copy())


# --------------------------------------------------------------------------
# Arguments


def whole_number(name: str, value: int, least: int = 0) -> int:
    """`value` as an int, or ValueError naming the argument."""
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
