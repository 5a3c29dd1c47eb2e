"""How a command ends where its reader leaves early (``… | head``): quietly, with the status that a shell gives it.

``equilib`` and everything that is started as ``python -m equilib.…``, ``python experiments/…`` or ``python benchmarks/…``
goes through :func:`until_closed`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# As the shell reports a program that was ended by a reader that closed the pipe, and one that was told to end.
PIPE_CLOSED, TERMINATED = 141, 143
INTERRUPTED = 130  # and one that was ended by Ctrl-C


def until_closed(command: Callable[..., int | None], *arguments: object) -> int:
    """Run a command; returns its exit status (None counts as 0), 141 where nobody reads its output any more, 130 after Ctrl-C.

    What a user can cause is one sentence and status 1 (:func:`equilib.__main__.explain`); a bug is raised.  A command that
    is told to end (SIGTERM) takes away what it was writing, like one that is interrupted.
    """
    # By default a process ends where it stands, and leaves half of a file behind.
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        return _until_closed(command, *arguments)
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(TERMINATED)


def _until_closed(command: Callable[..., int | None], *arguments: object) -> int:
    if sys.stderr is None:  # closed, as under some daemons; print() would write to the output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
    try:
        status = command(*arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe shows here, not after the end
        return status or 0
    except KeyboardInterrupt:
        print(f"{_program()}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        abandon_output()
        return PIPE_CLOSED
    except Exception as error:
        from equilib.__main__ import BUG, explain

        words, failed = explain(error)
        if failed == BUG or "Traceback (most recent call last)" in str(error):  # of a notebook's cell
            raise
        print(f"{_program()}: {words}", file=sys.stderr)
        return failed


def _program() -> str:
    """The name that a script was started by, ``grid.py``; of ``python -m equilib.site`` it is ``equilib.site``."""
    path = Path(sys.argv[0])
    return f"equilib.{path.parent.name}" if path.name == "__main__.py" else path.name


def abandon_output() -> None:
    """Python writes what is left when it ends, and would complain a second time."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (AttributeError, OSError, ValueError):
            return
