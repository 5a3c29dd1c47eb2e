"""Bootstrap: how much of a figure is chance, of seeds and of test patches; of slides, where patches of a slide are alike.

Runs and patches are drawn anew with replacement, :data:`REPEATS` times (Efron and Tibshirani, *An introduction to the
bootstrap*, 1993, section 8.3: the units that were drawn are what is drawn again).  All runs answer the same patches, so a
repeat has one draw of patches for all of them, and its own draw of runs for each side of a difference.  Draws come from
fixed generators: the same figures give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import rankdata

REPEATS = 4000


@lru_cache(maxsize=1)
def patch_counts(patches: int) -> np.ndarray:
    """How often each patch is drawn, (REPEATS, patches), from a generator of its own: two tables of the same patches see
    the same resamples, and the drawing, which takes nearly all of the time, is done once."""
    counts = np.random.default_rng(0).multinomial(patches, np.full(patches, 1 / patches), REPEATS)
    counts.flags.writeable = False
    return counts


def slide_counts(slides: Sequence[str]) -> np.ndarray:
    """How often each patch is drawn where whole slides are drawn, (REPEATS, N): as often as its slide.

    Args:
        slides: (N,), the name of each patch's slide.

    Raises:
        ValueError: all patches are of one slide, so nothing can be drawn.
    """
    names, slide = np.unique(np.asarray(slides), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a bootstrap by slide needs patches of two slides at least, got {len(names)}")
    drawn = np.random.default_rng(2).multinomial(len(names), np.full(len(names), 1 / len(names)), REPEATS)
    return drawn[:, slide]


def area_under_curve(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The share of pairs (a patch of class 1, one of class 0) in which the first has the higher score; ties count half.

    Args:
        scores, labels: (N,); labels are 0 and 1.

    Raises:
        ValueError: a class is missing.
    """
    labels = np.asarray(labels) == 1
    ones, zeros = labels.sum(), (~labels).sum()
    if not ones or not zeros:
        raise ValueError("an area under the curve needs patches of both classes")
    return float((rankdata(scores)[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def resampled_areas(scores: Sequence[float], labels: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """The area under the curve of each resample, (repeats,); NaN where a resample has one class alone.

    A patch that was drawn k times counts k times.  Sorted by score once, each resample is a cumulative sum.

    Args:
        scores, labels: (N,); labels are 0 and 1.
        counts: (repeats, N), how often each patch is drawn.
    """
    order = np.argsort(scores, kind="stable")
    scores, ones = np.asarray(scores)[order], np.asarray(labels)[order] == 1
    counts = counts[:, order].astype(np.int32)
    below = np.zeros((len(counts), len(scores) + 1), np.int32)
    np.cumsum(np.where(ones, 0, counts), axis=1, out=below[:, 1:])
    positive = counts[:, ones]
    # Patches of class 0 with a lower score count twice, those with the same score once: half of a pair.
    first, last = (np.searchsorted(scores, scores[ones], side) for side in ("left", "right"))
    twice = np.einsum("bn,bn->b", positive, below[:, first] + below[:, last], dtype=np.float64)
    pairs = positive.sum(1, dtype=np.float64) * below[:, -1]
    return np.divide(twice, 2 * pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def resampled_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over drawn patches of values (…, N) in each resample, (…, repeats)."""
    return np.asarray(values, float) @ counts.T / counts.sum(1)


def over_runs(values: np.ndarray, *, draw: int = 0) -> np.ndarray:
    """The mean over drawn runs in each resample, (repeats,).

    Args:
        values: (runs, repeats), a figure of each run in each resample of the patches.
        draw: which draw of runs; the two sides of a difference take different ones.
    """
    runs, repeats = values.shape
    counts = np.random.default_rng((1, draw)).multinomial(runs, np.full(runs, 1 / runs), repeats)
    return np.einsum("br,rb->b", counts, values) / runs


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Of 95 %, from the quantiles of resampled figures; those that are NaN are left out."""
    low, high = np.nanquantile(samples, (0.025, 0.975))
    return float(low), float(high)
