"""The canvas on which a synthetic patch is drawn, and random fields on it, none of which prefers a direction.

Directions are drawn uniformly on the circle, and no filter prefers an axis: a course about rotations needs data without
a preferred direction. Only bundles of fibres have one; the caller draws it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from equilib.hdf5 import LABEL_WINDOW
from equilib.hdf5 import PATCH_SIZE as SIZE  # a pixel is about a micrometre

CENTRE = slice((SIZE - LABEL_WINDOW) // 2, (SIZE + LABEL_WINDOW) // 2)
"""Rows and columns of the square of a patch that decides the label."""

PAD = 22
"""Margin of the canvas around the patch in px, so that a nucleus near the border needs no clipping."""

CANVAS = SIZE + 2 * PAD
"""Height and width of the canvas in px."""

PATCH = slice(PAD, PAD + SIZE)
"""Rows and columns of the patch on the canvas."""

INNER = slice(PAD + CENTRE.start, PAD + CENTRE.stop)
"""Rows and columns of the square that decides the label, on the canvas."""

YX = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
"""Row and column of each pixel of the canvas: float32, shape (2, CANVAS, CANVAS)."""


def waves(rng: np.random.Generator, wavelength: float, count: int = 24) -> np.ndarray:
    """Smooth field: a sum of plane waves whose directions are uniform, so isotropic by construction.

    Args:
        rng: the random stream.
        wavelength: median wavelength in px.
        count: number of waves.

    Returns:
        float32, shape (CANVAS, CANVAS), of about unit variance.
    """
    angle = rng.uniform(0, 2 * np.pi, count)
    k = 2 * np.pi / (wavelength * np.exp(rng.normal(0, 0.35, count)))
    t = np.arange(CANVAS)[:, None] - CANVAS / 2
    # cos(a + b) = cos a cos b - sin a sin b: a product of rows and columns.
    a = t * (k * np.sin(angle)) + rng.uniform(0, 2 * np.pi, count)
    b = t * (k * np.cos(angle))
    rows = np.hstack([np.cos(a), -np.sin(a)]).astype(np.float32)
    columns = np.hstack([np.cos(b), np.sin(b)]).astype(np.float32)
    # Not `@`: a threaded BLAS may add in another order under another load, and patches must not depend on that.
    return np.einsum("ik,jk->ij", rows, columns) * np.float32(np.sqrt(2 / count))


def grain(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Filtered white noise.

    Args:
        rng: the random stream.
        sigma: width of the Gaussian filter in px.

    Returns:
        float32, shape (CANVAS, CANVAS), of unit variance.
    """
    field = rng.standard_normal((CANVAS, CANVAS), dtype=np.float32)
    field = ndimage.gaussian_filter(field, sigma, truncate=3)
    return field / field.std()


def fibres(rng: np.random.Generator, angle: float, warp: np.ndarray) -> np.ndarray:
    """Wavy bundles of fibres.

    Args:
        rng: the random stream.
        angle: direction of the bundles in radians.
        warp: shape (2, CANVAS, CANVAS), displacement in px that bends them.

    Returns:
        float32, shape (CANVAS, CANVAS), about -1 to 1.
    """
    count = 7
    across = angle + np.pi / 2 + rng.normal(0, 0.16, count)
    k = 2 * np.pi / np.exp(rng.uniform(np.log(3.5), np.log(16), count))
    y, x = YX + warp
    field = np.zeros((CANVAS, CANVAS), np.float32)
    for ky, kx, phase in zip(k * np.sin(across), k * np.cos(across), rng.uniform(0, 2 * np.pi, count), strict=True):
        field += np.cos(np.float32(ky) * y + np.float32(kx) * x + np.float32(phase))
    return np.tanh(field * np.float32(1.1 / np.sqrt(count)))
