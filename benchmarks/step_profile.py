"""Where the time of a training step goes: each network beside the one that it is compared with, by kind of operator.

    python benchmarks/step_profile.py measure [--quick] [--beside]
    python benchmarks/step_profile.py tables     measure nothing, write the saved figures' table

One thread, torch's profiler, 32 patches a step: medians of each kind's own time over interleaved steps.  The profiler costs
a little itself, so the sums are above those of `families.py`; what counts is which kind makes the difference.  Figures go to
benchmarks/step_profile.json, the table to benchmarks/README.md.  `--beside`: other programs run meanwhile, and the table
says so.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from families import STEP_PAIRS, VARIANTS, short
from options import measure_or_tables
from timing import where_and_when
from torch.profiler import ProfilerActivity, profile
from training_step import batch, step_of

from equilib import marks
from equilib.cli.process import until_closed
from equilib.mobilenet import build
from equilib.progress import bar
from equilib.results import markdown_table, read_results, write_json
from equilib.runs import ARCHITECTURES

HERE = Path(__file__).parent
SAVED, README = HERE / "step_profile.json", HERE / "README.md"
PAIRS = tuple((short(VARIANTS[ours]), short(VARIANTS[theirs])) for ours, theirs in STEP_PAIRS)
# The first that is found in an operator's name; a convolution's backward pass is one operator for both gradients.
KINDS = {
    "convolutions": r"convolution|conv2d|mkldnn_conv",
    "normalization": r"batch_norm|NormalizeFields|addcmul",  # that over fields is addcmul and equilib's own function
    "optimizer": r"adam",
    "ReLU, residual sums": r"relu|clamp|threshold|aten::add",
    "layouts, copies": r"copy_|clone|contiguous|to_copy|aten::cat|aten::fill_|zero_|empty",
    "products of matrices, gathering": r"mm$|bmm|einsum|matmul|index|gather|linear",
}
OTHER = "all else"


def kind_of(operator: str) -> str:
    """The kind of an operator, by torch's name for it."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, operator, re.I)), OTHER)


def shares(step) -> dict[str, float]:
    """The own time of each kind of operator in one step, in milliseconds."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step()
    found: dict[str, float] = defaultdict(float)
    for event in watched.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1000
    return dict(found)


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """By network, by kind: the median over the rounds, in milliseconds."""
    torch.set_num_threads(1)
    variants = {short(variant): variant for variant in VARIANTS}
    steps = {}
    for name in dict.fromkeys(name for pair in PAIRS for name in pair):
        torch.manual_seed(0)
        config = ARCHITECTURES[variants[name].family](**variants[name].architecture)
        steps[name] = step_of(build(variants[name].kind, config), *batch(variants[name].timed_as, config.input_size))
        steps[name]()  # the first step makes the optimizer's state
    found = {name: [] for name in steps}
    for _ in bar(range(rounds), words="profiles of a step", unit="round"):
        for name, step in steps.items():
            found[name].append(shares(step))
    return {
        name: {kind: round(median(one.get(kind, 0.0) for one in rows), 2) for kind in (*KINDS, OTHER)}
        for name, rows in found.items()
    }


def table(saved: dict) -> str:
    """For each pair the two times of each kind, and the difference's make-up."""
    rows = []
    for ours, theirs in PAIRS:
        first, second = (saved["networks"][name] for name in (ours, theirs))
        cells = {kind: f"{first[kind]:.0f} − {second[kind]:.0f}" for kind in first}
        total, other = sum(first.values()), sum(second.values())
        cells |= {"together": f"{total:.0f} − {other:.0f} (×{total / other:.2f})"}
        rows.append({"ms a step": f"{ours} − {theirs}"} | cells)
    where = saved["environment"]
    words = [where["processor"], where["instructions"], f"revision {where['revision']}", where["date"]]
    return f"{', '.join(words + saved.get('notes', []))}.\n\n{markdown_table(rows)}"


def main() -> None:
    options = measure_or_tables(__doc__, "one round; nothing is saved")
    if options.command == "measure":
        here = where_and_when()
        saved = {"environment": here, "networks": measure(1 if options.quick else 9)}
        saved |= {"notes": ["beside other programs"]} if options.beside else {}
        if options.quick:
            print(table(saved))
            return
        write_json(SAVED, saved)
    marks.write("step profile", table(read_results(SAVED)), README)
    print(f"figures: {SAVED}; table: {README}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
