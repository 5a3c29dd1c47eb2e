"""The contrasts of ``results/PLAN.md``: pairs of networks that differ in one thing, and what their runs have decided.

Read are the runs in ``results/evidence/``, never the sealed folder of confirmation inside it: :mod:`equilib.confirmation`
opens that, contrast by contrast, when the plan says so.  Until then a contrast is not decided with «yes».
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from equilib import study_tables
from equilib.bootstrap import area_under_curve, interval, over_runs, patch_counts, resampled_areas, resampled_means
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
# The paper's third row, in no contrast: eight fields of D4 train about as many weights as the 24 channels of the published
# plain one.
THIRD_ROW = {
    "D4_densenet": Variant.densenet("equivariant", 64),
    "densenet": Variant.densenet("conventional", 24, recipe=ANY_ANGLE),
}
EPOCHS, LEARNING_RATE, PATCHES = 6, 3e-3, 20_000
# Of the plan's recipe, what all its runs share, whatever their length, rate and number of patches.
RECIPE = {
    "augmentation": True,
    "any_angle": 1.0,
    "stain": 0.1,
    "recalibrate": 512,
    "batch_size": 32,
    "weight_decay": 0.05,
    "valid_limit": 1_500,
}
SEEDS = (0, 1, 2)
# Points of accuracy that the plan aims at in the primary contrast.
AIM = 3
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

    @property
    def title(self) -> str:
        """The labels of both networks: «the first − the second»."""
        return " − ".join(short(NETWORKS[name].label) for name in (self.network, self.baseline))


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


def of_plan(
    runs: Sequence[Run],
    epochs: int = EPOCHS,
    learning_rate: float | None = LEARNING_RATE,
    patches: int = PATCHES,
) -> list[Run]:
    """Those of the runs that the plan's contrasts compare: its networks and its recipe, this length, rate and size.

    Two runs that differ in anything but network and seed are never among them.

    Args:
        learning_rate: None for runs of any rate.
    """
    return [
        run
        for run in runs
        if run.variant in NETWORKS.values()
        and (run.patches, run.figures["config"]["epochs"]) == (patches, epochs)
        and learning_rate in (None, run.figures["config"]["learning_rate"])
        and by_recipe(run)
    ]


def by_recipe(run: Run) -> bool:
    """Whether a run followed :data:`RECIPE`, and dropped whole fields where it has fields."""
    config = run.figures["config"]
    fields = run.variant.conventional or config.get("network", {}).get("field_dropout", True)
    return fields and all(config.get(name, value) == value for name, value in RECIPE.items())


def run_name(
    network: str, seed: int, epochs: int = EPOCHS, learning_rate: float = LEARNING_RATE, patches: int = PATCHES
) -> str:
    """What the files of one of the plan's runs are called; ``network`` is a key of :data:`NETWORKS` or :data:`THIRD_ROW`."""
    rate = f"_lr{learning_rate:g}" if learning_rate != LEARNING_RATE else ""
    return f"{network}_{patches}_epochs{epochs}{rate}_seed{seed}"


def name_of(run: Run) -> str:
    """:func:`run_name` of a run; raises ValueError where the plan has no such network."""
    config = run.figures["config"]
    for name, variant in (NETWORKS | THIRD_ROW).items():
        if variant == run.variant:
            return run_name(name, run.seed, config["epochs"], config["learning_rate"], run.patches)
    raise ValueError(f"results/PLAN.md has no network {run.network!r} of width {run.width:g}")


