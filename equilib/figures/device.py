"""Figures of notebook 06: what runs, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.lines import Line2D

from equilib.figures.style import GREY, RESPONSE, SERIES, Figure, bare
from equilib.windows import Windows


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
            position,
            0,
            f"{operator}\n{kind}",
            ha="center",
            va="center",
            fontsize=8,
            bbox=dict(boxstyle="round,pad=0.5", facecolor="#CDE4F3" if integer else "white", edgecolor="#0072B2"),
        )
        if position:
            ax.annotate("", (position - 0.33, 0), (position - 0.67, 0), arrowprops=dict(arrowstyle="->", color=GREY))
    ax.set(
        xlim=(-0.6, len(operators) - 0.4), ylim=(-0.6, 0.6), title="One block as onnxruntime runs it (filled: integers)"
    )
    ax.set_axis_off()
    return figure


@dataclass(frozen=True)
class Measured:
    """How well and how fast a network answers somewhere.

    Attributes:
        network, runtime: names.
        precision: "FP32" or "INT8".
        milliseconds: a patch.
        accuracy, error: between 0 and 1; ``error`` is the standard error over test patches.
    """

    network: str
    runtime: str
    precision: str
    milliseconds: float
    accuracy: float
    error: float


NETWORK_COLOURS = (*(style["color"] for style in SERIES), "#000000", "#999999")
RUNTIME_MARKERS = ("o", "s", "^", "D", "P", "X", "v", "*")


def accuracy_against_latency(points: Sequence[Measured], *, title: str) -> Figure:
    """Accuracy against milliseconds a patch: a colour a network, a marker a runtime, INT8 filled.

    Up is right more often, left is faster; the bar is a network's standard error, at its fastest INT8 point.

    Raises:
        ValueError: more networks or runtimes than can be told apart.
    """
    networks = list(dict.fromkeys(point.network for point in points))
    runtimes = list(dict.fromkeys(point.runtime for point in points))
    if len(networks) > len(NETWORK_COLOURS) or len(runtimes) > len(RUNTIME_MARKERS):
        raise ValueError(
            f"at most {len(NETWORK_COLOURS)} networks and {len(RUNTIME_MARKERS)} runtimes can be told apart"
        )
    colours = dict(zip(networks, NETWORK_COLOURS))
    markers = dict(zip(runtimes, RUNTIME_MARKERS))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    for point in points:
        colour = colours[point.network]
        ax.plot(
            point.milliseconds,
            100 * point.accuracy,
            markers[point.runtime],
            color=colour,
            markerfacecolor=colour if point.precision == "INT8" else "white",
            markersize=8,
        )
    for name in networks:  # its error once, at its fastest INT8 point: it is the same for all runtimes
        fastest = min((p for p in points if p.network == name), key=lambda p: (p.precision != "INT8", p.milliseconds))
        ax.errorbar(
            fastest.milliseconds, 100 * fastest.accuracy, 100 * fastest.error, color=colours[name], capsize=3, zorder=0
        )
    ax.set(title=title, xlabel="milliseconds a patch, one thread", ylabel="accuracy [%]", xscale="log")
    ax.grid(alpha=0.3, which="both")
    handles = [Line2D([], [], color=colours[name], linewidth=4, label=name) for name in networks]
    handles += [Line2D([], [], color=GREY, marker=markers[name], linestyle="", label=name) for name in runtimes]
    handles += [
        Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor=face, label=name)
        for name, face in (("INT8: filled", GREY), ("FP32: open", "white"))
    ]
    handles.append(Line2D([], [], color=GREY, marker="|", markersize=12, linestyle="", label="± one standard error"))
    ax.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
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
    table = right.table(
        rows, colLabels=("INT8 model", "logits", "hash of the logits", "against 0°"), loc="center", cellLoc="left"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.7)
    return figure


def tumour_map(picture: np.ndarray, probabilities: np.ndarray, windows: Windows, *, title: str) -> Figure:
    """A picture, and beside it the probability of tumour in the middle of each window.

    Args:
        picture: (height, width, 3), uint8.
        probabilities: (rows, columns) of windows, 0…1.
        windows: where they stand.
    """
    tall = min(windows.height / windows.width, 2)
    figure = Figure(figsize=(9, 1 + 4 * tall), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    # No more pixels than a screen shows: matplotlib would make floats of all of them.
    step = 1 + max(picture.shape) // 2000
    whole = (-0.5, windows.width - 0.5, windows.height - 0.5, -0.5)
    for ax in (left, right):
        ax.imshow(picture[::step, ::step], extent=whole)
        bare(ax)
    left.set_title("the picture", fontsize=10)
    # Each window stands for the square around its middle that reaches half-way to the next.
    edges = [starts[0] + (windows.size - windows.stride) / 2 - 0.5 for starts in (windows.columns, windows.rows)]
    reach = [len(starts) * windows.stride for starts in (windows.columns, windows.rows)]
    extent = (edges[0], edges[0] + reach[0], edges[1] + reach[1], edges[1])
    drawn = right.imshow(probabilities, extent=extent, vmin=0, vmax=1, alpha=0.65, **RESPONSE)
    left.set(xlim=(-0.5, windows.width - 0.5), ylim=(windows.height - 0.5, -0.5))
    right.set_title(f"each square of {windows.stride} px: the middle of a window of {windows.size} px", fontsize=10)
    figure.colorbar(drawn, ax=right, label="probability of tumour")
    figure.suptitle(title)
    return figure
