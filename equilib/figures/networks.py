"""Figures of notebooks 04 to 06: networks, trainings, quantization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from equilib.figures.style import BLUE, GREY, ORANGE, SERIES, STYLES, YELLOW, Figure


def patch_gallery(images: np.ndarray, labels: np.ndarray, *, columns: int = 8) -> Figure:
    """Two rows of patches: without and with tumour, the label's window outlined.

    Args:
        images: (N, 96, 96, 3) uint8.
        labels: (N,), 0 or 1.
        columns: patches a row; each label needs as many.
    """
    figure = Figure(figsize=(1.15 * columns, 2.9), layout="constrained")
    axes = figure.subplots(2, columns)
    for row, (label, words) in enumerate(((0, "no tumour"), (1, "tumour"))):
        chosen = np.flatnonzero(np.asarray(labels) == label)[:columns]
        for column, ax in enumerate(axes[row]):
            ax.set_xticks([]), ax.set_yticks([])
            if column < len(chosen):
                ax.imshow(images[chosen[column]])
                ax.add_patch(_window())
        axes[row, 0].set_ylabel(words)
    figure.suptitle("Patches of 96 × 96 pixels; the label says whether the square holds tumour", fontsize=10)
    return figure


def _window():
    from matplotlib.patches import Rectangle

    return Rectangle((31.5, 31.5), 32, 32, fill=False, edgecolor="white", linewidth=1.2)


def filter_bank(filters: np.ndarray, step: float) -> Figure:
    """The |G| depthwise filters of one field, side by side.

    Args:
        filters: (|G|, k, k).
        step: degrees between neighbours.
    """
    count = len(filters)
    figure = Figure(figsize=(max(1.35 * count, 5), 2.0), layout="constrained")
    limit = np.abs(filters).max()
    for r, (ax, values) in enumerate(zip(np.atleast_1d(figure.subplots(1, count)), filters)):
        picture = ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit)
        ax.set_xticks([]), ax.set_yticks([])
        ax.set_title(f"channel {r}: {r * step:g}°", fontsize=9)
    figure.colorbar(picture, ax=figure.axes, label="weight", shrink=0.9)
    figure.suptitle("One filter and its rotated copies", fontsize=10)
    return figure


def layer_costs(names: Sequence[str], macs: Sequence[float], parameters: Mapping[str, Sequence[float]]) -> Figure:
    """Multiply-accumulates (the same for both networks) and trainable parameters (not the same), block by block.

    Args:
        names: of the blocks.
        macs: of each, for one image.
        parameters: for each network, of each block.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    positions = np.arange(len(names))
    left.bar(positions, np.asarray(macs) / 1e6, color=GREY)
    left.set(title="Cost: the same for both networks", ylabel="multiply-accumulates [millions]")
    width = 0.4
    for shift, (kind, values) in zip((-width / 2, width / 2), parameters.items()):
        hatch = "//" if kind == "conventional" else None
        right.bar(positions + shift, values, width, label=kind, color=STYLES[kind]["color"], hatch=hatch, edgecolor="white")
    right.set(title="Trainable parameters", ylabel="parameters", yscale="log")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.set_xticks(positions, names, rotation=90, fontsize=7)
        ax.set_xlabel("block")
    return figure


def training_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss and validation accuracy against the epoch, for each network.

    Args:
        histories: for each network, rows with epoch, train_loss, valid_loss and valid_accuracy (0 to 1).
    """
    styles = _styles_by_kind(histories)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, rows in histories.items():
        epochs, style = [row["epoch"] for row in rows], styles[kind]
        left.plot(epochs, [row["valid_loss"] for row in rows], label=f"{kind}, validation", **style)
        left.plot(epochs, [row["train_loss"] for row in rows], label=f"{kind}, training", **style | {"marker": ""}, alpha=0.5)
        right.plot(epochs, [100 * row["valid_accuracy"] for row in rows], label=kind, **style)
    left.set(title="Loss", xlabel="epoch", ylabel="cross-entropy [nats]")
    right.set(title="Accuracy on validation patches", xlabel="epoch", ylabel="accuracy [%]")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=8)
    return figure


def stage_errors(errors: Mapping[str, Mapping[str, float]], *, tolerance: float | None = None) -> Figure:
    """Equivariance errors by stage of the pipeline, on a logarithmic scale.

    Args:
        errors: for each network, for each stage, the relative error under 90-degree rotations.
        tolerance: draw a line here.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax = figure.subplots()
    for kind, stages in errors.items():
        # Zero has no logarithm: such a point sits on the axis, and says so.
        values = [max(value, 1e-9) for value in stages.values()]
        ax.plot(list(stages), values, label=kind, **STYLES[kind])
        for x, (value, shown) in enumerate(zip(stages.values(), values)):
            ax.annotate(f"{value:.1e}" if value else "0 (exactly)", (x, shown), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    if tolerance:
        ax.axhline(tolerance, color=GREY, linewidth=1, linestyle=":")
        label = f"tolerance {tolerance:g}"
        ax.annotate(label, (0.99, tolerance), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", ha="right")
    ax.set(
        title="Equivariance error under 90° rotations, from training to INT8",
        xlabel="stage",
        ylabel="rms error / std of logits",
        yscale="log",
        ylim=(1e-9, 30),
    )
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.75), ncols=2)
    return figure


