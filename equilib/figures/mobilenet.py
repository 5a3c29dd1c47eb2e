"""Figures of notebook 04: patches, layers, trainings, and errors by stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from equilib.figures.style import BLUE, GREY, ORANGE, SIGNED, Figure, bar_style, style_of, styles_by_kind


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


def depthwise_banks(banks: Mapping[str, np.ndarray]) -> Figure:
    """The depthwise filters of one field as a matrix of filters, for each form of the layer; blank where there is none.

    Args:
        banks: name to (|G|, 1, k, k), where each channel has a filter of its own, or to (|G|, |G|, k, k), where each output
            channel filters all channels of its field.
    """
    figure = Figure(figsize=(4.4 * len(banks), 3.9), layout="constrained")
    limit = max(np.abs(filters).max() for filters in banks.values())
    for ax, (name, filters) in zip(figure.subplots(1, len(banks), squeeze=False)[0], banks.items()):
        count, seen, size = filters.shape[:3]
        cell = size + 1  # one blank pixel between neighbours
        mosaic = np.full((count * cell - 1, count * cell - 1), np.nan)
        for out in range(count):
            for column in range(count) if seen > 1 else (out,):
                top, left = out * cell, column * cell
                mosaic[top : top + size, left : left + size] = filters[out, column if seen > 1 else 0]
        picture = ax.imshow(mosaic, **SIGNED, vmin=-limit, vmax=limit)
        centres = np.arange(count) * cell + (size - 1) / 2
        ax.set_xticks(centres, range(count)), ax.set_yticks(centres, range(count))
        ax.set(title=name, xlabel="channel that is filtered", ylabel="channel that it gives")
    figure.colorbar(picture, ax=figure.axes, label="weight", shrink=0.9)
    figure.suptitle("The depthwise filters of one field", fontsize=10)
    return figure


def layer_costs(
    names: Sequence[str], macs: Mapping[str, Sequence[float]], parameters: Mapping[str, Sequence[float]]
) -> Figure:
    """Multiply-accumulates and trainable parameters of networks, block by block.

    Args:
        names: of the blocks.
        macs: for each network, of each block, for one image.
        parameters: for each network, of each block.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    positions = np.arange(len(names))
    for ax, values, unit in ((left, macs, 1e-6), (right, parameters, 1)):
        width = 0.8 / len(values)
        for index, (kind, row) in enumerate(values.items()):
            shift = (index - (len(values) - 1) / 2) * width
            heights = np.asarray(row) * unit
            ax.bar(positions + shift, heights, width, label=kind, **bar_style(kind, index))
        ax.set_xticks(positions, names, rotation=90, fontsize=7)
        ax.set_xlabel("block")
        ax.legend(fontsize=8)
    left.set(title="Cost of the exported network", ylabel="multiply-accumulates [millions]")
    right.set(title="Trainable parameters", ylabel="parameters", yscale="log")
    return figure


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], conventional: Collection[str] = ("conventional",)
) -> Figure:
    """Loss and validation accuracy against the epoch, for each network.

    Args:
        histories: for each network, rows with epoch, train_loss, valid_loss and valid_accuracy (0 to 1).
        conventional: names of the conventional ones.
    """
    styles = styles_by_kind(histories, conventional)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, rows in histories.items():
        epochs, style = [row["epoch"] for row in rows], styles[kind]
        left.plot(epochs, [row["valid_loss"] for row in rows], label=f"{kind}, validation", **style)
        left.plot(
            epochs, [row["train_loss"] for row in rows], label=f"{kind}, training", **style | {"marker": ""}, alpha=0.5
        )
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
        errors: for each network, for each stage, the relative error under rotations by 90°.
        tolerance: draw a line here.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax = figure.subplots()
    for place, (kind, stages) in enumerate(errors.items()):
        # Zero has no logarithm: such a point sits on the axis, and says so.
        values = [max(value, 1e-9) for value in stages.values()]
        ax.plot(list(stages), values, label=kind, **style_of(kind, place))
        for x, (value, shown) in enumerate(zip(stages.values(), values)):
            ax.annotate(
                f"{value:.1e}" if value else "0 (exactly)",
                (x, shown),
                textcoords="offset points",
                xytext=(0, 7),
                ha="center",
                fontsize=8,
            )
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
    for place, (kind, values) in enumerate(probabilities.items()):
        right.plot(angles, values, label=kind, **style_of(kind, place), markersize=4)
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


def label_window(
    tumour: np.ndarray,
    windows: Mapping[str, np.ndarray],
    angles: Sequence[float],
    changes: Mapping[str, Sequence[float]],
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
