"""Figures of notebook 05: ranges, and weights on their grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equilib.figures.style import Figure


def channel_ranges(
    names: Sequence[str], before: Sequence[np.ndarray], after: Sequence[np.ndarray], field_size: int | None = None
) -> Figure:
    """The largest absolute weight of every channel of some layers, before and after equalization.

    Args:
        names: of the layers.
        before, after: for each layer, (channels,).
        field_size: draw a line between the fields of so many channels.
    """
    figure = Figure(figsize=(9, 1.6 + 1.5 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for ax, name, old, new in zip(axes, names, before, after):
        channels = np.arange(len(old))
        ax.plot(channels, old, label="before", color="#D55E00", marker="s", linestyle="none", markersize=4)
        ax.plot(channels, new, label="after", color="#0072B2", marker="o", linestyle="none", markersize=4)
        ax.axhline(old.max(), color="#D55E00", linewidth=1, linestyle="--", label="largest before: sets the step")
        ax.axhline(new.max(), color="#0072B2", linewidth=1, label="largest after")
        if field_size:
            for edge in np.arange(field_size, len(old), field_size):
                ax.axvline(edge - 0.5, color="#cccccc", linewidth=0.6)
        ratios = [values.max() / max(values[values > 0].min(), 1e-12) for values in (old, new)]
        spread_before, spread_after = (f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}" for ratio in ratios)
        ax.set_title(f"{name}: largest over smallest range {spread_before} before, {spread_after} after", fontsize=10)
        ax.set(ylabel="range of weights", yscale="log", xlabel="output channel")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
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
        right.vlines(levels, 0, 1, color="#cccccc", linewidth=0.8, label="levels of INT8")
    right.plot(channel, np.full(channel.size, 0.66), linestyle="none", marker="o", color="#0072B2", label="weights")
    right.plot(
        np.round(channel / step) * step,
        np.full(channel.size, 0.33),
        linestyle="none",
        marker="s",
        color="#D55E00",
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
    right.legend(fontsize=8, ncols=3, loc="upper right")
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    return figure
