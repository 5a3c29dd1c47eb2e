"""What all figures share: styles of the two networks, bars and curves, rendering, and figures that are updated in place."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from matplotlib import figure as matplotlib_figure
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

STYLES = {
    "conventional": dict(color="#D55E00", marker="s", linestyle="--"),
    "equivariant": dict(color="#0072B2", marker="o", linestyle="-"),
}
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
YELLOW = "#E69F00"
# For any number of curves up to six: the two networks' styles first.
SERIES = (
    *STYLES.values(),
    dict(color=GREEN, marker="^", linestyle="-."),
    dict(color=PINK, marker="D", linestyle=":"),
    dict(color=YELLOW, marker="v", linestyle=(0, (5, 1))),
    dict(color="#56B4E9", marker="P", linestyle=(0, (1, 1))),
)
RESPONSE = dict(cmap="cividis", interpolation="nearest")  # values from 0 up
SIGNED = dict(cmap="PuOr_r", interpolation="nearest")  # purple below 0, orange above


class Figure(matplotlib_figure.Figure):
    """A matplotlib figure that says in words what it shows, for readers who cannot see it."""

    def __repr__(self) -> str:
        titles = [self.get_suptitle()] + [ax.get_title() or ax.get_title(loc="left") for ax in self.axes]
        axes = {
            f"{ax.get_ylabel()} against {ax.get_xlabel()}" for ax in self.axes if ax.get_xlabel() and ax.get_ylabel()
        }
        words = [" ".join(text.split()) for text in [*titles, *sorted(axes)] if text]
        return "Figure. " + ". ".join(dict.fromkeys(words))


def bare(ax) -> None:
    """No ticks: the axes are those of a picture."""
    ax.set_xticks([])
    ax.set_yticks([])


def style_of(name: str, place: int) -> dict:
    """The style of a network or curve: of the two kinds their own in every figure, of other names that of their place.

    Raises:
        ValueError: more places than styles.
    """
    if name in STYLES:
        return STYLES[name]
    if place >= len(SERIES):
        raise ValueError(f"at most {len(SERIES)} networks or curves can be told apart, {name!r} is number {place + 1}")
    return SERIES[place]


def bar_style(name: str, place: int) -> dict:
    """What :func:`style_of` says, for bars: a colour, and beside it a hatch for readers who see no colours."""
    color = style_of(name, place)["color"]
    return {"color": color, "hatch": "//" if color == ORANGE else None, "edgecolor": "white"}


def styles_by_kind(names: Iterable[str], conventional: Collection[str]) -> dict[str, dict]:
    """Orange and yellow for conventional networks, as in every figure; the other styles for equivariant ones.

    Args:
        names: of all networks.
        conventional: those of the conventional ones.
    """
    names = list(names)
    theirs = [style for style in SERIES if style["color"] in (ORANGE, YELLOW)]
    ours = [style for style in SERIES if style["color"] not in (ORANGE, YELLOW)]
    styles = {}
    for is_conventional, left in ((True, theirs), (False, ours)):
        kind = [name for name in names if (name in conventional) == is_conventional]
        if len(kind) > len(left):
            raise ValueError(
                f"at most {len(theirs)} conventional and {len(ours)} equivariant networks can be told apart"
            )
        styles |= dict(zip(kind, left))
    return styles


def png(figure: Figure | Live, *, dpi: int = 100) -> bytes:
    """Render a figure to PNG."""
    if isinstance(figure, Live):
        return figure.render(dpi)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class Live:
    """A figure for a slider: what stands still is drawn once, and only what moves is drawn again.

    Args:
        figure: with all its artists in place.
        moving: the artists that change, in the order in which they are drawn, on top of everything else.
        change: keyword values to new contents of those artists.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist], change: Callable[..., None]):
        self.figure, self._moving, self._change = figure, list(moving), change
        self._canvas, self._still, self._dpi = FigureCanvasAgg(figure), None, 0

    def update(self, **values) -> Live:
        """Itself, showing these values."""
        self._change(**values)
        return self

    def __repr__(self) -> str:
        return repr(self.figure)

    def _repr_png_(self) -> bytes:
        return self.render()

    def render(self, dpi: int = 100) -> bytes:
        """PNG of the current state."""
        if self._still is None or dpi != self._dpi:
            self._dpi = dpi
            self.figure.set_dpi(dpi)
            self.figure.draw_without_rendering()  # lays out, with all artists in
            self.figure.set_layout_engine("none")
            for artist in self._moving:
                artist.set_animated(True)  # left out of an ordinary drawing
            self._canvas.draw()
            self._still = self._canvas.copy_from_bbox(self.figure.bbox)
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            self.figure.draw_artist(artist)
        buffer = io.BytesIO()
        # Level 1 with run lengths is twice as fast as the default and hardly larger: a slider wants speed.
        Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3]).save(
            buffer, "png", compress_level=1, compress_type=3
        )
        return buffer.getvalue()


def bars(values: Mapping[str, Mapping[str, float]], *, title: str, label: str, floor: float | None = None) -> Figure:
    """Grouped bars, one group a step and one bar a network, each with its number.

    Args:
        values: for each network, for each step, a number; a network need not have every step.
        title, label: of the figure and of the values, with their unit.
        floor: where the axis begins.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    steps = list(dict.fromkeys(step for row in values.values() for step in row))
    width = 0.8 / len(values)
    for index, (kind, row) in enumerate(values.items()):
        positions = np.array([steps.index(step) for step in row]) + (index - (len(values) - 1) / 2) * width
        drawn = ax.bar(positions, list(row.values()), width, label=kind, **bar_style(kind, index))
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
    for place, (name, row) in enumerate(values.items()):
        ax.plot(x, row, label=name, **style_of(name, place))
    for style, (name, level) in zip(SERIES, (references or {}).items()):
        ax.axhline(level, color=style["color"], linewidth=1, linestyle=":", label=name)
    if marked is not None:
        ax.axvline(marked, color=GREY, linewidth=1.5)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if all(float(value).is_integer() for value in x):
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