def best_threshold(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The score above which to answer 1, so that most patches are right; halfway between two scores, the lowest of equals."""
    order = np.argsort(scores, kind="stable")
    scores, labels = np.asarray(scores, float)[order], np.asarray(labels)[order] == 1
    between = np.concatenate(([scores[0] - 1], (scores[1:] + scores[:-1]) / 2, [scores[-1] + 1]))
    # Scores that are equal cannot be parted.
    possible = np.concatenate(([True], scores[1:] > scores[:-1], [True]))
    right = labels.sum() + np.concatenate(([0], np.cumsum(np.where(labels, -1, 1))))
    return float(between[possible][np.argmax(right[possible])])


def _patches(run: Run, split: str, answers: str = "fp32") -> tuple[np.ndarray, np.ndarray]:
    """Logit differences and labels: of test or confirmation patches, or of the validation patches on a side of CHOSE."""
    figures = run.figures
    found = {"test": "per_patch", "confirmation": "confirmation"}.get(split)
    found = figures[found] if found else figures["further"]["valid"]
    part = {"chose": slice(CHOSE), "unseen": slice(CHOSE, None)}.get(split, slice(None))
    return np.asarray(found[answers])[part], np.asarray(found["label"])[part]


@dataclass(frozen=True)
class Measure:
    """A number from 0 to 1 of a run's answers.

    Attributes:
        split: ``"test"``, ``"unseen"`` (validation patches that chose nothing) or ``"confirmation"``.
        area: the area under the curve; else the accuracy.
        chosen: accuracy at the threshold that is best on the validation patches that chose the epoch, not at probability 0.5.
        answers: ``"fp32"`` or ``"int8"``; of validation patches there are the first alone.
    """

    split: str
    area: bool = False
    chosen: bool = False
    answers: str = "fp32"

    def __call__(self, run: Run) -> float:
        scores, labels = _patches(run, self.split, self.answers)
        if self.area:
            return area_under_curve(scores, labels)
        return float(np.mean((scores > self._threshold(run)) == (labels == 1)))

    def resampled(self, run: Run) -> np.ndarray:
        """The same of each resample of the patches, (REPEATS,); a chosen threshold stays what it is."""
        scores, labels = _patches(run, self.split, self.answers)
        if self.area:
            return _areas(tuple(scores.tolist()), tuple(labels.tolist()))
        return _shares(tuple(((scores > self._threshold(run)) == (labels == 1)).tolist()))

    def _threshold(self, run: Run) -> float:
        return best_threshold(*_patches(run, "chose")) if self.chosen else 0.0


# Of one run, which several contrasts and tables share.
@lru_cache(maxsize=256)
def _areas(scores: tuple, labels: tuple) -> np.ndarray:
    return resampled_areas(scores, labels, patch_counts(len(labels)))


@lru_cache(maxsize=256)
def _shares(right: tuple) -> np.ndarray:
    return resampled_means(np.asarray(right), patch_counts(len(right)))


# The plan's: the first decides.
MEASURES = {
    "AUC, test": Measure("test", area=True),
    "accuracy, test": Measure("test"),
    "accuracy at the validation threshold, test": Measure("test", chosen=True),
    "AUC, unseen validation": Measure("unseen", area=True),
    "accuracy, unseen validation": Measure("unseen"),
}
DECIDES = "AUC, test"
# The same of the confirmation patches, which equilib.confirmation opens.
CONFIRMATION = {
    "AUC, confirmation": Measure("confirmation", area=True),
    "accuracy, confirmation": Measure("confirmation"),
    "accuracy at the validation threshold, confirmation": Measure("confirmation", chosen=True),
}
CONFIRMS = "AUC, confirmation"
# Beside the plan's measures: it names no precision, and they are read in FP32.
IN_INT8 = {
    f"{name} in INT8, {split}": Measure(split, area=name == "AUC", answers="int8")
    for split in ("test", "confirmation")
    for name in ("accuracy", "AUC")
}
ALL = MEASURES | CONFIRMATION | IN_INT8

UNKNOWN = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Difference:
    """A measure of some runs minus that of others.

    Attributes:
        mean: of the difference; NaN where a side has no run.
        interval: of 95 %, Welch's over seeds, which decides; NaN where a side has fewer than two runs.
        runs: how many there are on either side.
        bootstrap: of 95 %, from seeds and patches drawn anew, the same patches for both sides; NaN where the other one is.
    """

    mean: float
    interval: tuple[float, float]
    runs: tuple[int, int]
    bootstrap: tuple[float, float] = UNKNOWN

    @property
    def has_interval(self) -> bool:
        return not np.isnan(self.interval[0])

    @property
    def beside_zero(self) -> str:
        """Where the interval, which there has to be, lies: «holds 0», «lies above 0» or «lies below 0»."""
        low, high = self.interval
        return f"{'holds' if low <= 0 <= high else 'lies above' if low > 0 else 'lies below'} 0"


def third_row(runs: Sequence[Run]) -> list[Run]:
    """The DenseNets among the runs, trained as :func:`of_plan`'s; they drop nothing, as the published one does not."""
    main = (PATCHES, EPOCHS, LEARNING_RATE)
    return [
        run
        for run in runs
        if run.variant in THIRD_ROW.values()
        and (run.patches, run.figures["config"]["epochs"], run.figures["config"]["learning_rate"]) == main
        and by_recipe(run)
    ]


def sided(runs: Sequence[Run], network: str) -> list[Run]:
    """The runs of a network of the plan, by seed."""
    return sorted((run for run in runs if run.variant == NETWORKS[network]), key=lambda run: run.seed)


def values(runs: Sequence[Run], network: str, measure: str = DECIDES) -> list[float]:
    """A measure of each run of a network of the plan, by seed."""
    return [ALL[measure](run) for run in sided(runs, network)]


def compare(runs: Sequence[Run], contrast: Contrast, measure: str = DECIDES) -> Difference:
    """The contrast in one measure.

    Args:
        runs: as :func:`of_plan` gives them.

    Raises:
        ValueError: the runs answered different patches.
    """
    sides = [sided(runs, name) for name in (contrast.network, contrast.baseline)]
    counts = (len(sides[0]), len(sides[1]))
    if not all(counts):
        return Difference(float("nan"), UNKNOWN, counts)
    found = ALL[measure]
    if len({_patches(run, found.split)[1].tobytes() for side in sides for run in side}) > 1:
        raise ValueError(
            f"the runs of {contrast.network} and {contrast.baseline} answered different patches ({measure})"
        )
    first, second = ([found(run) for run in side] for side in sides)
    seeds, resampled = welch(first, second), UNKNOWN
    if min(counts) > 1:
        drawn = [over_runs(np.stack([*map(found.resampled, side)]), draw=draw) for draw, side in enumerate(sides)]
        resampled = interval(drawn[0] - drawn[1])
    return Difference(float(np.mean(first) - np.mean(second)), seeds, counts, resampled)


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


def missing(runs: Sequence[Run], contrast: Contrast, seeds: Sequence[int] | None = None) -> str:
    """Which seeds of the plan a contrast still waits for, in words; nothing where it has all.

    Args:
        seeds: that the plan wants; by default :data:`SEEDS`.
    """
    waits = []
    for network in (contrast.network, contrast.baseline):
        there = {run.seed for run in sided(runs, network)}
        if lacking := [str(seed) for seed in seeds or SEEDS if seed not in there]:
            waits.append(f"{network} {', '.join(lacking)}")
    return "; ".join(waits)


def is_confirmed(runs: Sequence[Run], contrast: Contrast) -> bool:
    """Whether all runs of both networks hold their answers on the confirmation patches."""
    sides = [sided(runs, name) for name in (contrast.network, contrast.baseline)]
    return all(sides) and all("confirmation" in run.figures for side in sides for run in side)


def contrast_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each contrast of the plan, in its measures and, beside these, in INT8; accuracies in percentage points.

    Args:
        runs: as :func:`of_plan` gives them, or :func:`equilib.confirmation.opened`; what that left closed is «sealed».
    """
    rows = []
    for contrast in CONTRASTS:
        sealed = not is_confirmed(runs, contrast)
        closed = {name for name in ALL if sealed and ALL[name].split == "confirmation"}
        found = {measure: compare(runs, contrast, measure) for measure in ALL if measure not in closed}
        row = {"contrast": f"{contrast.network} − {contrast.baseline}", "level": contrast.level}
        row |= {"what lies between": contrast.asks, "seeds": "{} and {}".format(*found[DECIDES].runs)}
        row |= {name: "sealed" if name in closed else difference_text(name, found[name]) for name in ALL}
        row["verdict"] = verdict(found[DECIDES], found.get(CONFIRMS))
        rows.append(row | {"seeds not run": missing(runs, contrast) or "none"})
    return rows


def short(label: str) -> str:
    """A network's label without the recipe, which is one for all of the plan, and with the strict layer named, too."""
    return re.sub(r"^([CD]\d+)$", r"\1, strict", label.removesuffix(f", {ANY_ANGLE}"))


def sentences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each primary and secondary contrast of the plan: what was found, and the verdict.

    Args:
        runs: as :func:`of_plan` gives them, or :func:`equilib.confirmation.opened`.
    """
    found = []
    for contrast in CONTRASTS:
        if contrast.level == "part":
            continue
        area, again = compare(runs, contrast), None
        numbers = f"{_in_brief(area, compare(runs, contrast, 'accuracy, test'))}, "
        numbers += f"{area.runs[0]} and {area.runs[1]} seed(s); "
        if is_confirmed(runs, contrast):
            again, points = (compare(runs, contrast, measure) for measure in (CONFIRMS, "accuracy, confirmation"))
            numbers += f"on confirmation patches {_in_brief(again, points)}; "
        found.append(f"{contrast.title} ({contrast.asks}): {numbers if all(area.runs) else ''}{verdict(area, again)}.")
    return found


def _in_brief(area: Difference, points: Difference) -> str:
    interval = " (Welch {:+.3f} to {:+.3f})".format(*area.interval) if area.has_interval else ""
    return f"{area.mean:+.3f} in AUC{interval}, {100 * points.mean:+.1f} points"


def difference_text(measure: str, difference: Difference) -> str:
    """A difference with both its intervals: of accuracy in percentage points, of areas as they are."""
    if np.isnan(difference.mean):
        return "not run"
    scale, form = (100, "+.1f") if measure.startswith("accuracy") else (1, "+.3f")
    mean = f"{scale * difference.mean:{form}}"
    if not difference.has_interval:
        return f"{mean} ({study_tables.ONE_SEED})"
    ends = [f"{scale * end:{form}}" for end in (*difference.interval, *difference.bootstrap)]
    if np.isnan(difference.bootstrap[0]):
        return "{} (Welch {} to {})".format(mean, *ends)
    return "{} (Welch {} to {}; bootstrap {} to {})".format(mean, *ends)
