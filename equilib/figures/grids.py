"""Figures of notebook 03: what a stride samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection

from equilib.figures.style import BLUE, GREY, ORANGE, Figure, Live, bare

FAINT = "#cccccc"


def _lines(size: int) -> list:
    edges = np.arange(size + 1) - 0.5
    low, high = -0.5, size - 0.5
    return [[(edge, low), (edge, high)] for edge in edges] + [[(low, edge), (high, edge)] for edge in edges]


def sampled_points(cases: Sequence[tuple[str, int, Sequence[float]]], *, title: str) -> Figure:
    """Figure 2 of the paper: centres that a strided window samples, and those that it samples in the turned picture.

    Args:
        cases: caption, size of the grid, centres along one axis.
    """
    figure = Figure(figsize=(min(9, 3.2 * len(cases) + 0.4), 4.0), layout="constrained")
    for ax, (caption, size, centres) in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases):
        mirrored = [size - 1 - c for c in centres]
        ax.add_collection(LineCollection(_lines(size), colors=FAINT, linewidths=0.8))
        x, y = np.meshgrid(centres, centres)
        ax.plot(x.ravel(), y.ravel(), color=BLUE, marker="o", markersize=7, linestyle="none", label="sampled")
        x, y = np.meshgrid(mirrored, centres)  # turned back into the unturned picture
        ax.plot(
            x.ravel(),
            y.ravel(),
            color=ORANGE,
            marker="s",
            markersize=11,
            markerfacecolor="none",
            markeredgewidth=1.6,
            linestyle="none",
            label="sampled after turning by 90°",
        )
        ax.set(xlim=(-1.2, size + 0.2), ylim=(size + 0.2, -1.2), aspect="equal")
        bare(ax)
        ax.set_xticks(range(size), range(size), fontsize=8)
        ax.set_yticks(range(size), range(size), fontsize=8)
        ax.set_xlabel("column [pixels]")
        ax.set_ylabel("row [pixels]")
        ax.set_title(caption, fontsize=10)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def sampling(largest: int) -> Live:
    """The pixels that a window reads, the centres of its positions, and the same for the turned picture.

    Args:
        largest: grid that must fit.

    ``update(size, centres, read, caption, exact)``: pixels; centres along one axis; pixels read along one axis; words
    with the rule; its verdict.
    """
    figure = Figure(figsize=(8, 4.6))
    ax = figure.add_axes((0.01, 0.02, 0.55, 0.96), aspect="equal")
    ax.set(xlim=(-2.5, largest + 1.5), ylim=(largest + 1.5, -2.5))
    ax.set_axis_off()
    cells = ax.imshow(np.zeros((2, 2)), cmap="Blues", vmin=0, vmax=3, extent=(-0.5, 1.5, 1.5, -0.5), aspect="equal")
    ax.set(xlim=(-2.5, largest + 1.5), ylim=(largest + 1.5, -2.5))
    lines = ax.add_collection(LineCollection([], colors=GREY, linewidths=0.5))
    style = dict(linestyle="none", markersize=6)
    (points,) = ax.plot([], [], color=BLUE, marker="o", label="centres that are sampled", **style)
    (turned,) = ax.plot(
        [],
        [],
        color=ORANGE,
        marker="s",
        markerfacecolor="none",
        markeredgewidth=1.6,
        linestyle="none",
        markersize=10,
        label="centres after turning by 90°",
    )
    figure.legend(handles=[points, turned], loc="upper left", bbox_to_anchor=(0.57, 0.95), fontsize=9, frameon=False)
    figure.text(0.585, 0.73, "light blue: pixels that a window reads", fontsize=9)
    words = figure.text(0.585, 0.62, "", fontsize=10, va="top", linespacing=1.6)
    verdict = figure.text(0.585, 0.2, "", fontsize=13, weight="bold")

    def change(size, centres, read, caption, exact):
        inside = np.zeros(size)
        inside[read] = 1
        cells.set_data(np.outer(inside, inside))
        cells.set_extent((-0.5, size - 0.5, size - 0.5, -0.5))
        lines.set_segments(_lines(size))
        x, y = np.meshgrid(centres, centres)
        points.set_data(x.ravel(), y.ravel())
        x, y = np.meshgrid([size - 1 - c for c in centres], centres)
        turned.set_data(x.ravel(), y.ravel())
        words.set_text(caption)
        verdict.set_text("exact: the two sets agree" if exact else "broken: the two sets differ")
        verdict.set_color(BLUE if exact else ORANGE)

    return Live(figure, [cells, lines, points, turned, words, verdict], change)


def plan(names: Sequence[str], tallest: int) -> Live:
    """The grid of every stage of a network, exact ones and broken ones.

    Args:
        names: of the stages.
        tallest: grid that must fit.

    ``update(sizes, exact, title)``: pixels before each stage; whether each commutes with rotations; words.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    positions = np.arange(len(names))
    bars = ax.bar(positions, np.zeros(len(names)), edgecolor="white")
    ax.set(ylim=(0, tallest * 1.12), ylabel="grid before the stage [pixels]", xlabel="stage")
    ax.set_xticks(positions, names, rotation=45, ha="right", fontsize=8)
    numbers = [ax.text(x, 0, "", ha="center", va="bottom", fontsize=8) for x in positions]
    heading = ax.set_title("at 000 pixels", fontsize=10)
    ax.bar([0], [0], color=BLUE, label="exact")
    ax.bar([0], [0], color=ORANGE, hatch="//", edgecolor="white", label="broken here")
    ax.legend(fontsize=8, loc="upper right")

    def change(sizes, exact, title):
        for bar, number, size, before, good in zip(bars, numbers, sizes, [None, *sizes], exact):
            bar.set(height=size, facecolor=BLUE if good else ORANGE, hatch=None if good else "//")
            number.set(text=f"{size}" if size != before else "", y=size)
        heading.set_text(title)

    return Live(figure, [*bars, *numbers, heading], change)
