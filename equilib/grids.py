"""Which pixels a strided convolution samples, and when that commutes with a 90-degree rotation.

A convolution or pooling with stride s on n pixels (kernel k, padding p on both sides, dilation d) commutes with 90-degree
rotations exactly if and only if

    (n + 2p - d(k - 1) - 1) mod s = 0,

that is, if the last window ends at the last (padded) pixel: only then is the set of sampled centres symmetric
(section 4 and Figure 2 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A convolution or pooling along one axis: kernel, stride, padding and dilation, in pixels."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def span(self, size: int) -> int:
        """How far the first window can move over ``size`` pixels: n + 2p - d(k - 1) - 1."""
        return size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1

    def output_size(self, size: int) -> int:
        """The number of windows on ``size`` pixels; raises ValueError where not one fits."""
        if self.span(size) < 0:
            raise ValueError(f"a window of kernel {self.kernel} does not fit on {size} pixels with padding {self.padding}")
        return self.span(size) // self.stride + 1

    def remainder(self, size: int) -> int:
        """Pixels left over behind the last window; 0 means that the sampling is symmetric."""
        return self.span(size) % self.stride


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
        """Whether this stage commutes with 90-degree rotations on the grid."""
        return self.window.remainder(self.size) == 0

    def explain(self) -> str:
        """One sentence: what the rule gives for this stage."""
        w = self.window
        left = w.remainder(self.size)
        return (
            f"{self.name}: ({self.size} + 2*{w.padding} - {w.dilation}*({w.kernel} - 1) - 1) mod {w.stride} = {left}"
            + ("" if self.exact else f", so {left} row(s) and column(s) at one side only are never a last window")
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
