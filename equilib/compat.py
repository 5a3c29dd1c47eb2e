"""What e2cnn 0.2.3, written for numpy 1 and an older torch, needs beside today's: all of it stands here.

``tests/test_compat.py`` fails as soon as e2cnn works without one of these, and says which; then it can go.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# e2cnn marks with bytes what torch wants marked with booleans.  Where a filter bank has one filter torch refuses
# (:func:`refused`), elsewhere it warns, with these words.
WARNING = "indexing with dtype torch.uint8"

# For ``R2Conv``: e2cnn's own cache hashes dihedral bases with ndarray.tostring, which numpy 2.3 dropped.
WITHOUT_CACHE = {"recompute": True}


class NumPyWithLenientCopy:
    """numpy, where ``array(x, copy=False)`` copies when it must, as it did before numpy 2."""

    array = staticmethod(lambda values, copy=False: np.asarray(values))

    def __getattr__(self, name):
        return getattr(np, name)


@contextmanager
def e2cnn_on_numpy_2() -> Iterator[None]:
    """Let e2cnn build dihedral bases, and keep it from warning of its masks."""
    from e2cnn.kernels import utils

    original, utils.np = utils.np, NumPyWithLenientCopy()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=WARNING, category=UserWarning)
            yield
    finally:
        utils.np = original


def refused(in_repr: str, out_repr: str, order: int, kernel_size: int) -> bool:
    """Whether e2cnn cannot build this basis («masked_fill_ only supports boolean masks»): it holds a single filter.

    Args:
        in_repr, out_repr: ``"trivial"`` or ``"regular"``.
        order: of the group.
        kernel_size: of the filter, in pixels.
    """
    return kernel_size == 1 and ("trivial" in (in_repr, out_repr) or order == 1)
