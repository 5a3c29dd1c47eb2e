"""Figures of notebook 01: pictures, feature fields and how a group acts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from equilib.figures.style import BLUE, ORANGE, RESPONSE, SIGNED, Figure, Live, bare


def pictures(images: Mapping[str, np.ndarray], *, title: str, colorbar: str | None = None) -> Figure:
    """Pictures in a row.

    Args:
        images: caption to (n, n, 3) values in 0…1, or (n, n) values on one common scale.
        title: of the figure.
        colorbar: what the values of (n, n) pictures are, with their unit.
    """
    figure = Figure(figsize=(min(9, 2.2 * len(images) + 0.6), 2.7), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    limit = max(np.abs(image).max() for image in images.values())
    signed = any(image.min() < 0 for image in images.values())
    for ax, (caption, image) in zip(axes, images.items()):
        scale = (
            {}
            if image.ndim == 3
            else dict(vmin=-limit if signed else 0, vmax=limit, cmap=SIGNED["cmap"] if signed else RESPONSE["cmap"])
        )
        shown = ax.imshow(image, **scale)
        bare(ax)
        ax.set_title(caption, fontsize=9)
    if colorbar:
        figure.colorbar(shown, ax=list(axes), label=colorbar, shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return figure


def channel_rows(rows: Mapping[str, np.ndarray], *, title: str, channels: Sequence[str] | None = None) -> Figure:
    """Fields, one a row, their channels side by side, all on one scale.

    Args:
        rows: label to (channels, n, n).
        title: of the figure.
        channels: names of the channels.
    """
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(min(9, 1.55 * count + 1.4), 1.75 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    limit = max(values.max() for values in rows.values())
    for place, (label, values) in enumerate(rows.items()):
        row = axes[place]
        for index, (ax, channel) in enumerate(zip(row, values)):
            shown = ax.imshow(channel, vmin=0, vmax=limit, **RESPONSE)
            bare(ax)
            if place == 0:
                ax.set_title(channels[index] if channels else f"channel {index}", fontsize=9)
        row[0].set_ylabel(label, fontsize=9)
    figure.colorbar(shown, ax=axes, label="response", shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return figure


def commuting_square(
    field: np.ndarray, moved: np.ndarray, output: np.ndarray, both_ways: Sequence[np.ndarray]
) -> Figure:
    """Figure 1 of the paper: a field and the action on it, the network's output and the action on that.

    Args:
        field: f, (N, n, n).
        moved: g f.
        output: Φ(f), (N, m, m).
        both_ways: Φ(g f) and g Φ(f), which an equivariant network makes equal.
    """
    count = len(field)
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    grid = figure.add_gridspec(3, 2 * count + 1, width_ratios=[1] * count + [0.8] + [1] * count)
    difference = np.abs(both_ways[0] - both_ways[1]).max()
    cells = (
        (0, 0, field, "f"),
        (0, count + 1, moved, "g f: pixels turned, channels shifted"),
        (1, 0, output, "Φ(f)"),
        (1, count + 1, both_ways[0], "Φ(g f): first turn, then the network"),
        (2, count + 1, both_ways[1], "g Φ(f): first the network, then turn"),
    )
    for row, column, values, label in cells:
        limit = field.max() if row == 0 else output.max()
        for index, channel in enumerate(values):
            ax = figure.add_subplot(grid[row, column + index])
            ax.imshow(channel, vmin=0, vmax=limit, **RESPONSE)
            bare(ax)
            ax.set_xlabel(f"channel {index}", fontsize=7, labelpad=2)
            if index == 0:
                # Text may reach over the neighbours, where a title would push them away.
                ax.text(0, 1.08, label, fontsize=10, transform=ax.transAxes).set_in_layout(False)
    for row, text in ((0, "g = 90°\n→"), (1, "g\n→"), (2, "")):
        ax = figure.add_subplot(grid[row, count])
        ax.set_axis_off()
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=13)
    note = figure.add_subplot(grid[2, :count])
    note.set_axis_off()
    note.text(
        0.5,
        0.5,
        f"The two rows at the right are\nthe same picture, reached both ways:\nlargest difference {difference:.1e}",
        ha="center",
        va="center",
        fontsize=10,
    )
    figure.suptitle("The square that commutes: turning, then Φ, is Φ, then turning", fontsize=11)
    return figure


def matrices(values: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """Matrices as pictures: purple for negative entries, orange for positive ones, white for 0."""
    figure = Figure(figsize=(min(9, 1.9 * len(values) + 0.8), 2.7), layout="constrained")
    axes = figure.subplots(1, len(values), squeeze=False)[0]
    for ax, (caption, matrix) in zip(axes, values.items()):
        shown = ax.imshow(matrix, vmin=-1, vmax=1, **SIGNED)
        bare(ax)
        ax.set_title(caption, fontsize=9)
        ax.set_xlabel("channel before", fontsize=8)
    axes[0].set_ylabel("channel after", fontsize=8)
    figure.colorbar(shown, ax=list(axes), label="entry", shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return figure


def turning_field(count: int, limit: float, limits: tuple[float, float]) -> Live:
    """A picture, the channels of its field on a ring, and what two networks answer, turned back.

    Args:
        count: channels of the field, |G|.
        limit: largest response of the field.
        limits: largest response among those that are turned back, for each network.

    ``update(picture, field, back, errors, steps, degrees)``: (n, n, 3) uint8; (count, m, m); for both networks one
    channel of the output after it was turned back, (m, m), and the error; the rotation in steps and in degrees.
    """
    figure = Figure(figsize=(8.2, 3.55))
    left = figure.add_axes((0.01, 0.05, 0.31, 0.8))
    ring = figure.add_axes((0.34, 0.01, 0.43, 0.98), aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    ring.set_axis_off()
    ring.text(
        0,
        0,
        f"the {count} channels\nof the field;\nframed: where\nchannel 0 has gone",
        ha="center",
        va="center",
        fontsize=9,
    )
    right = [figure.add_axes((0.79, bottom, 0.2, 0.35)) for bottom in (0.51, 0.01)]
    for ax in (left, *right):
        bare(ax)
        ax.set(xlim=(0, 1), ylim=(0, 1))
    blank, side = np.zeros((2, 2)), min(0.6, 1.7 * np.sin(np.pi / max(count, 2)))
    shown = left.imshow(np.zeros((2, 2, 3)), extent=(0, 1, 0, 1))
    title = left.set_title("input", fontsize=10)
    # All tiles in one picture: drawing twelve of them one by one takes twelve times as long.
    pixels = 350
    canvas = np.zeros((pixels, pixels, 4), np.uint8)
    tiles = ring.imshow(canvas, extent=(-1.3, 1.3, -1.3, 1.3), interpolation="nearest")
    edge = int(side / 2.6 * pixels)
    corners = []
    for g in range(count):
        x, y = np.cos(2 * np.pi * g / count), np.sin(2 * np.pi * g / count)
        corners.append((int((1.3 - y - side / 2) / 2.6 * pixels), int((1.3 + x - side / 2) / 2.6 * pixels)))
        inwards = 1 - 0.8 * side  # beside the tile, so that the number need not be drawn again
        ring.text(inwards * x, inwards * y, str(g), fontsize=8, ha="center", va="center")
    colors = (matplotlib.colormaps[RESPONSE["cmap"]](np.arange(256)) * 255).astype(np.uint8)
    ring.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    frame = ring.add_patch(Rectangle((0, 0), side, side, fill=False, edgecolor=ORANGE, linewidth=3))
    answers = [
        ax.imshow(blank, vmin=0, vmax=limit, extent=(0, 1, 0, 1), **RESPONSE) for ax, limit in zip(right, limits)
    ]
    words = []  # the numbers alone are drawn again
    for ax, name, color in zip(right, ("equivariant", "plain CNN"), (BLUE, ORANGE)):
        ax.text(0.5, 1.19, f"{name}, turned back:", fontsize=9, color=color, ha="center")
        words.append(ax.text(0.5, 1.05, "", fontsize=9, color=color, ha="center"))

    def change(picture, field, back, errors, steps, degrees):
        shown.set_data(picture)
        title.set_text(f"input, turned by {degrees:g}°")
        places = np.arange(edge) * field.shape[-1] // edge  # nearest neighbours
        shades = (np.clip(field / limit, 0, 1) * 255).astype(np.uint8)
        for (top, left_edge), values in zip(corners, shades):
            canvas[top : top + edge, left_edge : left_edge + edge] = colors[values[np.ix_(places, places)]]
        tiles.set_data(canvas)
        angle = 2 * np.pi * steps / count
        frame.set_xy((np.cos(angle) - side / 2, np.sin(angle) - side / 2))
        for image, text, values, error in zip(answers, words, back, errors):
            image.set_data(values)
            text.set_text(f"error {error:.2f}" if error > 5e-3 else f"error {error:.0e}")

    return Live(figure, [shown, title, tiles, frame, *answers, *words], change)
