"""Tables of many runs, as rows for :func:`equilib.results.markdown_table`; the statistics are :mod:`equilib.study`'s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equilib.study import Estimate, Run, accuracy, advantage, areas, cells, int8_change, select, validation_loss, welch
from equilib.variant import Variant


def points(estimate: Estimate) -> str:
    """An accuracy as text in percentage points: mean ± standard deviation over runs."""
    spread = f" ± {100 * estimate.std:.1f}" if estimate.runs > 1 else ""
    return f"{100 * estimate.mean:.1f}{spread}"


def difference(estimate: Estimate) -> str:
    """A difference between networks as text in percentage points: mean (Welch's interval of 95 %; a bootstrap's).

    With one seed a side there is no interval: how much the seed changes is not known.
    """
    if not _seeds_known(estimate):
        return f"{100 * estimate.mean:+.1f} ({ONE_SEED})"
    ends = [f"{100 * end:+.1f}" for end in (*estimate.between_seeds, estimate.low, estimate.high)]
    return "{:+.1f} (Welch {} to {}; bootstrap {} to {})".format(100 * estimate.mean, *ends)


def _rounding(estimate: Estimate) -> str:
    """What INT8 changes, in percentage points: mean (interval of 95 %, over patches and runs)."""
    interval = f"{100 * estimate.low:+.2f} to {100 * estimate.high:+.2f}" if estimate.runs > 1 else ONE_SEED
    return f"{100 * estimate.mean:+.2f} ({interval})"


ONE_SEED = "one seed: no interval"


def _seeds_known(estimate: Estimate) -> bool:
    return not np.isnan(estimate.between_seeds[0])


def _interval(low: float, high: float, text: str) -> str:
    return ONE_SEED if np.isnan(low) else f"{low:{text}} to {high:{text}}"


def _recipe(group: Sequence[Run]) -> dict[str, str]:
    """What of their training may differ from that of another row of the same network and patches."""
    config = group[0].figures.get("config", {})
    return {name: f"{config.get(key, '')}" for name, key in (("epochs", "epochs"), ("learning rate", "learning_rate"))}


def accuracy_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each network and number of patches: Table 1 of the paper, on several seeds."""
    rows = []
    for (network, width, patches), group in cells(runs):
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
                **_recipe(group),
                "seeds": str(len(group)),
                "FP32 [%]": points(accuracy(group)),
                "INT8 [%]": points(accuracy(group, "int8")),
                "INT8 − FP32 [points]": _rounding(int8_change(group)),
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
                    "width": "" if runs[0].variant.growth else f"{width:g}",  # a DenseNet has no multiplier
                    "channels, multiples of": str(figures["config"]["network"].get("divisor", "")),
                    "trained on": f"{runs[0].label}, {most:,} patches",
                    "parameters": f"{figures['parameters']:,}",
                    "MACs [millions]": f"{figures['macs'] / 1e6:.0f}",
                    "seeds": str(len(runs)),
                    "FP32 [%]": points(accuracy(runs)),
                    "AUC": f"{areas(runs).mean():.3f}",
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
    for variant in dict.fromkeys(run.variant for run in runs):
        group = select(runs, variant=variant)
        change = int8_change(group)
        rows.append(
            {
                "network": f"{variant.label}, width {variant.width:g}",
                "runs": str(len(group)),
                "INT8 − FP32, all runs [points]": f"{100 * change.mean:+.2f}",
                "95 % interval": _interval(100 * change.low, 100 * change.high, "+.2f") if len(group) > 1 else ONE_SEED,
            }
        )
    return rows


# The stages of quantization, in the order in which a network takes them; the words are those of a row.
NAIVE = (("naive", "int8 naive, simulated"), ("equalized, absorbed", "int8 simulated"))
LADDER = (
    ("naive", "naive"),
    ("equalized", "+ equalization"),
    ("equalized, absorbed", "+ absorption"),
    ("bias corrected", "+ bias correction"),
    ("per channel", "per channel"),
)


