"""Bars with an estimate, for what may take more than a few seconds: on a terminal, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Seconds before a bar appears.
PATIENCE = 1


def bar(items: Iterable | None = None, *, total: int | None = None, words: str, unit: str, shown: bool = True) -> Any:
    """A bar of tqdm: iterate over it, or call ``update``; it is silent where standard error is no terminal.

    Args:
        items: what is to be gone through.
        total: how many there are, for the estimate; by default the length of ``items``.
        words: what is done.
        unit: what one of them is.
        shown: False hides it everywhere.
    """
    from tqdm import tqdm

    # None: tqdm itself asks whether it writes to a terminal.  Its line is cleared at the end.
    return tqdm(items, total=total, desc=words, unit=unit, disable=None if shown else True, delay=PATIENCE, leave=False)
