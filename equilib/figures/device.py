"""Figures of notebook 06: what runs, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equilib.figures.style import GREY, Figure


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
