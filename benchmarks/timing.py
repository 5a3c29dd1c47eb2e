"""Interleaved timing, under a bar: what it draws stands between the clock's readings, not in them; where and when it was."""

from __future__ import annotations

import gc
import statistics
import time

from equilib.progress import bar
from equilib.results import environment


def where_and_when() -> dict[str, str]:
    """The machine, its versions and the day, of figures measured on one thread.

    To be asked once, before anything is saved: a saved file would make the checkout another revision.
    """
    return environment() | {"threads": "1", "date": time.strftime("%Y-%m-%d")}


def interleaved(cases: dict, repeats: int, *, calls: int = 1, clock=time.perf_counter, words: str = "timing") -> dict:
    """Median seconds of each callable.

    Args:
        cases: name to callable.
        calls: in a row, of which the mean counts: short ones would measure what ran before them.
        words: what is timed, for the bar.
        clock: by default the time that passes; ``time.process_time`` is disturbed less by other programs.

    Every round runs every case once, so that a slow spell of the machine meets all of them; the first round warms up and
    does not count.
    """
    seconds = {name: [] for name in cases}
    with bar(total=(repeats + 1) * len(cases), words=words, unit="case") as watched:
        for round_number in range(repeats + 1):
            gc.collect()  # between rounds: with many networks in memory it takes longer than a call
            for name, run in cases.items():
                start = clock()
                for _ in range(calls):
                    run()
                if round_number:
                    seconds[name].append((clock() - start) / calls)
                watched.update()
    return {name: statistics.median(values) for name, values in seconds.items()}
