"""Pictures larger than a patch: the network's answer for window after window, and the map that the answers make.

Windows stand ``stride`` pixels apart, and what is left over at the border is shared by both sides.  It is the question of
notebook 03 once more, for a kernel as large as a patch: the windows of a turned picture are the turned windows if and only if
what is left over is even.  Then, where the network gives the same bits under quarter turns, so does the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from equilib.checks import check_count
from equilib.equivariance import Model, run_model
from equilib.pcam import LABEL_WINDOW, normalize


@dataclass(frozen=True)
class Windows:
    """Where square windows stand on a picture.

    Attributes:
        height, width: of the picture, in pixels.
        size: of a window, in pixels: what the network takes.
        stride: from one window to the next, in pixels; by default the side of PCam's label window, so that the squares
            that are judged lie side by side.

    Raises:
        ValueError: the picture is smaller than a window, or a size or stride is no whole number above 0.
    """

    height: int
    width: int
    size: int
    stride: int = LABEL_WINDOW

    def __post_init__(self):
        for name in ("height", "width", "size", "stride"):
            check_count(name, getattr(self, name))
        if min(self.height, self.width) < self.size:
            raise ValueError(
                f"a picture of {self.width} x {self.height} pixels is smaller than the network's window of {self.size} x {self.size}"
            )

    @property
    def rows(self) -> tuple[int, ...]:
        """The first pixel row of each row of windows."""
        return _starts(self.height, self.size, self.stride)

    @property
    def columns(self) -> tuple[int, ...]:
        """The first pixel column of each column of windows."""
        return _starts(self.width, self.size, self.stride)

    @property
    def exact(self) -> bool:
        """Whether the windows of the picture turned by 90 degrees are these windows, turned."""
        return all((length - self.size) % self.stride % 2 == 0 for length in (self.height, self.width))

    @property
    def covered(self) -> float:
        """The share of the picture's pixels that lie in a window, from 0 to 1; the rest nobody looks at."""
        shared = min(self.stride, self.size)
        rows, columns = ((len(starts) - 1) * shared + self.size for starts in (self.rows, self.columns))
        return rows * columns / (self.height * self.width)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def fitting_strides(self) -> tuple[int, ...]:
        """The strides nearest to this one that are exact: the next one below, if there is one, and the next above.

        None is larger than what the windows have to go, so that each leads to a second window.
        """
        way = min(self.height, self.width) - self.size
        below = (stride for stride in range(min(self.stride - 1, way), 0, -1))
        above = (stride for stride in range(self.stride + 1, way + 1))
        found = (next((s for s in strides if replace(self, stride=s).exact), None) for strides in (below, above))
        return tuple(stride for stride in found if stride is not None)


def windows_that_fit(height: int, width: int, size: int) -> Windows:
    """The windows of the stride nearest to the default one that is exact; of the default one, where that has far fewer.

    ``height``, ``width`` and ``size`` are those of :class:`Windows`, which says what is refused.
    """
    windows = Windows(height, width, size)
    if windows.exact:
        return windows
    near = [replace(windows, stride=stride) for stride in windows.fitting_strides()]
    near = [other for other in near if len(other) <= 4 * len(windows)]
    return min(near, key=lambda other: abs(other.stride - windows.stride), default=windows)


def _starts(length: int, size: int, stride: int) -> tuple[int, ...]:
    return tuple(range((length - size) % stride // 2, length - size + 1, stride))


def window_batches(picture: np.ndarray, windows: Windows, *, batch_size: int = 64) -> Iterator[Tensor]:
    """The windows row by row, ready for a network; only one batch of them is in memory at a time.

    Args:
        picture: (height, width, 3), uint8.

    Yields:
        (B, 3, size, size), float32, normalised.
    """
    if picture.dtype != np.uint8 or picture.shape != (windows.height, windows.width, 3):
        raise ValueError(
            f"the picture must be uint8 of shape ({windows.height}, {windows.width}, 3), got {picture.dtype} of {picture.shape}"
        )
    places = [(row, column) for row in windows.rows for column in windows.columns]
    for start in range(0, len(places), batch_size):
        cut = [
            picture[row : row + windows.size, column : column + windows.size]
            for row, column in places[start : start + batch_size]
        ]
        yield normalize(torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2))


def probability_map(
    model: Model,
    picture: np.ndarray,
    windows: Windows,
    *,
    batch_size: int = 64,
    normalized: bool = False,
    progress: Callable[[Iterator], Iterator] = iter,
) -> Tensor:
    """The probability of tumour in each window.

    Args:
        model: see :func:`equilib.equivariance.run_model`; two logits.
        picture: (height, width, 3), uint8.
        normalized: the model gives two probabilities instead.
        progress: wraps the iterator over batches, such as ``tqdm``.

    Returns:
        (rows of windows, columns of windows), float32; NaN where the model's answer is no finite number.
    """
    batches = progress(window_batches(picture, windows, batch_size=batch_size))
    logits = torch.cat([run_model(model, batch, batch_size=batch_size) for batch in batches])
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"two logits a window are needed, got shape {tuple(logits.shape)}")
    answered = logits[logits.isfinite().all(1)].double()
    if normalized and ((answered.sum(1) - 1).abs() > 0.01).any():  # in 8 bits they may miss it by a level or two
        raise ValueError("normalized=True says that the model gives probabilities, and their sums are not 1")
    # Each window by itself: of equal logits equal bits, wherever in a batch they stood.
    probabilities = torch.stack([(row if normalized else row.softmax(0))[1] for row in logits])
    probabilities[~logits.isfinite().all(1)] = float("nan")
    return probabilities.view(len(windows.rows), len(windows.columns))