# Kinds of networks where it counts what shares its filters and what does not.
ROUNDED = ("conventional", "equivariant", "band limit alone (C1)")
# Trainings of more steps have rows of their own: 6 epochs of 20,000 patches take 3,750, 24 take 15,000.
LONG = 10_000


def kind_of(run: Run) -> str:
    """One of :data:`ROUNDED`."""
    return ROUNDED[0] if run.variant.conventional else ROUNDED[1] if run.variant.symmetric else ROUNDED[2]


def steps_of(run: Run) -> int:
    """How many steps of the optimizer a training took; the oldest records have their epochs and batches alone."""
    config = run.figures["config"]
    return run.figures.get("steps") or config["epochs"] * (run.patches // config["batch_size"])


def naive_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What naive rounding to INT8 costs, and what is left of it after equalization and absorption, simulated.

    One row for each kind of network and learning rate, runs of all sizes and seeds together, but long trainings
    (:data:`LONG`) apart; the mean over runs, of two runs both values.  Steps are those of the whole training: the kept weights
    are of the epoch with the lowest validation loss.  Networks of C1 share nothing, so they are no equivariant ones: they have a row of their own.
    """
    return _change_rows(runs, NAIVE)


def ladder_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """INT8 minus FP32 at each rung of :func:`equilib.deploy.quantization_ladder`, in the rows of :func:`naive_rows`.

    Per channel is naive but for a scale for each output channel.  Older runs noted two of the rungs, the naive one and the
    absorbed one, under other names; a rung shows how many runs it is of where these are not all.
    """
    return _change_rows(runs, LADDER)


def _change_rows(runs: Sequence[Run], stages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    rows = []
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        key = (ROUNDED.index(kind_of(run)), -run.figures["config"]["learning_rate"], steps_of(run) > LONG)
        groups.setdefault(key, []).append(run)
    for (kind, rate, _), group in sorted(groups.items()):
        steps = sorted(map(steps_of, group))
        row = {"networks": ROUNDED[kind], "learning rate": f"{-rate:g}"}
        row["training steps"] = " to ".join(f"{one:,}" for one in dict.fromkeys((steps[0], steps[-1])))
        row["runs"] = str(len(group))
        for words, stage in stages:
            changes = [change for run in group if (change := rounding_change(run.figures, stage)) is not None]
            some = "" if len(changes) == len(group) else f" ({len(changes)} run{'s' * (len(changes) != 1)})"
            # Of two runs the mean may be like neither.
            shown = sorted(changes, reverse=True) if len(changes) <= 2 else [sum(changes) / len(changes)]
            told = " and ".join(f"{change:+.2f}" for change in shown)
            row[f"{words} − FP32 [points]"] = f"{told}{some}" if changes else "not measured"
            row[f"{words}, worst"] = f"{min(changes):+.2f}" if changes else ""
        rows.append(row)
    return rows


def ladder_by_run(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The rungs of :func:`ladder_rows` for each run that noted all of them, and the widest spread of ranges before them.

    The spread is the largest range of an output channel over the smallest, of the layer where it is largest.
    """
    rows = []
    for run in sorted(runs, key=lambda run: (ROUNDED.index(kind_of(run)), run.network, steps_of(run), run.seed)):
        changes = {words: rounding_change(run.figures, stage) for words, stage in LADDER}
        if None in changes.values() or "range_spread" not in run.figures:
            continue
        row = {"network": run.network, "learning rate": f"{run.figures['config']['learning_rate']:g}"}
        row |= {"epochs": str(run.figures["config"]["epochs"]), "seed": str(run.seed)}
        row |= {"spread of ranges": f"{max(run.figures['range_spread']['folded'].values()):,.0f}"}
        rows.append(row | {words: f"{change:+.2f}" for words, change in changes.items()})
    return rows


def rounding_change(figures: dict, stage: str) -> float | None:
    """Accuracy at a stage minus that of FP32, in points; None where the run did not note that stage."""
    accuracy = figures["accuracy"]
    noted = {"naive": "int8 naive, simulated", "+ absorption": "int8 simulated"}.get(stage, stage)
    metrics = figures.get("ladder", {}).get(stage) or accuracy.get(noted)
    return None if metrics is None else 100 * (metrics["accuracy"] - accuracy["fp32"]["accuracy"])


def advantage_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Each equivariant network minus each conventional one that it can be compared with, at each number of patches.

    Comparable are networks of the same channels (so of the same cost, unless depthwise layers are field-wise), and of the
    same parameters (to within 30 %).
    """
    rows = []
    for group, baseline in _comparable(runs):
        found = advantage(group, baseline)
        ours, theirs = areas(group), areas(baseline)
        known = _seeds_known(found)
        rows.append(
            _pair(group, baseline)
            | {
                "seeds": f"{len(group)} and {len(baseline)}",
                "equivariant − conventional [points]": f"{100 * found.mean:+.1f}",
                "standard error": f"{100 * found.standard_error:.1f}" if known else "unknown: one seed",
                "95 % interval, bootstrap": _interval(100 * found.low, 100 * found.high, "+.1f") if known else ONE_SEED,
                "95 % interval, Welch": _interval(*(100 * end for end in found.between_seeds), "+.1f"),
                "AUC, difference": f"{ours.mean() - theirs.mean():+.3f}",
                "AUC, 95 % interval, Welch": _interval(*welch(ours, theirs), "+.3f"),
            }
        )
    return rows


def _comparable(runs: Sequence[Run]) -> list[tuple[list[Run], list[Run]]]:
    pairs = []
    for (_, width, patches), group in cells(runs):
        if group[0].variant.conventional:
            continue
        others = [
            run
            for run in select(runs, patches=patches)
            if run.variant.conventional and _recipe([run])["epochs"] == _recipe(group)["epochs"]
        ]
        for (_, other_width, _), baseline in cells(others):
            ratio = baseline[0].figures["parameters"] / group[0].figures["parameters"]
            if other_width == width or 1 / 1.3 < ratio < 1.3:
                pairs.append((group, baseline))
    return pairs


def _pair(group: list[Run], baseline: list[Run]) -> dict[str, str]:
    first, second = group[0], baseline[0]
    same = "channels" if second.width == first.width else "parameters"
    return {
        "patches": f"{first.patches:,}",
        "equivariant": f"{first.network}, width {first.width:g}",
        "conventional": ", ".join([*second.variant.details, f"width {second.width:g}: same {same}"]),
    }


def ablation_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Networks of the same channels beside the conventional one among them: which part of the design does what.

    Where a conventional network trained as the others are is among them, they are compared with that one, too.

    Raises:
        ValueError: the runs differ in width or number of patches, or no conventional network is among them.
    """
    if len({(run.width, run.patches) for run in runs}) != 1:
        raise ValueError("an ablation compares runs of one width and one number of patches")
    baselines = {run.variant: select(runs, variant=run.variant) for run in runs if _baseline(run.variant)}
    if not any(not variant.recipe for variant in baselines):
        raise ValueError("an ablation needs a conventional network to compare with")
    rows = []
    for (network, _, _), group in cells(runs):
        figures, variant = group[0].figures, group[0].variant
        loss = np.mean([validation_loss(run) for run in group])
        differences = {}
        for other, baseline in sorted(baselines.items()):
            gain = "" if other == variant else difference(advantage(group, baseline))
            differences[f"minus {other.label} [points]"] = gain
        rows.append(
            {
                "network": network,
                "parameters": f"{figures['parameters']:,}",
                "MACs [millions]": f"{figures['macs'] / 1e6:.0f}",
                "seeds": str(len(group)),
                "validation loss": f"{loss:.3f}",
                "FP32 [%]": points(accuracy(group)),
                "AUC": f"{areas(group).mean():.3f}",
                "INT8 [%]": points(accuracy(group, "int8")),
                **differences,
                "four rotations [%]": points(accuracy(group, "fp32, mean of four rotations")),
            }
        )
    return rows


def _baseline(variant: Variant) -> bool:
    """Whether it is MobileNetV2 itself, by whatever recipe."""
    return variant.conventional and variant.depthwise == "strict"


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
            | _recipe(group)
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
