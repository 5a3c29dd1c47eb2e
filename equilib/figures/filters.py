"""Figures of notebook 02: steerable filters."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np

from equilib.figures.style import BLUE, GREY, ORANGE, SIGNED, Figure, Live, bare


def harmonics(continuous: np.ndarray, sampled: np.ndarray, captions: Sequence[str], *, reach: float) -> Figure:
    """Functions of the plane above their samples on a small grid.

    Args:
        continuous: (A, n, n), real parts on a fine grid that covers ±reach pixels.
        sampled: (A, k, k), real parts on the filter's pixels.
        captions: of each.
    """
    figure = Figure(figsize=(min(9, 1.6 * len(captions) + 0.9), 3.6), layout="constrained")
    axes = figure.subplots(2, len(captions), squeeze=False)
    k = sampled.shape[-1]
    half = k / 2
    for column, caption in enumerate(captions):
        for row, values in enumerate((continuous[column], sampled[column])):
            ax = axes[row, column]
            edge = reach if row == 0 else half
            shown = ax.imshow(values, vmin=-1, vmax=1, extent=(-edge, edge, -edge, edge), **SIGNED)
            bare(ax)
        points = np.arange(k) - (k - 1) / 2
        x, y = np.meshgrid(points, points)
        axes[0, column].plot(x, y, linestyle="none", marker=".", color="black", markersize=3)
        axes[0, column].set_title(caption, fontsize=9)
    axes[0, 0].set_ylabel("continuous", fontsize=9)
    axes[1, 0].set_ylabel(f"on {k} × {k} pixels", fontsize=9)
    figure.colorbar(shown, ax=axes, label="real part", shrink=0.8)
    figure.suptitle("Circular harmonics, and what a small grid sees of them (dots: pixel centres)", fontsize=11)
    return figure


def basis_sizes(
    names: Sequence[str], unconstrained: Sequence[int], solved: Sequence[int], limited: Sequence[int]
) -> Figure:
    """Free weights of one pair of fields: without a constraint, with it, and with the band limit."""
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    ax = figure.subplots()
    positions = np.arange(len(names))
    for shift, values, label, color, hatch in (
        (-0.27, unconstrained, "all filters", GREY, None),
        (0.0, solved, "equivariant on the pixels", BLUE, None),
        (0.27, limited, "and band-limited (e2cnn)", ORANGE, "//"),
    ):
        ax.bar_label(
            ax.bar(positions + shift, values, 0.27, label=label, color=color, hatch=hatch, edgecolor="white"),
            fontsize=8,
        )
    ax.set_xticks(positions, names)
    ax.set(
        title="Dimensions of 3 × 3 filters from one regular field to another",
        ylabel="free weights",
        yscale="log",
        xlabel="group",
    )
    ax.margins(y=0.12)
    ax.legend(fontsize=8, loc="upper left")
    return figure


def steered_filter(limit: float, frequencies: Sequence[int]) -> Live:
    """A steered filter, a picture of the unturned one rotated by interpolation, and the coefficients' phases.

    Args:
        limit: largest absolute weight.
        frequencies: of the atoms, for the legend.

    ``update(steered, picture, coefficients, degrees, difference)``: two (k, k); (A,) complex; the angle; a number.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    images = [
        ax.imshow(np.zeros((2, 2)), vmin=-limit, vmax=limit, extent=(0, 1, 0, 1), **SIGNED) for ax in (left, middle)
    ]
    for ax in (left, middle):
        bare(ax)
    words = [
        left.set_title("steered: 000°", fontsize=10),
        middle.set_title("picture of it, interpolated\ndiffers by 0.00", fontsize=10),
    ]
    reach = 1.25
    right.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="real part", ylabel="imaginary part")
    right.set_title("coefficients, turning m times", fontsize=10)
    right.axhline(0, color="#cccccc", linewidth=0.6)
    right.axvline(0, color="#cccccc", linewidth=0.6)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(frequencies) + 1))
    hands = []
    for index, m in enumerate(frequencies):
        label = f"m = {m}" if m not in frequencies[:index] else None
        hands += right.plot([0, 0], [0, 0], color=colors[m], marker="o", markersize=5, label=label, linewidth=2)
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))

    def change(steered, picture, coefficients, degrees, difference):
        images[0].set_data(steered)
        images[1].set_data(picture)
        words[0].set_text(f"steered: {degrees:g}°")
        words[1].set_text(f"picture of it, interpolated\ndiffers by {difference:.2f}")
        for hand, value in zip(hands, coefficients):
            hand.set_data([0, value.real], [0, value.imag])

    return Live(figure, [*images, *words, *hands], change)


