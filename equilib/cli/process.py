"""How a command ends where its reader leaves early (``… | head``): quietly, with the status that a shell gives it.

``equilib`` and everything that is started as ``python -m equilib.…``, ``python experiments/…`` or ``python benchmarks/…``
goes through :func:`until_closed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

PIPE_CLOSED = 141  # as the shell reports a program that was ended by a reader that closed the pipe


def until_closed(command: Callable[..., int | None], *arguments: object) -> int:
    """Run a command; returns its exit status (None counts as 0), or 141 where nobody reads its output any more."""
    try:
        status = command(*arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe shows here, not after the end
        return status or 0
    except BrokenPipeError:  # `| head` has seen enough
        abandon_output()
        return PIPE_CLOSED


def abandon_output() -> None:
    """Python writes what is left when it ends, and would complain a second time."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (AttributeError, OSError, ValueError):
            return
