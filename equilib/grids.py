"""Which pixels a strided convolution samples, and when that commutes with a rotation by 90°.

A convolution or pooling with stride s on n pixels (kernel k, padding p on both sides, dilation d) commutes with rotations
by 90° exactly if and only if

    (n + 2p - d(k - 1) - 1) mod s = 0,

that is, if the last window ends at the last (padded) pixel: only then is the set of sampled centres symmetric
(section 4 and Figure 2 of the paper).  With different paddings before and after, the remainder must be their difference,
after minus before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equilib.checks import check_count


@dataclass(frozen=True)
class Window:
    """A convolution or pooling along one axis: kernel, stride, padding and dilation, in pixels.

    ``padding`` is added before the first pixel and, unless ``padding_after`` says otherwise, behind the last.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    padding_after: int | None = None

    def __post_init__(self):
        for name in ("kernel", "stride", "dilation"):
            check_count(name, getattr(self, name))
        check_count("padding", self.padding, least=0)
        check_count("padding_after", self.after, least=0)

    @property
    def after(self) -> int:
        """Padding behind the last pixel."""
        return self.padding if self.padding_after is None else self.padding_after

    def span(self, size: int) -> int:
        """How far the first window can move over ``size`` pixels: n + p_before + p_after - d(k - 1) - 1."""
        return size + self.padding + self.after - self.dilation * (self.kernel - 1) - 1

    def output_size(self, size: int) -> int:
        """The number of windows on ``size`` pixels; raises ValueError where not one fits."""
        if self.span(size) < 0:
            raise ValueError(
                f"a window of kernel {self.kernel} does not fit on {size} pixels with padding {self.padding}"
            )
        return self.span(size) // self.stride + 1

    def remainder(self, size: int) -> int:
        """(Padded) pixels left over behind the last window; raises ValueError where not one fits."""
        self.output_size(size)  # says where not one window fits
        return self.span(size) % self.stride

    def exact(self, size: int) -> bool:
        """Whether the sampling is symmetric, so that the layer commutes with rotations by 90°."""
        return self.remainder(size) == self.after - self.padding

    def centres(self, size: int) -> list[float]:
        """Where the windows' centres lie, in pixels; halves for even kernels."""
        start = -self.padding + self.dilation * (self.kernel - 1) / 2
        return [start + self.stride * index for index in range(self.output_size(size))]

    def sampled(self, size: int) -> list[int]:
        """The pixels that at least one window reads, in order; padding left out."""
        starts = range(-self.padding, -self.padding + self.stride * self.output_size(size), self.stride)
        read = {start + self.dilation * tap for start in starts for tap in range(self.kernel)}
        return sorted(pixel for pixel in read if 0 <= pixel < size)


@dataclass(frozen=True)
class Stage:
    """A named window on a grid of known size, as :func:`trace_stages` returns it."""

    name: str
    window: Window
    size: int

    @property
    def output_size(self) -> int:
        return self.window.output_size(self.size)

    @property
    def exact(self) -> bool:
        """Whether this stage commutes with rotations by 90° on the grid."""
        return self.window.exact(self.size)

    def explain(self) -> str:
        """One sentence: what the rule gives for this stage."""
        w = self.window
        left = w.remainder(self.size)
        if w.after != w.padding:
            return (
                f"{self.name}: ({self.size} + {w.padding} + {w.after} - {w.dilation}*({w.kernel} - 1) - 1) mod {w.stride} "
                f"= {left}, and padding after minus before is {w.after - w.padding}"
                + ("" if self.exact else ", so the sampled centres are not symmetric")
            )
        return (
            f"{self.name}: ({self.size} + 2*{w.padding} - {w.dilation}*({w.kernel} - 1) - 1) mod {w.stride} = {left}"
            + (
                ""
                if self.exact
                else f", so {left} row(s) and column(s) are left over at the far side, and none at the near side"
            )
        )


def trace_stages(size: int, windows: Sequence[tuple[str, Window]]) -> list[Stage]:
    """Follow a grid of ``size`` pixels through a sequence of named windows."""
    stages = []
    for name, window in windows:
        stages.append(Stage(name, window, size))
        size = stages[-1].output_size
    return stages


def nearest_exact_sizes(size: int, windows: Sequence[tuple[str, Window]], *, reach: int = 64) -> list[int]:
    """The input sizes within ``reach`` pixels for which every window is exact, the nearest first."""
    candidates = []
    for candidate in range(max(1, size - reach), size + reach + 1):
        try:
            if all(stage.exact for stage in trace_stages(candidate, windows)):
                candidates.append(candidate)
        except ValueError:
            continue
    return sorted(candidates, key=lambda c: (abs(c - size), c))


def repairing_paddings(size: int, window: Window) -> list[tuple[int, int]]:
    """The paddings (before, after) that make a window exact on ``size`` pixels, the smallest first.

    Each is less than the reach of the kernel, so that no window sees padding alone.
    """
    found = []
    for before in range(window.dilation * (window.kernel - 1) + 1):
        for after in range(window.dilation * (window.kernel - 1) + 1):
            padded = Window(window.kernel, window.stride, before, window.dilation, after)
            if padded.span(size) >= 0 and padded.exact(size):
                found.append((before, after))
    return sorted(found, key=lambda pair: (sum(pair), abs(pair[0] - pair[1])))
