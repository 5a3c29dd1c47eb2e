"""Many trainings of the same kind: mean and spread over seeds, paired differences, and how much of them is chance.

:mod:`equilib.experiment` measures one trained network and writes one JSON; this module reads a folder of them, as
``experiments/grid.py`` writes it; :mod:`equilib.study_tables` puts them in tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from equilib.bootstrap import interval, over_runs, patch_counts, resampled_means
from equilib.results import is_stored, read_results, results_files, shipped_folder, shipped_results
from equilib.variant import Variant

# Folders of results/ with the records of shipped networks.
SHIPPED_FROM = ("grid", "ablation", "evidence")


@dataclass(frozen=True)
class Run:
    """One trained network and its figures.

    Attributes:
        variant: which network, trained by which recipe.
        patches: of the training split that it saw.
        seed: of its training.
        label: what the data was.
        command: how it was made.
        figures: see :func:`equilib.experiment.measure`.
    """

    variant: Variant
    patches: int
    seed: int
    label: str
    command: str
    figures: dict

    @property
    def network(self) -> str:
        """The label of its variant."""
        return self.variant.label

    @property
    def width(self) -> float:
        """Multiplier of its channels."""
        return self.variant.width

    def correct(self, stage: str = "fp32") -> np.ndarray:
        """Whether each test patch is classified correctly, (N,) of 0 and 1."""
        patches = self.figures["per_patch"]
        return ((np.asarray(patches[stage]) > 0) == (np.asarray(patches["label"]) == 1)).astype(float)


def read_run(path: str | Path) -> Run:
    """The run in one JSON file; raises ValueError where the file is of another kind."""
    contents = read_results(path)
    try:
        figures, data = _on_their_side(contents["model"]), contents["data"]
        variant = Variant.of(figures["config"])
        return Run(variant, data["train"], contents["seed"], data["label"], contents["command"], figures)
    except KeyError as error:
        raise ValueError(f"{path} is no run of experiments/grid.py: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:  # a list or a text where another stands
        raise ValueError(f"{path} is no run of experiments/grid.py: {error}") from error


def _on_their_side(figures: dict) -> dict:
    """The figures, logit differences that were rounded to 0 on the side that the recorded accuracy asks for.

    Older records keep four digits after the point and no more.  Where the recorded accuracy could be had in several ways,
    0 stays what it is to argmax: class 0.
    """
    patches = dict(figures.get("per_patch", {}))
    for stage, recorded in figures.get("accuracy", {}).items():
        values = np.asarray(patches.get(stage, []), float)
        if values.all():
            continue
        label = np.asarray(patches["label"]) == 1
        missing = round(recorded["accuracy"] * len(values)) - int(((values > 0) == label).sum())
        # On the side of class 1, each patch of that class is one more that is right, and each other one less.
        gained, lost = (values == 0) & label, (values == 0) & ~label
        if missing and missing in (gained.sum(), -lost.sum()):
            values[gained if missing > 0 else lost] = 1e-5
            patches[stage] = values.tolist()
    return figures | {"per_patch": patches} if patches else figures


def shipped_run(name: str) -> Run:
    """The run whose network comes with the project under this name (``checkpoints.json``).

    Raises:
        FileNotFoundError: the figures of no such run are among the results.
    """
    records = (shipped_folder() / part / f"{name.removeprefix('pcam_')}.json" for part in SHIPPED_FROM)
    path = next(filter(is_stored, records), None)
    if path is None:
        raise FileNotFoundError(f"no results of a run named {name!r} come with the project")
    return read_run(path)


def shipped_models() -> dict[str, Run]:
    """The networks that come with an INT8 file (:func:`equilib.results.shipped_int8`), by name, and the runs that made them."""
    listed = shipped_results("checkpoints")
    return {name: shipped_run(name) for name, entry in listed.items() if "int8 sha256" in entry}


def validation_loss(run: Run) -> float:
    """The lowest of its epochs, in nats: that of the weights that were kept."""
    return min(epoch["valid_loss"] for epoch in run.figures["history"])


def chosen_model() -> str:
    """The shipped INT8 model to take where nothing else decides: of the lowest validation loss, so chosen on no test patch."""
    models = shipped_models()
    return min(models, key=lambda name: validation_loss(models[name]))


def read_runs(folder: str | Path) -> list[Run]:
    """All runs in a folder, by network, width, number of patches and seed."""
    paths = results_files(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no results; experiments/grid.py makes them")
    return sorted(
        map(read_run, paths),
        key=lambda run: (not run.variant.conventional, run.network, run.width, run.patches, run.seed),
    )


def shipped_runs(name: str = "grid") -> list[Run]:
    """The runs that come with the project."""
    return read_runs(shipped_folder(name))


def select(runs: Sequence[Run], **values) -> list[Run]:
    """The runs whose attributes have these values, such as ``network="C4", patches=1000``."""
    return [run for run in runs if all(getattr(run, name) == value for name, value in values.items())]


def made(run: Run) -> tuple[Variant, int, str]:
    """All that decides what a run gives but its seed: network, patches, and every other option of its training."""
    config = run.figures.get("config", {})
    network = {name: value for name, value in config.get("network", {}).items() if not hasattr(run.variant, name)}
    # A conventional network has no fields to drop whole, whatever the option says.
    network["field_dropout"] = not run.variant.conventional and network.get("field_dropout", False)
    options = {name: value for name, value in config.items() if name not in ("seed", "data", "kind", "network")}
    # The oldest records say «true» where newer ones say 1.0.
    options = {name: float(value) if isinstance(value, bool | int) else value for name, value in options.items()}
    return run.variant, run.patches, json.dumps([options, network], sort_keys=True)


def siblings(runs: Sequence[Run], run: Run) -> list[Run]:
    """Those of the runs that differ from this one in their seed alone."""
    return [other for other in runs if made(other) == made(run)]


def cells(runs: Sequence[Run]) -> list[tuple[tuple[str, float, int], list[Run]]]:
    """Runs that differ in their seed alone, together: ((label of the network, width, patches), runs).

    Runs of another length, learning rate or recipe are a cell of their own, whose key may be the same.
    """
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        found.setdefault(made(run), []).append(run)
    return [((variant.label, variant.width, patches), group) for (variant, patches, _), group in found.items()]


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        mean: over runs.
        std: standard deviation over runs (NaN for one run).
        low, high: an interval of 95 % from a bootstrap over runs and test patches.  From a single run it knows of patches
            alone, and nothing of what another seed would give.
        runs: how many there are.
        between_seeds: an interval of 95 % from the spread over runs alone: Student's of a mean, Welch's of a difference;
            NaN where a side has one run.
    """

    mean: float
    std: float
    low: float
    high: float
    runs: int
    between_seeds: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread over runs."""
        return self.std / self.runs**0.5


def accuracy(runs: Sequence[Run], stage: str = "fp32") -> Estimate:
    """Test accuracy (0 to 1) of runs that differ in their seed."""
    values = np.stack([run.correct(stage) for run in runs])
    return _estimate(values.mean(1), _bootstrap(values))


def advantage(runs: Sequence[Run], baseline: Sequence[Run], stage: str = "fp32") -> Estimate:
    """Accuracy of some runs minus that of a baseline on the same test patches.

    ``std`` is such that :attr:`Estimate.standard_error` is that of a difference of two independent means.
    """
    first, second = (np.stack([run.correct(stage) for run in side]) for side in (runs, baseline))
    _check_same_patches([*runs, *baseline])
    # The same patches are drawn for both sides, seeds on their own.
    difference = _bootstrap(first, draw=0) - _bootstrap(second, draw=1)
    variance = sum(side.mean(1).var(ddof=1) / len(side) if len(side) > 1 else np.nan for side in (first, second))
    count = len(first)
    seeds = welch(first.mean(1), second.mean(1))
    return Estimate(first.mean() - second.mean(), (variance * count) ** 0.5, *interval(difference), count, seeds)


def areas(runs: Sequence[Run], stage: str = "fp32") -> np.ndarray:
    """The area under the ROC curve of each run on the test patches, (runs,)."""
    return np.array([run.figures["accuracy"][stage]["auc"] for run in runs])


def int8_change(runs: Sequence[Run]) -> Estimate:
    """INT8 accuracy minus FP32 accuracy, paired over patches and runs."""
    difference = np.stack([run.correct("int8") - run.correct("fp32") for run in runs])
    return _estimate(difference.mean(1), _bootstrap(difference))


def welch(first: Sequence[float], second: Sequence[float] = (0.0, 0.0)) -> tuple[float, float]:
    """An interval of 95 % of the difference of two means, by Welch's test (Welch 1947); NaN where a side has one value.

    Args:
        first, second: a number a run.  Without ``second`` it is Student's interval of the mean of ``first``.
    """
    if min(len(first), len(second)) < 2:
        return float("nan"), float("nan")
    first, second = np.asarray(first, float), np.asarray(second, float)
    parts = [side.var(ddof=1) / len(side) for side in (first, second)]
    difference, variance = first.mean() - second.mean(), sum(parts)
    if not variance:
        return float(difference), float(difference)
    # Welch-Satterthwaite: the degrees of freedom of a sum of two variances.
    freedom = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (first, second)))
    reach = stdtrit(freedom, 0.975) * variance**0.5
    return float(difference - reach), float(difference + reach)


def _bootstrap(values: np.ndarray, *, draw: int = 0) -> np.ndarray:
    """Means of resampled runs and patches, (REPEATS,): values (runs, patches), both drawn with replacement."""
    return over_runs(resampled_means(values, patch_counts(values.shape[1])), draw=draw)


def _estimate(means: np.ndarray, samples: np.ndarray) -> Estimate:
    std = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return Estimate(float(means.mean()), std, *interval(samples), len(means), welch(means))


def _check_same_patches(runs: Sequence[Run]) -> None:
    labels = {tuple(run.figures["per_patch"]["label"]) for run in runs}
    if len(labels) > 1:
        raise ValueError("the runs were measured on different test patches, so they cannot be compared patch by patch")
