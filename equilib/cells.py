"""Nuclei and red cells of a synthetic patch: which kinds lie where, their shapes, and their amounts of stain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equilib.canvas import CANVAS, PAD, SIZE, YX, grain
from equilib.stains import Slide

STROMA, LYMPHOID, HISTIOCYTIC, TUMOUR = range(4)
"""Compartments of the tissue; each has its own mixture of nuclei."""

# Kinds of nuclei.
_TUMOUR_CELL, _LYMPHOCYTE, _FIBROCYTE, _HISTIOCYTE = range(4)

# Per kind: median equivalent diameter (px), spread of its log, median aspect, spread of the log of the aspect. Measured
# on annotated H&E images at 10x.
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


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Nuclei of one patch, in arrays of one length.

    Attributes:
        y: row of the centre on the canvas, in px.
        x: column of the centre on the canvas, in px.
        kind: tumour cell, lymphocyte, fibrocyte or histiocyte, 0 to 3.
        diameter: of the disc of the same area, in px.
        aspect: long axis over short axis, 1 or more.
        angle: direction of the long axis, in radians.
    """

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    diameter: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray


def place_nuclei(
    rng: np.random.Generator,
    slide: Slide,
    region: np.ndarray,
    tissue: np.ndarray,
    along: np.ndarray,
) -> Nuclei:
    """Throw darts: a nucleus stays if it keeps its distance to those before it.

    Args:
        rng: the random stream of the patch.
        slide: the slide that the patch is on.
        region: compartment of each pixel, int8, shape (CANVAS, CANVAS).
        tissue: density of tissue, 0 to 1, of that shape.
        along: direction of the fibres in radians, of that shape.

    Returns:
        The nuclei that stay.
    """
    count = 1300
    y, x = rng.uniform(PAD - 6, PAD + SIZE + 6, (2, count))
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
    return Nuclei(y[kept], x[kept], kind[kept], diameter[kept], aspect[kept], angle[kept])


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


def paint_nuclei(
    rng: np.random.Generator,
    slide: Slide,
    nuclei: Nuclei,
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
) -> None:
    """Paint the nuclei into both canvases, in place.

    Args:
        rng: the random stream of the patch.
        slide: the slide that the patch is on.
        nuclei: what to paint.
        haematoxylin: amount of the stain, float32, shape (CANVAS, CANVAS); written to.
        eosin: the same of eosin; written to.
    """
    inside, rim, contrast, halo = _nucleus_look(rng, slide, nuclei.kind)
    wobble = rng.normal(0, 1, (2, len(nuclei.kind))) * np.array([0.09, 0.05, 0.07, 0.08])[nuclei.kind]
    phase = rng.uniform(0, 2 * np.pi, (2, len(nuclei.kind)))
    spots = rng.uniform(0, 1, (4, len(nuclei.kind)))
    chromatin = grain(rng, 0.62) + 0.45 * grain(rng, 1.6)
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
    nuclei: Nuclei,
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


def red_cells(rng: np.random.Generator) -> np.ndarray:
    """A few red cells in some patches.

    Args:
        rng: the random stream of the patch.

    Returns:
        Amount of haemoglobin, float32, shape (CANVAS, CANVAS).
    """
    blood = np.zeros((CANVAS, CANVAS), np.float32)
    if rng.random() >= 0.22:
        return blood
    centre = rng.uniform(PAD, PAD + SIZE, 2)
    spread = rng.uniform(5, 16)
    for cy, cx in centre + spread * rng.standard_normal((int(rng.integers(3, 28)), 2)):
        half = 5
        top, left = int(cy) - half, int(cx) - half
        if min(top, left) < 0 or max(top, left) + 2 * half + 1 > CANVAS:
            continue
        here = (slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1))
        distance = np.hypot(YX[0][here] - cy, YX[1][here] - cx)
        # Red cells are thinner in the middle.
        disc = np.clip(3.1 - distance, 0, 1) * (0.75 + 0.08 * distance)
        blood[here] = np.maximum(blood[here], disc * rng.uniform(0.5, 0.9))
    return blood
