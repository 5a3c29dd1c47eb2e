"""Figures of many runs: accuracy against patches, parameters and angles, and the scatter over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from equilib.figures.style import GREY, STYLES, Figure, styles_by_kind

CONVENTIONAL = ("conventional",)


def learning_curve(
    accuracies: Mapping[str, Mapping[int, Sequence[float]]], conventional: Collection[str] = CONVENTIONAL
) -> Figure:
    """Test accuracy against the number of training patches: every run a dot, mean and standard deviation a bar.

    Args:
        accuracies: for each network, for each number of patches, the accuracy (0 to 1) of each run.
        conventional: which of them are conventional networks; these are drawn in orange and yellow.
    """
    figure, ax = _runs_with_bars(
        accuracies, conventional, apart=1.04
    )  # so that bars at the same size stand side by side
    ax.set(
        title="Accuracy on test patches (bars: one standard deviation over seeds; dots: the runs)",
        xlabel="training patches",
    )
    sizes = sorted({size for row in accuracies.values() for size in row})
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    return figure


def accuracy_by_parameters(
    accuracies: Mapping[str, Mapping[int, Sequence[float]]], conventional: Collection[str] = CONVENTIONAL
) -> Figure:
    """Test accuracy against the number of trainable parameters, each network at several widths.

    Args:
        accuracies: for each network, for each number of parameters, the accuracy (0 to 1) of each run.
        conventional: as for :func:`learning_curve`.
    """
    figure, ax = _runs_with_bars(accuracies, conventional)
    ax.set(
        title="Accuracy on test patches, each network at several widths (bars and dots as above)",
        xlabel="trainable parameters",
    )
    return figure


def _runs_with_bars(
    accuracies: Mapping[str, Mapping[int, Sequence[float]]], conventional: Collection[str], apart: float = 1.0
) -> tuple[Figure, Axes]:
    """Accuracy of runs on a logarithmic axis; each network's points stand a factor `apart` to the right of the one's before."""
    styles = styles_by_kind(accuracies, conventional)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    ax = figure.subplots()
    for index, (name, row) in enumerate(accuracies.items()):
        style = styles[name]
        values = [100 * np.asarray(row[size]) for size in sorted(row)]
        spread = [value.std(ddof=1) if len(value) > 1 else 0.0 for value in values]
        x = np.array(sorted(row)) * apart ** (index - (len(accuracies) - 1) / 2)
        ax.errorbar(x, [value.mean() for value in values], spread, label=name, capsize=4, markersize=7, **style)
        for position, value in zip(x, values):
            ax.plot(
                np.full(len(value), position * 1.012),
                value,
                linestyle="none",
                marker=".",
                color=style["color"],
                alpha=0.6,
            )
    ax.set(ylabel="accuracy [%]", xscale="log")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure, ax


def accuracy_by_angle(
    degrees: Sequence[float],
    turned: Mapping[str, Sequence[float]],
    control: Mapping[str, Sequence[float]],
    *,
    title: str,
    conventional: Collection[str] = CONVENTIONAL,
) -> Figure:
    """Accuracy against the rotation of the test patches, and beside it that of patches turned there and back again.

    Args:
        degrees: of the rotations, from 0 to less than 360; the value at 360 is that at 0.
        turned: for each network, the accuracy (0 to 1) at each angle.
        control: the same, of patches that were rotated and rotated back, so interpolated twice and not turned.
        title: says of how many patches.
        conventional: as for :func:`learning_curve`.
    """
    styles = styles_by_kind(turned, conventional)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, curves, name in zip(panels, (turned, control), ("turned", "control: turned there and back")):
        for angle in range(0, 361, 90):
            ax.axvline(angle, color="0.85", linewidth=1, zorder=0)
        for network, values in curves.items():
            style = styles[network] | {"marker": ""}
            ax.plot(
                [*degrees, 360], [100 * share for share in (*values, values[0])], label=network, linewidth=1.5, **style
            )
        ax.set(title=name, xlabel="rotation of the test patches [degrees]", xticks=range(0, 361, 90))
    panels[0].set_ylabel("accuracy [%]")
    panels[1].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def steps_between(chains: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, label: str) -> Figure:
    """From one network to another one step at a time: every run a dot, the mean a bar, the step written between them.

    Args:
        chains: a panel each; for each network, in order, a number each run.  An empty sequence is drawn as «not run», and
            the two steps beside it are written as one.
        title, label: of the figure and of the numbers.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, len(chains), sharey=True, squeeze=False)[0]
    for ax, (name, chain) in zip(panels, chains.items()):
        means = [np.mean(numbers) if len(numbers) else None for numbers in chain.values()]
        for position, (numbers, mean) in enumerate(zip(chain.values(), means)):
            if mean is None:
                ax.axvspan(position - 0.3, position + 0.3, facecolor="0.93", edgecolor=GREY, linestyle="--")
                ax.text(
                    position, 0.5, "not run", transform=ax.get_xaxis_transform(), rotation=90, ha="center", va="center"
                )
                continue
            ax.hlines(mean, position - 0.3, position + 0.3, color=GREY, linewidth=3)
            ax.plot([position] * len(numbers), numbers, linestyle="none", marker="o", color="black", markersize=4)
            known = [place for place in range(position) if means[place] is not None]
            if known:
                before, middle = means[known[-1]], (known[-1] + position) / 2
                joined = position - known[-1]
                both = {1: "", 2: "\nboth steps"}.get(joined, f"\n{joined} steps")
                ax.annotate(
                    f"{mean - before:+.3f}{both}", (middle, max(mean, before)), (0, 8), textcoords="offset points",
                    ha="center", fontsize=9,
                )  # fmt: skip
        ax.set(title=name, xlim=(-0.5, len(chain) - 0.5))
        ax.set_xticks(range(len(chain)), chain, rotation=20, ha="right", fontsize=8)
        ax.margins(y=0.25)
    panels[0].set_ylabel(label)
    figure.suptitle(title)
    return figure


