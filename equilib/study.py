"""Many trainings of the same kind: mean and spread over seeds, paired differences, and how much of them is chance.

:mod:`equilib.experiment` measures one trained network and writes one JSON; this module reads a folder of them, as
``experiments/grid.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equilib.results import read_results, shipped_folder


@dataclass(frozen=True)
class Run:
    """One trained network and its figures.

    Attributes:
        network: ``"conventional"``, or the group of the equivariant one (``"C4, field-wise"`` with that depthwise layer);
            ``"conventional, grouped"`` where its depthwise layers mix as many channels as field-wise ones do;
            ``"conventional, any angle"`` where it was trained, as the equivariant ones are, on patches turned by any angle.
        width: multiplier of its channels.
        patches: of the training split that it saw.
        seed: of its training.
        label: what the data was.
        command: how it was made.
        figures: see :func:`equilib.experiment.measure`.
    """

    network: str
    width: float
    patches: int
    seed: int
    label: str
    command: str
    figures: dict

    def correct(self, stage: str = "fp32") -> np.ndarray:
        """Whether each test patch is classified correctly, (N,) of 0 and 1."""
        patches = self.figures["per_patch"]
        return ((np.asarray(patches[stage]) > 0) == (np.asarray(patches["label"]) == 1)).astype(float)


def read_run(path: str | Path) -> Run:
    """The run in one JSON file; raises ValueError where the file is of another kind."""
    contents = read_results(path)
    try:
        figures, config = contents["model"], contents["model"]["config"]
        network = config["kind"] if config["kind"] == "conventional" else config["network"]["group"]
        if config["network"]["depthwise"] == "grouped":
            network += ", grouped"
        if config["network"]["depthwise"] == "fieldwise" and network != "conventional":
            network += ", field-wise"
        if config["kind"] == "conventional" and config.get("any_angle"):
            network += ", any angle"
        data = contents["data"]
        return Run(
            network,
            config["network"]["width"],
            data["train"],
            contents["seed"],
            data["label"],
            contents["command"],
            figures,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no run of experiments/grid.py: {error} is missing") from error


def read_runs(folder: str | Path) -> list[Run]:
    """All runs in a folder, by network, width, number of patches and seed."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no results; experiments/grid.py makes them")
    return sorted(
        map(read_run, paths),
        key=lambda run: (not run.network.startswith("conventional"), run.network, run.width, run.patches, run.seed),
    )


def shipped_runs(name: str = "grid") -> list[Run]:
    """The runs that come with the project."""
    return read_runs(shipped_folder(name))


def select(runs: Sequence[Run], **values) -> list[Run]:
    """The runs whose attributes have these values, such as ``network="C4", patches=1000``."""
    return [run for run in runs if all(getattr(run, name) == value for name, value in values.items())]


def cells(runs: Sequence[Run]) -> list[tuple[tuple[str, float, int], list[Run]]]:
    """Runs that differ in their seed alone, together: ((network, width, patches), runs)."""
    found: dict[tuple[str, float, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run.network, run.width, run.patches), []).append(run)
    return list(found.items())


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        mean: over runs.
        std: standard deviation over runs (NaN for one run).
        low, high: an interval of 95 % from a bootstrap over runs and test patches.
        runs: how many there are.
    """

    mean: float
    std: float
    low: float
    high: float
    runs: int

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
    return Estimate(first.mean() - second.mean(), (variance * count) ** 0.5, *_interval(difference), count)


def int8_change(runs: Sequence[Run]) -> Estimate:
    """INT8 accuracy minus FP32 accuracy, paired over patches and runs."""
    difference = np.stack([run.correct("int8") - run.correct("fp32") for run in runs])
    return _estimate(difference.mean(1), _bootstrap(difference))


REPEATS = 4000


def _bootstrap(values: np.ndarray, *, draw: int = 0) -> np.ndarray:
    """Means of resampled runs and patches, (REPEATS,): values (runs, patches), both drawn with replacement."""
    runs, patches = values.shape
    # Patches come first from a generator of their own: two tables of the same patches then see the same resamples.
    patch_counts = np.random.default_rng(0).multinomial(patches, np.full(patches, 1 / patches), REPEATS)
    run_counts = np.random.default_rng((1, draw)).multinomial(runs, np.full(runs, 1 / runs), REPEATS)
    return np.einsum("bs,sn,bn->b", run_counts, values, patch_counts, optimize=True) / (runs * patches)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(low), float(high)


def _estimate(means: np.ndarray, samples: np.ndarray) -> Estimate:
    std = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return Estimate(float(means.mean()), std, *_interval(samples), len(means))


def _check_same_patches(runs: Sequence[Run]) -> None:
    labels = {tuple(run.figures["per_patch"]["label"]) for run in runs}
    if len(labels) > 1:
        raise ValueError("the runs were measured on different test patches, so they cannot be compared patch by patch")


# --- tables ---


def points(estimate: Estimate) -> str:
    """An accuracy as text in percentage points: mean ± standard deviation over runs."""
    spread = f" ± {100 * estimate.std:.1f}" if estimate.runs > 1 else ""
    return f"{100 * estimate.mean:.1f}{spread}"


def difference(estimate: Estimate) -> str:
    """A difference of accuracies as text in percentage points: mean (interval of 95 %)."""
    return f"{100 * estimate.mean:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def accuracy_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each network and number of patches: Table 1 of the paper, on several seeds."""
    rows = []
    for (network, width, patches), group in cells(runs):
        change = int8_change(group)
        figures = [run.figures for run in group]

        def mean(metric, figures=figures):
            return np.mean([entry["accuracy"]["fp32"][metric] for entry in figures])

        rows.append(
            {
                "network": network,
                "width": f"{width:g}",
                "parameters": f"{figures[0]['parameters']:,}",
                "MACs [millions]": f"{figures[0]['macs'] / 1e6:.0f}",
                "patches": f"{patches:,}",
                "seeds": str(len(group)),
                "FP32 [%]": points(accuracy(group)),
                "INT8 [%]": points(accuracy(group, "int8")),
                "INT8 − FP32 [points]": f"{100 * change.mean:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})",
                "four rotations [%]": points(accuracy(group, "fp32, mean of four rotations")),
                "AUC": f"{mean('auc'):.3f}",
                "cross-entropy": f"{mean('cross_entropy'):.3f}",
                "calibration error": f"{mean('calibration_error'):.3f}",
            }
        )
    return rows


