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

from equilib.checks import check_labels

REPEATS = 4000


@lru_cache(maxsize=1)
def patch_counts(patches: int) -> np.ndarray:
    """How often each patch is drawn, (REPEATS, patches), from a generator of its own: two tables of the same patches see
    the same resamples, and the drawing is done once.  A patch's counts lie side by side, as the sums here take them."""
    counts = np.random.default_rng(0).multinomial(patches, np.full(patches, 1 / patches), REPEATS)
    counts = np.asfortranarray(counts, dtype=np.int16)
    counts.flags.writeable = False
    return counts


def area_under_curve(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The share of pairs (a patch of class 1, one of class 0) in which the first has the higher score; ties count half.

    Args:
        scores, labels: (N,); labels are 0 and 1.

    Raises:
        ValueError: a class is missing, or a label is neither.
    """
    labels = np.asarray(labels)
    check_labels(labels, len(scores))
    labels = labels == 1
    ones, zeros = labels.sum(), (~labels).sum()
    if not ones or not zeros:
        raise ValueError("an area under the curve needs patches of both classes")
    return float((rankdata(scores)[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def resampled_areas(scores: Sequence[float], labels: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """The area under the curve of each resample, (repeats,); NaN where a resample has one class alone.

    A patch that was drawn k times counts k times.  With class 0 sorted by score once, each resample is a cumulative sum.

    Args:
        scores, labels: (N,); labels are 0 and 1.
        counts: (repeats, N), how often each patch is drawn.
    """
    scores, ones = np.asarray(scores), np.asarray(labels) == 1
    zeros = np.flatnonzero(~ones)
    zeros = zeros[np.argsort(scores[zeros], kind="stable")]
    drawn = counts.T  # a row for each patch
    below = np.zeros((len(zeros) + 1, len(counts)), np.int32)  # [k]: how many of the k lowest of class 0 were drawn
    np.cumsum(drawn[zeros], axis=0, out=below[1:])
    positive = drawn[ones]
    # Patches of class 0 with a lower score count twice, those with the same score once: half of a pair.
    first, last = (np.searchsorted(scores[zeros], scores[ones], side) for side in ("left", "right"))
    lower = below[first]
    lower += below[last]
    twice = np.einsum("nb,nb->b", positive, lower, dtype=np.float64)
    pairs = positive.sum(0, dtype=np.float64) * below[-1]
    return np.divide(twice, 2 * pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def resampled_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over drawn patches of values (…, N) in each resample, (…, repeats)."""
    return np.asarray(values, float) @ counts.T / counts.sum(1)


def drawn_slides(slides: int) -> np.ndarray:
    """How often each slide is drawn, (REPEATS, slides).

    Raises:
        ValueError: all patches are of one slide, so nothing can be drawn.
    """
    if slides < 2:
        raise ValueError(f"a bootstrap by slide needs patches of two slides at least, got {slides}")
    return np.random.default_rng(2).multinomial(slides, np.full(slides, 1 / slides), REPEATS)


def slide_means(values: Sequence[float], slide: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean over the patches of drawn slides, (repeats,); a slide comes with all its patches.

    Args:
        values: (N,), a number a patch.
        slide: (N,), the number of its slide.
        drawn: (repeats, slides).
    """
    size = drawn.shape[1]
    return drawn @ np.bincount(slide, values, size) / (drawn @ np.bincount(slide, minlength=size))


def slide_areas(scores: Sequence[float], labels: Sequence[int], slide: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The area under the curve of the patches of drawn slides, (repeats,); NaN where they have one class alone.

    Pairs in order are counted once for each pair of slides; a resample weighs these counts.  So all of PCam takes no more
    memory than its patches do.

    Args:
        scores, labels, slide: (N,); labels are 0 and 1.
        drawn: (repeats, slides).
    """
    scores, ones, size = np.asarray(scores, float), np.asarray(labels) == 1, drawn.shape[1]
    pairs = np.zeros((size, size))  # of a slide with the positive patch, and one with the negative patch
    for other in range(size):
        below = np.sort(scores[~ones & (slide == other)])
        found = sum(np.searchsorted(below, scores[ones], side) for side in ("left", "right")) / 2
        pairs[:, other] = np.bincount(slide[ones], found, size)
    positive, negative = (drawn @ np.bincount(slide[side], minlength=size) for side in (ones, ~ones))
    possible = positive.astype(float) * negative
    right = np.einsum("bs,st,bt->b", drawn, pairs, drawn, optimize=True)
    return np.divide(right, possible, out=np.full(len(drawn), np.nan), where=possible > 0)


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