def probability_against_angle(
    image: np.ndarray,
    angles: Sequence[float],
    probabilities: Mapping[str, Sequence[float]],
    degrees: float,
    label: int,
) -> Figure:
    """A rotated patch, and each network's probability of tumour against the angle, the current angle marked.

    Args:
        image: (n, n, 3), values in 0…1, already rotated and masked by the disc.
        angles: in degrees, where the networks were run.
        probabilities: for each network, at each angle.
        degrees: the current angle.
        label: the true class.
    """
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.imshow(image)
    left.set_xticks([]), left.set_yticks([])
    left.set_title(f"input rotated by {degrees:g}°\ntruth: {'tumour' if label else 'no tumour'}", fontsize=10)
    for kind, values in probabilities.items():
        right.plot(angles, values, label=kind, **STYLES[kind], markersize=4)
        spread = 100 * (max(values) - min(values))
        right.plot([], [], " ", label=f"   moves by {spread:.1f} points")
    right.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    right.axvline(degrees, color=GREY, linewidth=1.5, label="the picture at the left")
    right.set(
        title="Probability of tumour against the input's rotation",
        xlabel="rotation [degrees, counter-clockwise]",
        ylabel="probability of tumour",
        xlim=(min(angles), max(angles)),
        ylim=(-0.02, 1.02),
    )
    right.set_xticks(np.arange(0, max(angles) + 1, 45))
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def channel_ranges(
    names: Sequence[str], before: Sequence[np.ndarray], after: Sequence[np.ndarray], field_size: int | None = None
) -> Figure:
    """The largest absolute weight of every channel of some layers, before and after equalization.

    Args:
        names: of the layers.
        before, after: for each layer, (channels,).
        field_size: draw a line between the fields of so many channels.
    """
    figure = Figure(figsize=(9, 1.4 + 1.5 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for ax, name, old, new in zip(axes, names, before, after):
        channels = np.arange(len(old))
        ax.plot(channels, old, label="before", color="#D55E00", marker="s", linestyle="none", markersize=4)
        ax.plot(channels, new, label="after", color="#0072B2", marker="o", linestyle="none", markersize=4)
        ax.axhline(old.max(), color="#D55E00", linewidth=1, linestyle="--")
        ax.axhline(new.max(), color="#0072B2", linewidth=1)
        if field_size:
            for edge in np.arange(field_size, len(old), field_size):
                ax.axvline(edge - 0.5, color="#cccccc", linewidth=0.6)
        ratios = [values.max() / max(values[values > 0].min(), 1e-12) for values in (old, new)]
        ax.set_title(f"{name}: largest over smallest range {ratios[0]:.0f} before, {ratios[1]:.0f} after", fontsize=10)
        ax.set(ylabel="range of weights", yscale="log", xlabel="output channel")
    axes[0].legend(fontsize=8, loc="upper right", ncols=2)
    return figure


def convergence(errors: Sequence[float]) -> Figure:
    """How far the ranges of a chain are from the closed form, sweep by sweep."""
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    ax = figure.subplots()
    ax.plot(np.arange(1, len(errors) + 1), errors, color="#0072B2", marker="o")
    ax.set(
        title="Equalization of a chain: iteration against the closed form",
        xlabel="sweeps over the two pairs",
        ylabel="largest relative error of a range",
        yscale="log",
    )
    return figure


def weights_on_grid(weights: np.ndarray, step: float, channel: np.ndarray, *, title: str, note: str) -> Figure:
    """A histogram of a layer's weights with the quantization grid, and one channel of it on that grid.

    Args:
        weights: all weights of the layer.
        step: between two levels.
        channel: the weights of the channel with the smallest range.
        title, note: in words.
    """
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(weights.ravel(), bins=80, color="#0072B2")
    left.set(title="All weights of the layer", xlabel="weight", ylabel="how many", yscale="log")
    span = max(np.abs(channel).max() * 1.3, 2 * step)
    levels = step * np.arange(-np.floor(span / step), np.floor(span / step) + 1)
    if len(levels) <= 120:
        right.vlines(levels, 0, 1, color="#cccccc", linewidth=0.8)
    right.plot(channel, np.full(channel.size, 0.66), linestyle="none", marker="o", color="#0072B2", label="weights")
    right.plot(
        np.round(channel / step) * step, np.full(channel.size, 0.33), linestyle="none", marker="s", color="#D55E00",
        label="rounded",
    )
    distinct = len(np.unique(np.round(channel / step)))
    right.set(
        title=f"Smallest channel: {channel.size} weights, {distinct} level(s)",
        xlabel="weight",
        xlim=(-span, span),
        ylim=(0, 1.15),
    )
    right.set_yticks([])
    right.legend(fontsize=8, ncols=2, loc="upper right")
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    return figure


def bars(values: Mapping[str, Mapping[str, float]], *, title: str, label: str, floor: float | None = None) -> Figure:
    """Grouped bars, one group a step and one bar a network, each with its number.

    Args:
        values: for each network, for each step, a number.
        title, label: of the figure and of the values, with their unit.
        floor: where the axis begins.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    steps = list(next(iter(values.values())))
    width = 0.8 / len(values)
    for index, (kind, row) in enumerate(values.items()):
        positions = np.arange(len(steps)) + (index - (len(values) - 1) / 2) * width
        drawn = ax.bar(
            positions, [row[step] for step in steps], width, label=kind, color=STYLES[kind]["color"],
            hatch="//" if kind == "conventional" else None, edgecolor="white",
        )
        ax.bar_label(drawn, fmt="%.1f", fontsize=8)
    ax.set_xticks(np.arange(len(steps)), steps)
    ax.set(title=title, ylabel=label)
    if floor is not None:
        ax.set_ylim(bottom=floor)
    ax.margins(y=0.15)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def curves(
    x: Sequence[float],
    values: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marked: float | None = None,
    log: bool = False,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Lines that differ in colour, marker and dash; an x may be marked, and horizontal references drawn."""
    if max(len(values), len(references or {})) > len(SERIES):
        raise ValueError(f"at most {len(SERIES)} curves can be told apart, got {len(values)}")
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    ax = figure.subplots()
    for style, (name, row) in zip(SERIES, values.items()):
        ax.plot(x, row, label=name, **(STYLES.get(name, style)))
    for style, (name, level) in zip(SERIES, (references or {}).items()):
        ax.axhline(level, color=style["color"], linewidth=1, linestyle=":", label=name)
    if marked is not None:
        ax.axvline(marked, color=GREY, linewidth=1.5)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if all(float(value).is_integer() for value in x):
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def learning_curve(accuracies: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """Test accuracy against the number of training patches: every run a dot, mean and standard deviation a bar.

    Args:
        accuracies: for each network, for each number of patches, the accuracy (0 to 1) of each run.
    """
    figure, ax = _runs_with_bars(accuracies, apart=1.04)  # so that bars at the same size stand side by side
    ax.set(title="Accuracy on test patches (bars: one standard deviation over seeds; dots: the runs)", xlabel="training patches")
    sizes = sorted({size for row in accuracies.values() for size in row})
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    return figure


def accuracy_by_parameters(accuracies: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """Test accuracy against the number of trainable parameters, each network at several widths.

    Args:
        accuracies: for each network, for each number of parameters, the accuracy (0 to 1) of each run.
    """
    figure, ax = _runs_with_bars(accuracies)
    ax.set(title="Accuracy on test patches, each network at several widths (bars and dots as above)", xlabel="trainable parameters")
    return figure


def _runs_with_bars(accuracies: Mapping[str, Mapping[int, Sequence[float]]], apart: float = 1.0) -> tuple[Figure, Axes]:
    """Accuracy of runs on a logarithmic axis; each network's points stand a factor `apart` to the right of the one's before."""
    styles = _styles_by_kind(accuracies)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    ax = figure.subplots()
    for index, (name, row) in enumerate(accuracies.items()):
        style = styles[name]
        values = [100 * np.asarray(row[size]) for size in sorted(row)]
        spread = [value.std(ddof=1) if len(value) > 1 else 0.0 for value in values]
        x = np.array(sorted(row)) * apart ** (index - (len(accuracies) - 1) / 2)
        ax.errorbar(x, [value.mean() for value in values], spread, label=name, capsize=4, markersize=7, **style)
        for position, value in zip(x, values):
            ax.plot(np.full(len(value), position * 1.012), value, linestyle="none", marker=".", color=style["color"], alpha=0.6)
    ax.set(ylabel="accuracy [%]", xscale="log")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure, ax


def _styles_by_kind(names: Iterable[str]) -> dict[str, dict]:
    """Orange and yellow for conventional networks, as in every figure; the other styles for equivariant ones."""
    names = list(names)
    theirs = [style for style in SERIES if style["color"] in (ORANGE, YELLOW)]
    ours = [style for style in SERIES if style["color"] not in (ORANGE, YELLOW)]
    styles = {}
    for conventional, left in ((True, theirs), (False, ours)):
        kind = [name for name in names if name.startswith("conventional") == conventional]
        if len(kind) > len(left):
            raise ValueError(f"at most {len(theirs)} conventional and {len(ours)} equivariant networks can be told apart")
        styles |= dict(zip(kind, left))
    return styles


def accuracy_by_angle(
    degrees: Sequence[float], turned: Mapping[str, Sequence[float]], control: Mapping[str, Sequence[float]], *, title: str
) -> Figure:
    """Accuracy against the rotation of the test patches, and beside it that of patches turned there and back again.

    Args:
        degrees: of the rotations, from 0 to less than 360; the value at 360 is that at 0.
        turned: for each network, the accuracy (0 to 1) at each angle.
        control: the same, of patches that were rotated and rotated back, so interpolated twice and not turned.
        title: says of how many patches.
    """
    styles = _styles_by_kind(turned)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, curves, name in zip(panels, (turned, control), ("turned", "control: turned there and back")):
        for angle in range(0, 361, 90):
            ax.axvline(angle, color="0.85", linewidth=1, zorder=0)
        for network, values in curves.items():
            style = styles[network] | {"marker": ""}
            ax.plot([*degrees, 360], [100 * share for share in (*values, values[0])], label=network, linewidth=1.5, **style)
        ax.set(title=name, xlabel="rotation of the test patches [degrees]", xticks=range(0, 361, 90))
    panels[0].set_ylabel("accuracy [%]")
    panels[1].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def label_window(
    tumour: np.ndarray, windows: Mapping[str, np.ndarray], angles: Sequence[float], changes: Mapping[str, Sequence[float]]
) -> Figure:
    """The square that decides the label, upright and turned, over a tumour; and how many labels change.

    Args:
        tumour: (96, 96) bool, where the tissue is tumour.
        windows: two names to (96, 96) bool, the pixels of the window.
        angles: in degrees.
        changes: name to the share (0 to 1) of labels that differ from those at 0 degrees, at each angle.
    """
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.imshow(np.where(tumour, 0.6, 1.0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    handles = []
    for (name, window), color, line in zip(windows.items(), (ORANGE, BLUE), ("--", "-")):
        left.contour(window.astype(float), levels=[0.5], colors=[color], linestyles=[line], linewidths=2)
        handles += left.plot([], [], color=color, linestyle=line, label=name)
    left.set(title="grey: tumour", xlabel="column [pixels]", ylabel="row [pixels]")
    left.legend(handles=handles, fontsize=8, loc="upper left")
    markers = zip((BLUE, ORANGE), ("o", "s"), ("-", "--"))
    for (color, marker, line), (name, values) in zip(markers, changes.items()):
        right.plot(angles, 100 * np.asarray(values), color=color, marker=marker, linestyle=line, label=name)
    right.set(title="Labels that change", xlabel="rotation [degrees]", ylabel="labels that change [%]")
    right.set_xticks(np.arange(0, max(angles) + 1, 30))
    right.legend(fontsize=8)
    figure.suptitle("The window of PCam's label is a square", fontsize=10)
    return figure


def operator_chain(operators: Sequence[tuple[str, str]]) -> Figure:
    """Operators in a row, integer ones filled.

    Args:
        operators: (operator, type of what it gives), in the order in which they run.
    """
    figure = Figure(figsize=(9, 1.7), layout="constrained")
    ax = figure.subplots()
    for position, (operator, kind) in enumerate(operators):
        integer = "int" in kind
        ax.text(
            position, 0, f"{operator}\n{kind}", ha="center", va="center", fontsize=8,
            bbox=dict(boxstyle="round,pad=0.5", facecolor="#CDE4F3" if integer else "white", edgecolor="#0072B2"),
        )
        if position:
            ax.annotate("", (position - 0.33, 0), (position - 0.67, 0), arrowprops=dict(arrowstyle="->", color=GREY))
    ax.set(xlim=(-0.6, len(operators) - 0.4), ylim=(-0.6, 0.6), title="One block as onnxruntime runs it (filled: integers)")
    ax.set_axis_off()
    return figure


def rotated_answers(image: np.ndarray, degrees: int, rows: Sequence[Sequence[str]]) -> Figure:
    """A rotated patch and a table of what each model answers.

    Args:
        image: (n, n, 3), values in 0…1, rotated.
        degrees: the rotation.
        rows: model, logits, hash, verdict.
    """
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 3.2))
    left.imshow(image)
    left.set_xticks([]), left.set_yticks([])
    left.set_title(f"rotated by {degrees}°", fontsize=10)
    right.set_axis_off()
    table = right.table(rows, colLabels=("INT8 model", "logits", "hash of the logits", "against 0°"), loc="center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.7)
    return figure
