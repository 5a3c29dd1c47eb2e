"""The DenseNet beside MobileNetV2: parameters, multiply-accumulates, files, latency, and what a step of training takes.

    python benchmarks/families.py [--quick] [--only-memory] [--only-ratios] [--save]

Fresh networks with random weights, which take the same time as trained ones: one thread, interleaved.  Medians of
processor time, which other programs disturb less than they do the time that passes; what counts is the ratios.  Memory is
that of a process of its own.  `--save` keeps the figures in results/families.json and renews the table in
benchmarks/README.md; with `--only-memory` the times stay, and the machine that they were measured on; with `--only-ratios`
all of them stay, and the table of aims has this processor's ratios beside those of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fresh import in_fresh_process
from timing import interleaved, where_and_when
from training_step import BATCH, batch, step_of

from equilib import device, marks
from equilib.cli.process import until_closed
from equilib.deploy import deploy
from equilib.equivariance import run_model
from equilib.mobilenet import build, count_costs, count_parameters, estimate_statistics, exported
from equilib.progress import bar
from equilib.results import markdown_table, write_json
from equilib.runs import ARCHITECTURES
from equilib.variant import Variant

HERE = Path(__file__).parent
SAVED, README = HERE.parent / "results" / "families.json", HERE / "README.md"
MAIN_README = HERE.parent / "README.md"
VARIANTS = (
    Variant("conventional", divisor=24),
    Variant("equivariant", "C4", "fieldwise", divisor=24),
    Variant("equivariant", "C12", "fieldwise", divisor=24),
    Variant("equivariant", "C4", "strict", divisor=24),
    Variant("conventional", "C4", "grouped", divisor=24),
    Variant("conventional", "C12", "grouped", divisor=24),
    Variant.densenet("conventional", 24),
    Variant.densenet("conventional", 64),
    Variant.densenet("equivariant", 64),
)
BATCHES = {1: 8, 32: 1}  # patches at once, and calls in a row: before a short call, what ran last counts


def networks(folder: Path) -> dict[str, dict]:
    """Of each variant the network, its figures that need no clock, and its sessions in both precisions."""
    found = {}
    for variant in bar(VARIANTS, words="exports", unit="network"):
        torch.manual_seed(0)
        config = ARCHITECTURES[variant.family](**variant.architecture)
        size = config.input_size
        network = estimate_statistics(build(variant.kind, config), torch.randn(8, 3, size, size))
        plain = exported(network)
        fp32 = device.export_onnx(plain, folder / f"{variant.slug}_fp32.onnx", size)
        int8 = deploy(network, folder / f"{variant.slug}_int8.onnx").onnx
        figures = {
            "input": size,
            "parameters": count_parameters(network),
            "macs": sum(layer.macs for layer in count_costs(plain, size)),
            "bytes": {"FP32": fp32.stat().st_size, "INT8": int8.stat().st_size},
        }
        files = {"FP32": fp32, "INT8": int8}
        sessions = {key: {n: device.session(path, batch=n) for n in BATCHES} for key, path in files.items()}
        found[variant.timed_as] = {"network": network, "figures": figures, "sessions": sessions}
    return found


def measure(quick: bool) -> dict[str, dict]:
    """All figures, by the name of the network."""
    with TemporaryDirectory() as folder:
        found = networks(Path(folder))
        latency = {}
        for patches, calls in BATCHES.items():
            cases = {}
            for label, one in found.items():
                size = one["figures"]["input"]
                images = torch.randn(patches, 3, size, size, generator=torch.Generator().manual_seed(0))
                for precision, sessions in one["sessions"].items():
                    run = lambda session=sessions[patches], images=images: run_model(session, images)  # noqa: E731
                    cases[label, precision, patches] = run
            rounds, calls, words = 1 if quick else 7, 1 if quick else calls, f"latency, batch {patches}"
            latency |= interleaved(cases, rounds, calls=calls, clock=time.process_time, words=words)
        steps = {label: step_of(one["network"], *batch(label, one["figures"]["input"])) for label, one in found.items()}
        step = interleaved(steps, 1 if quick else 5, clock=time.process_time, words="steps of training")
    result = {}
    for label, one in found.items():
        times = {
            precision: {str(patches): round(1000 * latency[label, precision, patches], 3) for patches in BATCHES}
            for precision in one["sessions"]
        }
        result[label] = one["figures"] | {"ms": times, "step_seconds": round(step[label], 4)}
    return result


def memory() -> dict[str, float]:
    """The memory of three training steps of each network, in MiB, by its name."""
    return {
        variant.timed_as: round(in_fresh_process("family", variant.timed_as, variant.width, variant.group)["mib"], 1)
        for variant in VARIANTS
    }


def table(saved: dict) -> str:
    """The saved figures, and where they were measured."""
    rows = []
    for label, one in saved["networks"].items():
        rows.append(
            {
                "network": label,
                "input": str(one["input"]),
                "parameters": f"{one['parameters']:,}",
                "MACs [millions]": f"{one['macs'] / 1e6:.0f}",
                "file, FP32 → INT8 [MB]": f"{one['bytes']['FP32'] / 1e6:.2f} → {one['bytes']['INT8'] / 1e6:.2f}",
                **{
                    f"batch {batch}, FP32 → INT8 [ms]": " → ".join(f"{ms[str(batch)]:.1f}" for ms in one["ms"].values())
                    for batch in BATCHES
                },
                f"training step, {BATCH} patches [s]": f"{one['step_seconds']:.2f}",
                "memory of training [MiB]": f"{one['step_mib']:.0f}",
            }
        )
    machine = ", ".join(f"{key} {value}" for key, value in saved["environment"].items())
    apart = "; ".join(f"{key} {value}" for key, value in saved["memory"].items())
    return (
        f"{markdown_table(rows)}\n\n{markdown_table(against_limits(saved))}\n\nMeasured on: {machine}. Memory: {apart}."
    )


# What the project aims at: at most so many times the time of a network of the same channels, both by their place in VARIANTS.
STEP_LIMIT, STEP_PAIRS = 1.05, ((3, 0), (1, 4), (2, 5))
LATENCY_LIMIT, LATENCY_PAIRS = 2.0, ((1, 0), (2, 0))


def short(variant: Variant) -> str:
    """The name of a MobileNetV2 among those of one width."""
    return variant.timed_as.partition(" MobileNetV2")[0]


def ratios(measured: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Of networks of the same channels: what is divided, and of which times; by the name of each network its figures."""
    found: dict = {}
    for pair in STEP_PAIRS:
        first, second = (measured[VARIANTS[index].timed_as]["step_seconds"] for index in pair)
        found.setdefault(_title(pair), {})["a training step"] = round(first / second, 3)
    for pair in LATENCY_PAIRS:
        for patches in map(str, BATCHES):
            first, second = (measured[VARIANTS[index].timed_as]["ms"]["INT8"][patches] for index in pair)
            found.setdefault(_title(pair), {})[f"INT8, batch {patches}"] = round(first / second, 3)
    return found