def cutoff_errors(
    cutoffs: Sequence[int], errors: Sequence[float], sizes: Sequence[int], kernel_size: int, limit: float
) -> Live:
    """Error and expressiveness against the band limit; a filter, and the same turned by one step of the group.

    Args:
        cutoffs: highest frequencies.
        errors: relative, at each cutoff.
        sizes: coefficients, at each cutoff.
        limit: largest absolute weight of the filters that are shown.

    ``update(filters, index, degrees)``: (2, k, k), the place of the highest frequency in ``cutoffs``, the angle.
    """
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    images = [ax.imshow(np.zeros((2, 2)), vmin=-limit, vmax=limit, extent=(0, 1, 0, 1), **SIGNED) for ax in axes[:2]]
    for ax in axes[:2]:
        bare(ax)
    axes[0].set_title("a filter", fontsize=10)
    angle = axes[1].set_title("steered by 000°", fontsize=10)
    ax = axes[2]
    ax.plot(cutoffs, errors, color=BLUE, marker="o", label="error")
    ax.set(
        xlabel="highest frequency m on every ring",
        ylabel="equivariance error, relative",
        ylim=(-0.02, max(errors) * 1.15 + 0.02),
    )
    other = ax.twinx()
    other.plot(cutoffs, sizes, color=ORANGE, marker="s", linestyle="--", label="coefficients")
    other.axhline(kernel_size**2, color=ORANGE, linewidth=0.8, linestyle=":")
    other.set(ylabel=f"coefficients ({kernel_size**2} pixels: dotted)", ylim=(0, max(sizes) * 1.15))
    lines = ax.get_lines() + other.get_lines()[:1]
    ax.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="upper left")
    title = ax.set_title("up to m = 0: error 0.000, 00 coefficients", fontsize=10)
    (mark,) = ax.plot(
        [0], [0], marker="o", markersize=13, markerfacecolor="none", markeredgecolor=GREY, markeredgewidth=2
    )

    def change(filters, index, degrees):
        for image, values in zip(images, filters):
            image.set_data(values)
        angle.set_text(f"steered by {degrees:g}°")
        mark.set_data([cutoffs[index]], [errors[index]])
        title.set_text(f"up to m = {cutoffs[index]}: error {errors[index]:.3f}, {sizes[index]} coefficients")

    return Live(figure, [*images, angle, title, mark], change)


def aliases(highest: int, reach: float) -> Live:
    """An atom, its samples, and the frequencies with which the samples answer to plane waves.

    Args:
        highest: frequency of the spectrum.
        reach: of the continuous picture, in pixels from the centre.

    ``update(continuous, sampled, spectrum, frequency, kept)``: real parts (n, n) and (k, k); (2 highest + 1,) shares;
    m; whether the band limit keeps it.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.9))
    images = [
        ax.imshow(np.zeros((2, 2)), vmin=-1, vmax=1, extent=(-reach, reach, -reach, reach), **SIGNED)
        for ax in (left, middle)
    ]
    for ax in (left, middle):
        bare(ax)
    for offset in (-0.5, 0.5):
        left.axhline(offset, color=GREY, linewidth=0.5)
        left.axvline(offset, color=GREY, linewidth=0.5)
    words = [left.set_title("m = 0, continuous", fontsize=10), middle.set_title("its samples", fontsize=10)]
    frequencies = np.arange(-highest, highest + 1)
    bars = right.bar(frequencies, np.zeros(len(frequencies)), color=GREY)
    right.set(ylim=(0, 1.05), xlabel="angular frequency of the response", ylabel="share of its power")
    right.set_xticks(frequencies)
    words.append(right.set_title("asked m = 0, answers elsewhere with 00 %: kept", fontsize=10))

    def change(continuous, sampled, spectrum, frequency, kept):
        images[0].set_data(continuous)
        images[1].set_data(sampled)
        for bar, share, m in zip(bars, spectrum, frequencies):
            bar.set(height=share, facecolor=BLUE if m == frequency else ORANGE)
        words[0].set_text(f"m = {frequency}, continuous")
        elsewhere = 100 * (1 - spectrum[frequency + highest])
        words[2].set_text(
            f"asked m = {frequency}, answers elsewhere with {elsewhere:.1f} %: {'kept' if kept else 'dropped'}"
        )

    return Live(figure, [*images, *words, *bars], change)