def rounding_losses(changes: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> Figure:
    """What rounding to INT8 changes in each run, before and after a repair.

    Args:
        changes: for each stage, for each kind of network (``"conventional"``, ``"equivariant"``), INT8 − FP32 of each run
            in points.
        title: of the figure.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0, color=GREY, linewidth=1)
    rows = [(stage, kind) for stage in changes for kind in changes[stage]]
    for height, (stage, kind) in enumerate(rows):
        values = np.asarray(changes[stage][kind])
        ax.plot(values, np.full(len(values), height), linestyle="none", alpha=0.6, markersize=7,
                marker=STYLES[kind]["marker"], color=STYLES[kind]["color"])  # fmt: skip
    ax.set_yticks(range(len(rows)), [f"{stage}: {kind}, {len(changes[stage][kind])} runs" for stage, kind in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set(title=title, xlabel="INT8 − FP32 [points]")
    return figure


def against_cost(
    costs: Mapping[str, Mapping[str, float]],
    values: Mapping[str, Sequence[float]],
    conventional: Collection[str],
    label: str,
    note: str = "",
) -> Figure:
    """A measure against each cost of a network, a panel a cost.

    Args:
        costs: for each cost (with its unit), for each network, a number; a network without one has no mark in that panel.
        values: for each network, the measure of each run.
        conventional: which of them are conventional networks.
        label: of the measure.
        note: stands below the title: which networks are missing, and why.
    """
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    marks = dict(zip(values, itertools.cycle("osD^vPX*<>")))  # names beside the dots would lie on each other
    for ax, (cost, row) in zip(panels, costs.items()):
        for name, numbers in values.items():
            if name in row:
                color = STYLES["conventional" if name in conventional else "equivariant"]["color"]
                ax.plot([row[name]] * len(numbers), numbers, ls="none", marker=marks[name], color=color, label=name)
        ax.set_xlabel(cost)
        if len(row) > 0 and max(row.values()) > 10 * min(row.values()):
            ax.set_xscale("log")  # within a decade a logarithmic axis has no ticks to read
            ax.margins(x=0.3, y=0.1)
        else:
            ax.margins(x=0.1, y=0.1)
            ax.set_xlim(left=0)
    handles = {handle.get_label(): handle for ax in panels for handle in ax.lines}
    figure.legend(handles=[handles[name] for name in values if name in handles], loc="outside right center")
    panels[0].set_ylabel(label)
    figure.suptitle("\n".join(filter(None, ("Every mark a run; orange: conventional networks", note))))
    return figure