def _title(pair: tuple[int, int]) -> str:
    return " / ".join(short(VARIANTS[index]) for index in pair)


def against_limits(saved: dict) -> list[dict[str, str]]:
    """The ratios on each processor, beside what is aimed at, met or not."""
    machines = {_machine(saved["environment"]): ratios(saved["networks"])}
    machines |= {_machine(one["environment"]): one["ratios"] for one in saved.get("elsewhere", {}).values()}
    rows = []
    for title, kinds in next(iter(machines.values())).items():
        for of in kinds:
            limit = STEP_LIMIT if of == "a training step" else LATENCY_LIMIT
            cells = {
                f"{machine}; met": f"×{found[title][of]:.2f}; {'yes' if found[title][of] <= limit else 'no'}"
                for machine, found in machines.items()
            }
            rows.append({"ratio": title, "of": of, "aim": f"≤ ×{limit:g}"} | cells)
    return rows


def _machine(where: dict[str, str]) -> str:
    return f"{where['processor']}, {where['date']}"


def cost(saved: dict) -> str:
    """What training the paper's network takes beside the conventional one of its channels, in a sentence."""
    conventional, paper = (saved["networks"][variant.timed_as] for variant in (VARIANTS[0], VARIANTS[2]))
    seconds, mib = ([one[key] for one in (paper, conventional)] for key in ("step_seconds", "step_mib"))
    return (
        f"A step of {BATCH} patches, field-wise C12 against the conventional network of its channels: {seconds[0]:.2f} against "
        f"{seconds[1]:.2f} s of one thread, {mib[0]:.0f} against {mib[1]:.0f} MiB "
        "([more](benchmarks/README.md#densenet-and-mobilenetv2))."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each once, to see that it works")
    parser.add_argument("--only-memory", action="store_true", help="measure the memory anew, keep the saved times")
    parser.add_argument("--save", action="store_true", help="keep the figures and renew the README's table")
    parser.add_argument("--only-ratios", action="store_true", help="add this processor's ratios to the saved figures")
    options = parser.parse_args()
    if options.only_memory and options.only_ratios:
        parser.error("give one of --only-memory and --only-ratios")
    torch.set_num_threads(1)
    here = where_and_when()
    saved = json.loads(SAVED.read_text())
    if options.only_ratios:
        if here["processor"] == saved["environment"]["processor"]:
            parser.error(f"the saved figures are this processor's own ({here['processor']}): leave --only-ratios away")
        one = {"environment": here, "ratios": ratios(measure(options.quick))}
        saved.setdefault("elsewhere", {})[here["processor"]] = one
    elif not options.only_memory:
        saved |= {"environment": here, "networks": measure(options.quick)}
        saved.get("elsewhere", {}).pop(here["processor"], None)
    if not options.only_ratios:
        saved["memory"] = {key: here[key] for key in ("revision", "machine", "torch", "date")}
        for label, mib in memory().items():
            saved["networks"][label]["step_mib"] = mib
    print(table(saved))
    if options.save:
        write_json(SAVED, saved)
        marks.write("families", table(saved), README)
        marks.write("cost", cost(saved), MAIN_README)
        print(f"figures: {SAVED}; tables: {README}, {MAIN_README}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
