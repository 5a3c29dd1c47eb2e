"""The contrasts of ``results/PLAN.md``: pairs of networks that differ in one thing, and what their runs have decided.

Read are the runs in ``results/evidence/``, never the sealed folder of confirmation inside it.  So no contrast is decided
with «yes» here: the plan wants an interval above 0 on the confirmation patches, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from equilib.study import Run, welch
from equilib.variant import ANY_ANGLE, Variant

DIVISOR = 24
# The networks by the names that the plan gives them.
NETWORKS = {
    "conventional": Variant("conventional", recipe=ANY_ANGLE, divisor=DIVISOR),
    "grouped4": Variant("conventional", "C4", "grouped", ANY_ANGLE, divisor=DIVISOR),
    "grouped12": Variant("conventional", "C12", "grouped", ANY_ANGLE, divisor=DIVISOR),
    "C1_fieldwise": Variant("equivariant", "C1", "fieldwise", divisor=DIVISOR),
    "C4_strict": Variant("equivariant", "C4", "strict", divisor=DIVISOR),
    "C4_fieldwise": Variant("equivariant", "C4", "fieldwise", divisor=DIVISOR),
    "C4_fieldwise_pixels": Variant("equivariant", "C4", "fieldwise", divisor=DIVISOR, band_limit=False),
    "C12_fieldwise": Variant("equivariant", "C12", "fieldwise", divisor=DIVISOR),
    "D4_fieldwise": Variant("equivariant", "D4", "fieldwise", divisor=DIVISOR),
}
EPOCHS, LEARNING_RATE, PATCHES = 6, 3e-3, 20_000
# The first validation patches have chosen the epoch, and choose the threshold; the others have chosen nothing.
CHOSE = 1_500


@dataclass(frozen=True)
class Contrast:
    """Two networks of the plan, and what lies between them.

    Attributes:
        level: ``"primary"``, ``"secondary"`` or ``"part"``.
        network, baseline: keys of :data:`NETWORKS`; the difference is the first minus the second.
        asks: what lies between them, in words.
    """

    level: str
    network: str
    baseline: str
    asks: str


CONTRASTS = (
    Contrast("primary", "C12_fieldwise", "conventional", "the paper's network against its counterpart"),
    Contrast("secondary", "C12_fieldwise", "grouped12", "sharing and smooth filters, the same layers"),
    Contrast("secondary", "C4_fieldwise", "grouped4", "sharing and smooth filters, the same layers"),
    Contrast("secondary", "C4_strict", "conventional", "sharing and smooth filters, channel by channel"),
    Contrast("part", "C4_fieldwise", "C4_fieldwise_pixels", "smooth filters"),
    Contrast("part", "C4_fieldwise_pixels", "grouped4", "sharing alone"),
    Contrast("part", "C1_fieldwise", "conventional", "smooth filters alone"),
)
# From the conventional network one step at a time.
STEPS = {
    "12 rotations": ("conventional", "grouped12", "C12_fieldwise"),
    "4 rotations": ("conventional", "grouped4", "C4_fieldwise_pixels", "C4_fieldwise"),
}


def of_plan(runs: Sequence[Run], epochs: int = EPOCHS, learning_rate: float = LEARNING_RATE) -> list[Run]:
    """Those of the runs that the plan's contrasts compare: its networks, 20,000 patches, this length and rate."""
    return [
        run
        for run in runs
        if run.variant in NETWORKS.values()
        and (run.patches, run.figures["config"]["epochs"], run.figures["config"]["learning_rate"])
        == (PATCHES, epochs, learning_rate)
    ]


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


