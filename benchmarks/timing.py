"""What all benchmarks share: interleaved timing, fresh processes, and a description of the machine."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
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


def in_fresh_process(code: str) -> dict:
    """Run Python code in a process of its own; it prints one JSON object as its last line."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])
