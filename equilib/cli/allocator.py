"""glibc's allocator, set for training: large pages, and memory that is kept for the next step instead of given back.

A training step asks for the same large tensors again and again.  By default glibc maps fresh pages for each of them, and the
system clears every page at its first use.  ``GLIBC_TUNABLES`` is read when a process starts, so the command starts anew.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
TRAINS = ("train", "compare")


def tuned(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment to start the command in; None where it stays as it is.

    It stays where nothing is trained, where the user has set the variable (to nothing, too), and without glibc.
    """
    trains = next((word for word in arguments if not word.startswith("-")), None) in TRAINS
    if not trains or VARIABLE in environment or platform.libc_ver()[0] != "glibc":
        return None
    return {**environment, VARIABLE: TUNABLES}


def start_tuned(arguments: Sequence[str]) -> None:
    """Replace this process by one with a tuned allocator, once, where :func:`tuned` says so."""
    environment = tuned(arguments, os.environ)
    if environment is not None:
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, environment)
