"""Interleaved timing."""

from __future__ import annotations

import gc
import statistics
import time


def interleaved(cases: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each callable.

    Every round runs every case once, so that a slow spell of the machine meets all of them; the first round warms up and
    does not count.
    """
    seconds = {name: [] for name in cases}
    for round_number in range(repeats + 1):
        for name, run in cases.items():
            gc.collect()
            start = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