def best_threshold(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The score above which to answer 1, so that most patches are right; halfway between two scores, the lowest of equals."""
    order = np.argsort(scores, kind="stable")
    scores, labels = np.asarray(scores, float)[order], np.asarray(labels)[order] == 1
    between = np.concatenate(([scores[0] - 1], (scores[1:] + scores[:-1]) / 2, [scores[-1] + 1]))
    # Scores that are equal cannot be parted.
    possible = np.concatenate(([True], scores[1:] > scores[:-1], [True]))
    right = labels.sum() + np.concatenate(([0], np.cumsum(np.where(labels, -1, 1))))
    return float(between[possible][np.argmax(right[possible])])


def _patches(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logit differences and labels: of the test patches, or of the validation patches on either side of CHOSE."""
    figures = run.figures
    found = figures["per_patch"] if split == "test" else figures["further"]["valid"]
    part = {"test": slice(None), "chose": slice(CHOSE), "unseen": slice(CHOSE, None)}[split]
    return np.asarray(found["fp32"])[part], np.asarray(found["label"])[part]


def _area(split: str) -> Callable[[Run], float]:
    return lambda run: area_under_curve(*_patches(run, split))


def _accuracy(split: str, *, chosen: bool = False) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        threshold = best_threshold(*_patches(run, "chose")) if chosen else 0.0
        scores, labels = _patches(run, split)
        return float(np.mean((scores > threshold) == (labels == 1)))

    return measure


# The plan's: the first decides.  Each takes a run and returns a number from 0 to 1.
MEASURES = {
    "AUC, test": _area("test"),
    "accuracy, test": _accuracy("test"),
    "accuracy at the validation threshold, test": _accuracy("test", chosen=True),
    "AUC, unseen validation": _area("unseen"),
    "accuracy, unseen validation": _accuracy("unseen"),
}
DECIDES = "AUC, test"


@dataclass(frozen=True)
class Difference:
    """A measure of some runs minus that of others.

    Attributes:
        mean: of the difference; NaN where a side has no run.
        interval: of 95 %, Welch's over seeds; NaN where a side has fewer than two runs.
        runs: how many there are on either side.
    """

    mean: float
    interval: tuple[float, float]
    runs: tuple[int, int]

    @property
    def has_interval(self) -> bool:
        return not np.isnan(self.interval[0])


def values(runs: Sequence[Run], network: str, measure: str = DECIDES) -> list[float]:
    """A measure of each run of a network of the plan, by seed."""
    found = sorted((run for run in runs if run.variant == NETWORKS[network]), key=lambda run: run.seed)
    return [MEASURES[measure](run) for run in found]


def compare(runs: Sequence[Run], contrast: Contrast, measure: str = DECIDES) -> Difference:
    """The contrast in one measure.

    Args:
        runs: as :func:`of_plan` gives them.
    """
    first, second = (values(runs, name, measure) for name in (contrast.network, contrast.baseline))
    counts = (len(first), len(second))
    if not all(counts):
        return Difference(float("nan"), (float("nan"), float("nan")), counts)
    return Difference(float(np.mean(first) - np.mean(second)), welch(first, second), counts)


def verdict(test: Difference, confirmation: Difference | None = None) -> str:
    """What the plan's rule says: «yes», «no», «not shown», «not run», or «not decided: …» and what is missing.

    Args:
        test, confirmation: the area under the curve on test and on confirmation patches; None while these are sealed.
    """
    if not all(test.runs):
        return "not run"
    if not test.has_interval:
        return "not decided: one seed on a side, so no interval"
    (low, high), known = test.interval, confirmation is not None and confirmation.has_interval
    if high < 0 or (known and confirmation.interval[1] < 0):
        return "no"
    if low <= 0:
        return "not shown" if known else "not decided: the interval on test patches contains 0, confirmation is sealed"
    if not known:
        return "not decided: above 0 on test patches, confirmation is sealed"
    return "yes" if confirmation.interval[0] > 0 else "not shown"


def contrast_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each contrast of the plan; differences of accuracy in percentage points.

    Args:
        runs: as :func:`of_plan` gives them.
    """
    rows = []
    for contrast in CONTRASTS:
        found = {measure: compare(runs, contrast, measure) for measure in MEASURES}
        row = {"contrast": f"{contrast.network} − {contrast.baseline}", "level": contrast.level}
        row |= {"what lies between": contrast.asks, "seeds": "{} and {}".format(*found[DECIDES].runs)}
        row |= {measure: _text(measure, difference) for measure, difference in found.items()}
        rows.append(row | {"verdict": verdict(found[DECIDES])})
    return rows


def sentences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each primary and secondary contrast of the plan: what was found, and the verdict.

    Args:
        runs: as :func:`of_plan` gives them.
    """
    found = []
    for contrast in CONTRASTS:
        if contrast.level == "part":
            continue
        names = " − ".join(NETWORKS[name].label for name in (contrast.network, contrast.baseline))
        area, points = (compare(runs, contrast, measure) for measure in (DECIDES, "accuracy, test"))
        interval = " ({:+.3f} to {:+.3f})".format(*area.interval) if area.has_interval else ""
        numbers = f"{area.mean:+.3f}{interval} in AUC, {100 * points.mean:+.1f} points of accuracy, "
        numbers += f"{area.runs[0]} and {area.runs[1]} seed(s); "
        found.append(f"{names} ({contrast.asks}): {numbers if all(area.runs) else ''}{verdict(area)}.")
    return found


def _text(measure: str, difference: Difference) -> str:
    if np.isnan(difference.mean):
        return "not run"
    scale, form = (100, "+.1f") if measure.startswith("accuracy") else (1, "+.3f")
    mean, low, high = (scale * number for number in (difference.mean, *difference.interval))
    interval = f"{low:{form}} to {high:{form}}" if difference.has_interval else "one seed: no interval"
    return f"{mean:{form}} ({interval})"
