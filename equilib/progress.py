"""Bars with an estimate, for what may take more than a few seconds: on a terminal or in a notebook, and nowhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any

# Seconds before a bar appears.
PATIENCE = 1
# Seconds between two pictures of it, and its characters in a notebook.
INTERVAL, WIDTH = 0.2, 100


def bar(
    items: Iterable | None = None,
    *,
    total: int | None = None,
    done: int = 0,
    words: str,
    unit: str,
    shown: bool = True,
) -> Any:
    """A bar of tqdm: iterate over it, or call ``update``; it is silent where standard error is no terminal.

    In a notebook it is a line of text under the cell, which needs no widget and is gone when the work is done.

    Args:
        items: what is to be gone through.
        total: how many there are, for the estimate; by default the length of ``items``.
        done: how many of them an earlier start has done, which say nothing of the pace of this one.
        words: what is done.
        unit: what one of them is.
        shown: False hides it everywhere.
    """
    from tqdm import tqdm

    # The estimate is from the mean pace, and every item asks for a new picture: items differ, and a slow one may follow on
    # ten fast ones.  The line is cleared at the end.
    settings = dict(total=total, initial=done, desc=words, unit=unit, leave=False)
    settings |= dict(smoothing=0, miniters=1, mininterval=INTERVAL, delay=PATIENCE)
    if shown and in_notebook():
        return tqdm(items, file=CellLine(), ncols=WIDTH, **settings)
    # None: tqdm itself asks whether it writes to a terminal.
    return tqdm(items, disable=None if shown else True, **settings)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class CellLine(io.TextIOBase):
    """The last line that tqdm wrote, as an output of the cell that changes in place."""

    encoding = "utf-8"  # or tqdm draws its bar with number signs

    def __init__(self):
        self._output = None

    def write(self, text: str) -> int:
        if "\r" in text:  # the rest moves between the lines of a terminal
            self._show({"text/plain": text.rpartition("\r")[2].strip()})
        return len(text)

    def _show(self, data: dict[str, str]) -> None:
        from IPython.display import display

        if self._output is None:
            self._output = display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)