# Accuracies on all of PCam, 262,144 training patches.  The first two: the paper, Table 1.
PUBLISHED = (
    {
        "network": "the paper: conventional",
        "width": "1",
        "FP32 [%]": "84.67 ± 1.91",
        "INT8 [%]": "84.32 ± 1.76",
        "INT8 − FP32 [points]": "-0.4",
    },
    {
        "network": "the paper: C12",
        "width": "1",
        "FP32 [%]": "89.19 ± 0.79",
        "INT8 [%]": "88.94 ± 0.66",
        "INT8 − FP32 [points]": "-0.3",
    },
    {"network": "equivariant DenseNet (Veeling et al. 2018)", "FP32 [%]": "89.8"},
)


def table_1(*groups: Sequence[Run]) -> list[dict[str, str]]:
    """The paper's Table 1 from our runs with the most training patches, and the published accuracies below them.

    Args:
        groups: runs that differ in more than network, width, patches and seed (as the grid and the ablation do, in the
            rounding of channels) go in groups of their own.
    """
    rows = []
    for group in groups:
        most = max(run.patches for run in group)
        for (network, width, _), runs in cells(select(group, patches=most)):
            figures = runs[0].figures
            change = int8_change(runs)
            rows.append(
                {
                    "network": network,
                    "width": f"{width:g}",
                    "channels, multiples of": str(figures["config"]["network"]["divisor"]),
                    "trained on": f"{runs[0].label}, {most:,} patches",
                    "parameters": f"{figures['parameters']:,}",
                    "MACs [millions]": f"{figures['macs'] / 1e6:.0f}",
                    "seeds": str(len(runs)),
                    "FP32 [%]": points(accuracy(runs)),
                    "INT8 [%]": points(accuracy(runs, "int8")),
                    "INT8 − FP32 [points]": f"{100 * change.mean:+.1f}",
                    "classes that flip at quarter turns, INT8": _flips(runs, "int8", quarter=True),
                }
            )
    unknown = dict.fromkeys(rows[0], "") | {"trained on": "PCam, 262,144 patches"}
    return rows + [unknown | published for published in PUBLISHED]


def int8_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What rounding to INT8 changes, for each network: paired over patches, the runs of all sizes and seeds pooled."""
    rows = []
    for network, width in dict.fromkeys((run.network, run.width) for run in runs):
        group = select(runs, network=network, width=width)
        change = int8_change(group)
        rows.append(
            {
                "network": f"{network}, width {width:g}",
                "runs": str(len(group)),
                "INT8 − FP32, all runs [points]": f"{100 * change.mean:+.2f}",
                "95 % interval": f"{100 * change.low:+.2f} to {100 * change.high:+.2f}",
            }
        )
    return rows


def advantage_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Each equivariant network minus each conventional one that it can be compared with, at each number of patches.

    Comparable are networks of the same channels (so of the same cost, unless depthwise layers are field-wise), and of the
    same parameters (to within 30 %).
    """
    rows = []
    for group, baseline in _comparable(runs):
        found = advantage(group, baseline)
        error = f"{100 * found.standard_error:.1f}" if found.std == found.std else "unknown: one seed"
        rows.append(
            _pair(group, baseline)
            | {
                "seeds": f"{len(group)} and {len(baseline)}",
                "equivariant − conventional [points]": f"{100 * found.mean:+.1f}",
                "standard error": error,
                "95 % interval": f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
            }
        )
    return rows


