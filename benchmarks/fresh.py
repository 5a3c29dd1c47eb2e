"""Measurements that need a process of their own: `python benchmarks/fresh.py PART NETWORK WIDTH GROUP [PRECISION]` prints JSON.

Memory is a maximum over the life of a process, and an import happens once in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def in_fresh_process(
    part: str,
    network: str,
    width: float,
    group: str,
    precision: str = "float32",
    *,
    environment: Mapping[str, str] | None = None,
) -> dict:
    """What this file prints of a part, ``"memory"``, ``"family"``, ``"construction"`` or ``"step"``, run by itself."""
    command = [sys.executable, __file__, part, network, str(width), group, precision]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The largest resident set of this process so far; Windows is not asked."""
    if not Path("/proc/self/status").is_file():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, as macOS counts
    # On Linux getrusage's figure would include the parent's.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def memory(variant: str, width: float, group: str, precision: str) -> dict[str, float]:
    """Growth of the resident set by training, over that of a process that has only imported everything."""
    import torch
    from training_step import training_step

    torch.set_num_threads(1)
    before = peak_mib()
    step = training_step(variant, width, group, precision)
    for _ in range(3):
        step()
    return {"mib": peak_mib() - before}


def step(variant: str, width: float, group: str, precision: str) -> dict[str, float]:
    """Seconds of processor time of a training step, once memory and optimizer are there."""
    import torch
    from timing import interleaved
    from training_step import training_step

    torch.set_num_threads(1)
    run = training_step(variant, width, group, precision)
    run()
    return {"seconds": interleaved({"step": run}, 5, clock=time.process_time)["step"]}


def family(label: str, width: float, group: str, precision: str) -> dict[str, float]:
    """The same for a network of benchmarks/families.py, by its name there."""
    import families
    import torch
    from training_step import batch, step_of

    from equilib.mobilenet import build
    from equilib.runs import ARCHITECTURES

    torch.set_num_threads(1)
    (variant,) = [one for one in families.VARIANTS if one.timed_as == label]
    config = ARCHITECTURES[variant.family](**variant.architecture)
    before = peak_mib()
    step = step_of(build(variant.kind, config), *batch(label, config.input_size), precision)
    for _ in range(3):
        step()
    return {"mib": peak_mib() - before}


def construction(kind: str, width: float, group: str, precision: str) -> dict[str, float]:
    """Seconds to import the package, and to build a network once its layers are imported."""
    start = time.perf_counter()
    import equilib  # noqa: F401

    package = time.perf_counter() - start
    import equilib.layers  # noqa: F401
    from equilib.mobilenet import MobileNetConfig, build

    config = MobileNetConfig(width=width, group=group, depthwise="strict")
    start = time.perf_counter()
    build(kind, config)
    return {"import equilib": package, "build": time.perf_counter() - start}


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit("fresh.py is what speed.py, families.py and step_options.py start for each row; start those")
    name, network, width, group, precision = sys.argv[1:]
    parts = {"memory": memory, "family": family, "construction": construction, "step": step}
    measured = parts[name](network, float(width), group, precision)
    print(json.dumps(measured))
