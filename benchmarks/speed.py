"""Speed and memory, side by side: `python benchmarks/speed.py measure` (`make bench`) saves figures and writes README.md.

    python benchmarks/speed.py measure [--only PART …]    measure these anew, keep the others with their machine
    python benchmarks/speed.py measure --short            few repeats, and not what takes a process each: some minutes
    python benchmarks/speed.py measure --quick            each part once at the smallest size, to see that it works
    python benchmarks/speed.py tables                     measure nothing, write the saved figures' tables

Everything runs on one thread, interleaved, and medians of processor time are given, which other programs disturb less than
the time that passes.  What counts is the ratios: absolute times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from data_path import data_path
from fresh import in_fresh_process
from networks import DIVISOR, OURS, VARIANTS, network
from redraw import redraw
from speed_tables import tables
from timing import interleaved
from training_step import BATCH, batch, training_step

from equilib import device, dfq, int8, marks
from equilib.cli.process import until_closed
from equilib.compat import WARNING
from equilib.mobilenet import KINDS, exported
from equilib.pcam import input_range
from equilib.progress import bar
from equilib.results import bfloat16_instructions, environment, written_whole

HERE = Path(__file__).parent
SAVED, README = HERE / "latest.json", HERE / "README.md"


# Repeats at width 0.35 and 1.0; to see that it works, one at the smallest size.
PACES = {"full": (15, 7), "short": (3, 3), "quick": (1,)}


def settings(pace: str) -> list[tuple[float, str, int]]:
    """Width, group, repeats."""
    if pace == "quick":
        return [(0.35, "C4", 1)]
    return [(width, group, repeats) for width, repeats in zip((0.35, 1.0), PACES[pace]) for group in ("C4", "C12")]


def precisions() -> list[tuple[str, tuple[str, ...]]]:
    """What networks are trained in, and which: bfloat16 under autocast only where the processor multiplies it."""
    return [("float32", VARIANTS)] + [("bfloat16", tuple(OURS))] * bool(bfloat16_instructions())


def against_conventional(seconds: dict[str, float]) -> dict:
    return {name: value / seconds["conventional"] for name, value in seconds.items()}


def training(pace: str) -> list[dict]:
    rows = []
    for width, group, repeats in settings(pace):
        for precision, variants in precisions():
            cases = {variant: training_step(variant, width, group, precision) for variant in variants}
            words = f"training, width {width}, {group}, {precision}"
            seconds = interleaved(cases, repeats, clock=time.process_time, words=words)
            row = {"width": width, "group": group, "precision": precision, "seconds": seconds}
            rows.append(row | {"ratio": against_conventional(seconds)})
    return rows


def inference(pace: str) -> list[dict]:
    rows = []
    for width, group, repeats in settings(pace):
        nets = {variant: network(variant, width, group).eval() for variant in VARIANTS}
        # What is run in the end is the export: plain modules, for both networks.
        nets |= {name: exported(nets[name]) for name in ("conventional", "conventional, grouped")}
        nets |= {f"{name}, exported": exported(nets[name]) for name in ("strict", "field-wise")}

        def runner(name, net):
            images, _ = batch(name)

            def run():
                with torch.no_grad():
                    net(images)

            return run

        cases = {name: runner(name, net) for name, net in nets.items()}
        words = f"inference, width {width}, {group}"
        seconds = interleaved(cases, repeats, clock=time.process_time, words=words)
        rows.append({"width": width, "group": group, "seconds": seconds, "ratio": against_conventional(seconds)})
    return rows


def memory(pace: str) -> list[dict]:
    """Growth of the resident set over that of a process that has only imported everything."""
    rows = []
    for width, group, _ in bar(settings(pace), words="memory", unit="setting"):
        for precision, variants in precisions():
            options = (width, group, precision)
            mib = {variant: in_fresh_process("memory", variant, *options)["mib"] for variant in variants}
            row = {"width": width, "group": group, "precision": precision, "mib": mib}
            rows.append(row | {"ratio": against_conventional(mib)})
    return rows


def construction(pace: str) -> list[dict]:
    rows = []
    for width, group, _ in bar(settings(pace), words="construction", unit="setting"):
        for kind in KINDS:
            runs = [in_fresh_process("construction", kind, width, group) for _ in range(1 if pace == "quick" else 3)]
            medians = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
            rows.append({"width": width, "group": group, "kind": kind, "seconds": medians})
    return rows


def deployment(pace: str) -> list[dict]:
    """Equalization, export, size of the files, and latency in onnxruntime."""
    rows = []
    for width, group, repeats in settings(pace):
        sessions, row = {}, {"width": width, "group": group, "size_mb": {}, "seconds": {}, "latency_ms": {}}
        with tempfile.TemporaryDirectory() as folder:
            for kind in bar(OURS, words=f"exports, width {width}, {group}", unit="network"):
                plain = exported(network(kind, width, group))
                start = time.perf_counter()
                equalized = dfq.absorb_high_bias(dfq.equalize(dfq.fold_batch_norm(plain))[0])[0]
                row["seconds"][f"{kind}, equalize and absorb"] = time.perf_counter() - start
                for name, model in (("FP32", plain), ("INT8", int8.quantize(equalized, input_range()))):
                    start = time.perf_counter()
                    path = device.export_onnx(model, Path(folder) / f"{kind}_{name}.onnx", 95)
                    row["seconds"][f"{kind}, {name} export"] = time.perf_counter() - start
                    row["size_mb"][f"{kind}, {name}"] = path.stat().st_size / 1e6
                    sessions[f"{kind}, {name}"] = {n: device.session(path, batch=n) for n in (1, BATCH)}
            for size in (1, BATCH):
                images = np.random.default_rng(0).normal(size=(size, 3, 95, 95)).astype(np.float32)
                cases = {
                    name: lambda session=by_batch[size], images=images: session.run(None, {"images": images})
                    for name, by_batch in sessions.items()
                }
                rounds, calls = (1, 1) if pace == "quick" else (2 * repeats, 4 if size == 1 else 1)
                words = f"latency, width {width}, {group}, batch {size}"
                seconds = interleaved(cases, rounds, calls=calls, clock=time.process_time, words=words)
                row["latency_ms"][str(size)] = {name: 1000 * value for name, value in seconds.items()}
        rows.append(row)
    return rows


# Each takes the pace and gives rows; data_path also takes the seconds of a training step.
PARTS: dict[str, Callable[..., list[dict]]] = {
    "training": training,
    "inference": inference,
    "memory": memory,
    "construction": construction,
    "deployment": deployment,
    "data_path": lambda pace, step: data_path(pace == "quick", step),
    "redraw": lambda pace: redraw(pace == "quick"),
}
ALONE = ("memory", "construction")  # these take a process for each figure, and so most of the time


def measure(names: Sequence[str], pace: str) -> dict:
    """The saved figures, with these parts measured anew; all of them anew where all are named."""
    torch.set_num_threads(1)
    results = json.loads(SAVED.read_text()) if set(names) != set(PARTS) else {}
    here = {"date": time.strftime("%Y-%m-%d"), "environment": environment() | {"threads": "1"}}
    here |= {"notes": ["few repeats"]} if pace == "short" else {}
    # fresh.py's construction builds the configuration's default channels.
    results["measured"] = results.get("measured", {}) | {
        name: here | ({} if name == "construction" else {"divisor": DIVISOR}) for name in names
    }
    watched = bar(names, words="all parts", unit="part")
    for name in watched:
        start = time.perf_counter()
        step = [results["training"][0]["seconds"]["conventional"]] if name == "data_path" else []
        results[name] = PARTS[name](pace, *step)
        watched.write(f"{name}: {time.perf_counter() - start:.0f} s")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "tables", help="measure nothing; print the tables of the saved figures, renew benchmarks/README.md"
    )
    command = commands.add_parser("measure", help="measure, save the figures, renew benchmarks/README.md")
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--quick", action="store_true", help="one repeat at the smallest size; nothing is saved")
    pace.add_argument(
        "--short",
        action="store_true",
        help=f"the same rows with few repeats, without {' and '.join(ALONE)} unless --only names them; the tables say so",
    )
    command.add_argument("--only", nargs="+", choices=PARTS, help="these, the others stay")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=WARNING)  # e2cnn's, at construction
    anew = options.command == "measure"
    if anew:
        pace = "quick" if options.quick else "short" if options.short else "full"
        without = ALONE if pace == "short" else ()
        results = measure(options.only or [name for name in PARTS if name not in without], pace)
    else:
        results = json.loads(SAVED.read_text())
    print(tables(results))
    if anew and options.quick:
        return
    if anew:
        with written_whole(SAVED) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    marks.write("make bench", tables(results), README)
    print(f"figures: {SAVED}; tables: {README}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
