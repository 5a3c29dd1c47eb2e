"""What two options gain in a training step: glibc's allocator as `equilib train` sets it, and `--precision bf16-mixed`.

    python benchmarks/step_options.py measure [--quick] [--beside]
    python benchmarks/step_options.py tables     measure nothing, write the saved figures' tables

One thread, 32 patches a step.  The allocator is set when a process starts, so each measurement is a process of its own, and
all of a round run one after another; medians over the rounds of processor time.  Figures go to
benchmarks/step_options.json, under the processor's name beside those of others, the tables to benchmarks/README.md.
`--beside`: other programs run meanwhile, and the table says so.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from statistics import median

from fresh import in_fresh_process
from options import measure_or_tables
from timing import where_and_when
from training_step import BATCH

from equilib import marks
from equilib.cli.allocator import TUNABLES, VARIABLE
from equilib.cli.process import until_closed
from equilib.progress import bar
from equilib.results import bfloat16_instructions, markdown_table, read_results, write_json

HERE = Path(__file__).parent
SAVED, README = HERE / "step_options.json", HERE / "README.md"
# Names of benchmarks/networks.py, width, group; channels in multiples of 24.
CASES = (
    ("conventional", 0.35, "C4"),
    ("strict", 0.35, "C4"),
    ("field-wise", 0.35, "C4"),
    ("field-wise", 0.35, "C12"),
    ("conventional", 1.0, "C4"),
    ("strict", 1.0, "C4"),
)
PRECISIONS = ("float32", "bfloat16")
ALLOCATORS = {"as the system sets it": "", "as `equilib train` sets it": TUNABLES}


def title(case: tuple[str, float, str]) -> str:
    """A case in a row of the table."""
    variant, width, group = case
    return f"{variant}{'' if variant == 'conventional' else f', {group}'}, width {width}"


def choices() -> list[tuple[str, str]]:
    """The (precision, allocator) that this machine has: bfloat16 where the processor multiplies it, glibc's settings with it."""
    precisions = PRECISIONS if bfloat16_instructions() else PRECISIONS[:1]
    allocators = list(ALLOCATORS) if platform.libc_ver()[0] == "glibc" else list(ALLOCATORS)[:1]
    return [(precision, allocator) for precision in precisions for allocator in allocators]


def measure(rounds: int, cases=CASES) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of a step by case, precision and allocator."""
    found: dict = {}
    runs = [(case, *choice) for _ in range(rounds) for case in cases for choice in choices()]
    for case, precision, allocator in bar(runs, words="training steps", unit="process"):
        tuned = os.environ | {VARIABLE: ALLOCATORS[allocator]}
        seconds = in_fresh_process("step", *case, precision, environment=tuned)["seconds"]
        found.setdefault(title(case), {}).setdefault(precision, {}).setdefault(allocator, []).append(seconds)
    return {
        name: {
            precision: {allocator: round(median(values), 4) for allocator, values in row.items()}
            for precision, row in precisions.items()
        }
        for name, precisions in found.items()
    }


def table(one: dict) -> str:
    """Of one processor: seconds, and how many times those of float32 with the allocator as it is."""
    rows = []
    for name, precisions in one["seconds"].items():
        reference = next(iter(precisions["float32"].values()))
        cells = {
            f"{precision}, allocator {allocator}": f"{seconds:.2f} s (×{seconds / reference:.2f})"
            for precision, row in precisions.items()
            for allocator, seconds in row.items()
        }
        rows.append({f"a step of {BATCH} patches": name} | cells)
    where = one["environment"]
    words = [where["processor"], where["instructions"], one["bfloat16"] or "no instructions for bfloat16"]
    words += [f"revision {where['revision']}", where["date"], *one.get("notes", [])]
    return f"{', '.join(words)}.\n\n{markdown_table(rows)}\n\n{gains(one['seconds'])}".rstrip()


def gains(seconds: dict) -> str:
    """In words, what each option takes off a step: the allocator of float32, bfloat16 of what is left then."""
    usual, tuned = ALLOCATORS
    float32, bfloat16 = PRECISIONS

    def span(taken: dict[str, float]) -> str:
        least, most = min(taken, key=taken.get), max(taken, key=taken.get)
        return f"{100 * taken[least]:.0f} % ({least}) to {100 * taken[most]:.0f} % ({most})"

    parts = []
    if all(tuned in row[float32] for row in seconds.values()):
        taken = {name: 1 - row[float32][tuned] / row[float32][usual] for name, row in seconds.items()}
        parts.append(f"The allocator shortens a step in float32 by {span(taken)}.")
    with_it = tuned if parts else usual
    if all(bfloat16 in row for row in seconds.values()):
        taken = {name: 1 - row[bfloat16][with_it] / row[float32][with_it] for name, row in seconds.items()}
        parts.append(
            f"{'With it, bfloat16' if parts else 'Bfloat16'} shortens it by {span(taken)}; below 0 it takes longer."
        )
    return " ".join(parts)


def page(saved: dict) -> str:
    """The tables of all processors that were measured."""
    return "\n\n".join(table(one) for one in saved.values())


def main() -> None:
    options = measure_or_tables(__doc__, "one network, one round; nothing is saved")
    if options.command == "measure":
        here = where_and_when()
        one = {"environment": here, "bfloat16": bfloat16_instructions()}
        one |= {"seconds": measure(1, CASES[:1]) if options.quick else measure(3)}
        one |= {"notes": ["beside other programs"]} if options.beside else {}
        if options.quick:
            print(table(one))
            return
        saved = read_results(SAVED) if SAVED.exists() else {}
        write_json(SAVED, saved | {f"{here['processor']}, {one['bfloat16'] or 'no bfloat16'}": one})
    marks.write("step options", page(read_results(SAVED)), README)
    print(f"figures: {SAVED}; tables: {README}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
