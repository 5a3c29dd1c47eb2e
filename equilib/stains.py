"""Slides and their stains: what the patches of one slide share, and the light that comes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from equilib.canvas import PAD, SIZE

# Unit optical densities (natural logarithm) of haematoxylin and eosin, for the two stain modes of PCam: A is pink, B is
# violet. Within 0.06 of what Macenko's method (ISBI 2009) finds on PCam's patches.
_STAINS = np.array(
    [
        [[0.520, 0.715, 0.465], [0.365, 0.830, 0.420]],
        [[0.590, 0.755, 0.290], [0.310, 0.905, 0.290]],
    ]
)

# The same of haemoglobin, in red cells.
_HAEMOGLOBIN = np.array([0.14, 0.86, 0.49])

# Light where there is no tissue, per stain mode, in the channels R, G, B.
_WHITE = np.array([[0.965, 0.950, 0.950], [0.930, 0.910, 0.925]])


@dataclass(frozen=True, eq=False)
class Slide:
    """What the patches of one slide share.

    Attributes:
        mode: stain mode, "A" (pink) or "B" (violet).
        stains: shape (3, 3), optical density per unit of haematoxylin, eosin and haemoglobin, in the channels R, G, B.
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


def random_slide(rng: np.random.Generator) -> Slide:
    """One slide of either stain mode.

    Args:
        rng: the random stream of the slide.

    Returns:
        The slide; either mode is equally likely.
    """
    mode = int(rng.integers(2))
    vectors = _STAINS[mode] + rng.normal(0, 0.03, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    white = _WHITE[mode] + rng.normal(0, 0.018) + rng.normal(0, 0.006, 3)
    return Slide(
        mode="AB"[mode],
        stains=np.vstack([vectors, _HAEMOGLOBIN]),
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


def develop(
    rng: np.random.Generator,
    slide: Slide,
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
    blood: np.ndarray,
) -> np.ndarray:
    """Light through the stains (law of Beer and Lambert), the optics, the scanner and the camera.

    Args:
        rng: the random stream of the patch.
        slide: the slide that the patch is on.
        haematoxylin: amount of the stain, float32, shape (CANVAS, CANVAS).
        eosin: the same of eosin.
        blood: the same of haemoglobin.

    Returns:
        The patch, RGB: uint8, shape (96, 96, 3).
    """
    # Sections differ in thickness, slides in staining.
    gains = slide.gains * np.exp(rng.normal(0, [0.15, 0.20]))
    amounts = np.stack([haematoxylin * gains[0], eosin * gains[1], blood])
    amounts = amounts[:, PAD - 3 : PAD + SIZE + 3, PAD - 3 : PAD + SIZE + 3]
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