def _comparable(runs: Sequence[Run]) -> list[tuple[list[Run], list[Run]]]:
    pairs = []
    for (network, width, patches), group in cells(runs):
        if network.startswith("conventional"):
            continue
        others = [run for run in select(runs, patches=patches) if run.network.startswith("conventional")]
        for (_, other_width, _), baseline in cells(others):
            ratio = baseline[0].figures["parameters"] / group[0].figures["parameters"]
            if other_width == width or 1 / 1.3 < ratio < 1.3:
                pairs.append((group, baseline))
    return pairs


def _pair(group: list[Run], baseline: list[Run]) -> dict[str, str]:
    first, second = group[0], baseline[0]
    variant = second.network.removeprefix("conventional").removeprefix(", ")
    return {
        "patches": f"{first.patches:,}",
        "equivariant": f"{first.network}, width {first.width:g}",
        "conventional": f"{variant + ', ' if variant else ''}width {second.width:g}: "
        f"same {'channels' if second.width == first.width else 'parameters'}",
    }


def ablation_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Networks of the same channels beside the conventional one among them: which part of the design does what.

    Where a conventional network trained as the others are is among them, they are compared with that one, too.

    Raises:
        ValueError: the runs differ in width or number of patches, or no conventional network is among them.
    """
    if len({(run.width, run.patches) for run in runs}) != 1:
        raise ValueError("an ablation compares runs of one width and one number of patches")
    if not select(runs, network="conventional"):
        raise ValueError("an ablation needs a conventional network to compare with")
    baselines = {name: select(runs, network=name) for name in ("conventional", "conventional, any angle")}
    rows = []
    for (network, _, _), group in cells(runs):
        figures = group[0].figures
        loss = np.mean([min(epoch["valid_loss"] for epoch in run.figures["history"]) for run in group])
        differences = {}
        for name, baseline in baselines.items():
            if baseline:
                gain = difference(advantage(group, baseline))
                differences[f"minus {name} [points]"] = "" if name == network else gain
        rows.append(
            {
                "network": network,
                "parameters": f"{figures['parameters']:,}",
                "MACs [millions]": f"{figures['macs'] / 1e6:.0f}",
                "seeds": str(len(group)),
                "validation loss": f"{loss:.3f}",
                "FP32 [%]": points(accuracy(group)),
                "AUC": f"{np.mean([run.figures['accuracy']['fp32']['auc'] for run in group]):.3f}",
                "INT8 [%]": points(accuracy(group, "int8")),
                **differences,
                "four rotations [%]": points(accuracy(group, "fp32, mean of four rotations")),
            }
        )
    return rows


def _flips(runs: Sequence[Run], stage: str, *, quarter: bool) -> str:
    """Share of patches whose class changes at quarter turns, or at the other multiples of 30 degrees; mean over runs."""
    shares = [
        share
        for spread in (run.figures["rotation_spread"][stage] for run in runs)
        for angle, share in zip(spread["angles"], spread["flips_by_angle"], strict=True)
        if (angle % 90 == 0) == quarter
    ]
    return f"{100 * np.mean(shares):.1f} %"


def rotation_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """How much the answer depends on how a patch lies: at quarter turns and at the other multiples of 30 degrees.

    Means over runs.  «control» rotates there and back again, which interpolates twice and turns nothing.
    """
    stages = {"FP32": "fp32", "INT8": "int8", "control": "fp32, there and back"}
    rows = []
    for (network, width, patches), group in cells(runs):
        spreads = [run.figures["rotation_spread"] for run in group]
        identical = float(np.mean([run.figures["int8_identical_under_quarter_turns"] for run in group]))
        rows.append(
            {"network": f"{network}, width {width:g}", "patches": f"{patches:,}"}
            | {
                f"flips at quarter turns, {name}": _flips(group, stage, quarter=True)
                for name, stage in stages.items()
                if name != "control"
            }
            | {f"flips between, {name}": _flips(group, stage, quarter=False) for name, stage in stages.items()}
            | {
                f"logit moves, {name}": f"{np.mean([entry[stage]['std'] for entry in spreads]):.2f}"
                for name, stage in stages.items()
            }
            | {"INT8 identical at quarter turns": f"{100 * identical:.1f} %"}
        )
    return rows


def steadiness_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """How much an equivariant network's answers move when a patch turns, as a share of how much the conventional one's do.

    Over all multiples of 30 degrees, quarter turns among them; pairs as in :func:`advantage_rows`.  Below 1 the
    equivariant network is the steadier one.  «control» as in :func:`rotation_rows`.
    """
    stages = {"FP32": "fp32", "INT8": "int8", "control": "fp32, there and back"}
    rows = []
    for group, baseline in _comparable(runs):
        row = _pair(group, baseline)
        for key, name in (("flips", "flips"), ("std", "logit moves")):
            for label, stage in stages.items():
                ours, theirs = (
                    np.mean([run.figures["rotation_spread"][stage][key] for run in side]) for side in (group, baseline)
                )
                row[f"{name}, {label}"] = f"×{ours / theirs:.2f}" if theirs else "none to compare with"
        rows.append(row)
    return rows
