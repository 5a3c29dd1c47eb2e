"""Every shipped network in every runtime, one table: `python benchmarks/runtimes.py measure` (part of `make bench`).

    python benchmarks/runtimes.py measure [--only latency] [--runtimes node …] [--networks NAME …] [--data FOLDER]
    python benchmarks/runtimes.py tables     measure nothing, write the saved figures' table

Two parts: `answers` (logits on all test patches under four quarter turns, peak memory; a process of its own each) takes an
hour with all runtimes, and does not mind other programs; `latency` takes minutes, and does.  Whatever is not asked for keeps
its figures and the machine that they are from; of runtimes that are missing the table says how to get them.  Figures go to
results/runtimes.json, the table to benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import arm
import numpy as np
import torch
import wasm
from one_runtime import load
from runtime_tables import short_table, tables
from timing import interleaved, where_and_when

from equilib import device, marks, pte
from equilib.budget import current_budget
from equilib.cli.options import count
from equilib.cli.process import until_closed
from equilib.deploy import deploy
from equilib.doctor import BROWSERS
from equilib.live import SIZE, describe
from equilib.mobilenet import exported
from equilib.pcam import PUBLISHED_SIZES, Patches, crop, normalize
from equilib.progress import bar
from equilib.results import read_results, shipped_checkpoint, shipped_int8, shipped_results, write_json
from equilib.runtimes import LABELS, RUNTIMES
from equilib.synthetic import cache_root, ensure_dataset
from equilib.training import shipped_network

HERE = Path(__file__).parent
SAVED, README = HERE.parent / "results" / "runtimes.json", HERE / "README.md"
MAIN_README = HERE.parent / "README.md"
BY_PYTHON = ("onnxruntime", "openvino", "executorch")
EMULATED = "onnxruntime on Arm"
NAMES = (*BY_PYTHON, *wasm.PLACES, EMULATED)
PRECISIONS = ("FP32", "INT8")
# What promises no bits (FP32), or takes a second a patch (the emulator), answers fewer patches.
FEWER = {
    ("openvino", "FP32"): 50,
    ("executorch", "FP32"): 50,
    ("node", "FP32"): 50,
    ("chromium", "FP32"): 10,
}
FEWER |= {(EMULATED, "FP32"): 4, (EMULATED, "INT8"): 60}
CALLS = {1: (8, 15), 32: (1, 9)}  # batch size: calls in a row, rounds
SHORT_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """Where files are kept, the test patches (at most ``limit``), the folder of arm.sh; how often to repeat."""

    files: Path
    data: Path
    limit: int | None
    arm: Path
    quick: bool = False
    short: bool = False
    synthetic: bool = False


def limit_of(runtime: str, precision: str, limit: int | None) -> int | None:
    """How many test patches a runtime answers at most."""
    return min(filter(None, (limit, FEWER.get((runtime, precision)))), default=None)


def describe_data(setting: Setting) -> str:
    """The test patches in words."""
    if setting.synthetic:
        return "synthetic tissue"
    return "PCam" if len(Patches(setting.data, "test")) == PUBLISHED_SIZES["test"] else "a subset of PCam's test split"


def missing(name: str, arm_folder: Path) -> str | None:
    """How to get a runtime that is not here; None for one that is."""
    if name == "executorch":
        return None if find_spec(name) else pte.INSTALL
    if name in RUNTIMES:
        return None if RUNTIMES[name].available() else f"pip install {name}"
    if name == EMULATED:
        return (
            None if (arm_folder / "qemu-aarch64-static").is_file() else "sh benchmarks/arm.sh FOLDER, then --arm FOLDER"
        )
    if not shutil.which("npm"):
        return "install Node.js"
    if name == "chromium" and not (any(map(shutil.which, BROWSERS)) and find_spec("playwright")):
        return "install the package chromium, and pip install playwright"
    return None


def runtime_version(name: str) -> str:
    """Of the runtime itself; of a browser's and Node's that of onnxruntime-web."""
    if name in wasm.PLACES:
        return f"onnxruntime-web {wasm.version()}"
    return f"{name} {version('onnxruntime' if name == EMULATED else name)}"


def network_names() -> list[str]:
    """The networks that come with an INT8 file."""
    return [name for name, entry in shipped_results("checkpoints").items() if "int8 sha256" in entry]


def made_of(names: Sequence[str], runtime: str) -> list[tuple[str, str]]:
    """(network, precision) that a runtime can be given: a network without its weights has its INT8 model (ONNX) alone."""
    weights = {name for name, entry in shipped_results("checkpoints").items() if "sha256" in entry}
    return [
        (name, precision)
        for name, precision in product(names, PRECISIONS)
        if name in weights or (precision == "INT8" and runtime != "executorch")
    ]


def file_of(name: str, precision: str, runtime: str, folder: Path) -> Path:
    """The file of a shipped network for a runtime; made once, under a name that changes with the network."""
    ending = ".pte" if runtime == "executorch" else ".onnx"
    if (precision, ending) == ("INT8", ".onnx"):
        return shipped_int8(name)
    state = hashlib.sha256(shipped_checkpoint(name).read_bytes()).hexdigest()[:12]
    path = folder / f"{name}_{precision}_{state}{ending}"
    if path.is_file():
        return path
    network = shipped_network(name)
    if precision == "FP32":
        return (pte.export_pte if ending == ".pte" else device.export_onnx)(exported(network), path, SIZE)
    return pte.export_pte(deploy(network, folder / "unused.onnx").simulated, path, SIZE)


def write_patches(folder: Path, data: str | Path, count: int | None) -> None:
    """`patches.npy` and `levels.npy` of the first test patches (see turned.py); how many they are."""
    test = Patches(data, "test")
    chosen = range(min(count or len(test), len(test)))
    images = torch.from_numpy(test.images(chosen)).permute(0, 3, 1, 2)
    np.save(folder / "patches.npy", crop(images, SIZE).contiguous().numpy())
    every = torch.arange(256, dtype=torch.uint8).expand(3, 256)
    np.save(folder / "levels.npy", normalize(every[None, :, None].permute(0, 1, 3, 2).contiguous())[0, :, :, 0].numpy())


def answers(runtime: str, path: Path, patches: Path, arm_folder: Path) -> tuple[np.ndarray, float | None]:
    """Logits (4, N, 2) under the quarter turns, and the growth of the process in MiB where it is known."""
    if runtime in wasm.PLACES:
        found = wasm.run(runtime, path, patches=patches)
        return found["logits"], found.get("peak_mib")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "logits.npy"
        if runtime == EMULATED:
            command = arm.command(arm_folder, "answers", path, patches, output)
        else:
            command = [sys.executable, str(HERE / "one_runtime.py"), runtime, str(path), str(patches), str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{runtime} failed on {path.name}:\n{done.stderr}")
        printed = done.stdout.strip().splitlines()
        return np.load(output), json.loads(printed[-1])["peak_mib"] if printed else None


Rows = dict[str, dict[str, dict]]  # figures by network and precision


def measure_answers(names: Sequence[str], runtimes: Sequence[str], setting: Setting) -> Iterator[tuple[str, Rows]]:
    """Bits, differences of logits, sizes and memory: each runtime with its rows, when it is done.

    onnxruntime is asked first, since the others are compared with it; where its own figures are not wanted, only about the
    patches that others need.
    """
    references: dict[tuple, np.ndarray] = {}
    limits = {
        (runtime, precision): limit_of(runtime, precision, setting.limit)
        for runtime in NAMES
        for precision in PRECISIONS
    }
    if "onnxruntime" not in runtimes:
        for precision in PRECISIONS:
            wanted = [limits[runtime, precision] for runtime in runtimes]
            limits["onnxruntime", precision] = None if None in wanted else max(wanted, default=1)
    with tempfile.TemporaryDirectory() as folder:
        folders = {}
        for limit in set(limits.values()):
            folders[limit] = Path(folder) / f"first {limit}"
            folders[limit].mkdir()
            write_patches(folders[limit], setting.data, limit)
        asked = tuple(dict.fromkeys(("onnxruntime", *runtimes)))
        files = {runtime: made_of(names, runtime) for runtime in asked}
        watched = bar(total=sum(map(len, files.values())), words="answers", unit="file")
        for runtime in asked:
            rows: Rows = {}
            for name, precision in files[runtime]:
                started = time.perf_counter()
                path = file_of(name, precision, runtime, setting.files)
                patches = folders[limits[runtime, precision]]
                logits, peak = answers(runtime, path, patches, setting.arm)
                reference = references.setdefault((name, precision), logits[0])
                rows.setdefault(name, {})[precision] = {
                    "bytes": path.stat().st_size,
                    "peak_mib": peak and round(peak, 1),
                    "difference": float(np.abs(logits[0] - reference[: logits.shape[1]]).max()),
                    "identical": float((logits == logits[:1]).all((0, 2)).mean()),
                    "patches": logits.shape[1],
                }
                watched.write(f"answers, {runtime}, {name}, {precision}: {time.perf_counter() - started:.0f} s")
                watched.update()
            if runtime in runtimes:
                yield runtime, rows
        watched.close()


def measure_latency(names: Sequence[str], runtimes: Sequence[str], setting: Setting) -> Iterator[tuple[str, Rows]]:
    """Milliseconds a batch on one thread: medians of processor time; in WebAssembly, which knows none, of time that passes.

    Gives each runtime with its rows, when it is done.
    """
    by_python = [runtime for runtime in runtimes if runtime in BY_PYTHON]
    keys = [(runtime, *made) for runtime in by_python for made in made_of(names, runtime)]
    found: dict[tuple, dict[str, float]] = {key: {} for key in keys}
    for batch, (calls, rounds) in CALLS.items():
        images = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        cases = {}
        for runtime, name, precision in bar(keys, words=f"loading for batch {batch}", unit="file"):
            path = file_of(name, precision, runtime, setting.files)
            cases[runtime, name, precision] = partial(load(runtime, path, batch), images)
        rounds, calls = (1, 1) if setting.quick else (SHORT_ROUNDS if setting.short else rounds, calls)
        words = f"latency, batch {batch}"
        for key, seconds in interleaved(cases, rounds, calls=calls, clock=time.process_time, words=words).items():
            found[key][str(batch)] = round(1000 * seconds, 3)
    for runtime in by_python:
        rows: Rows = {}
        for name, precision in made_of(names, runtime):
            rows.setdefault(name, {})[precision] = {"milliseconds": found[runtime, name, precision]}
        yield runtime, rows
    few = 1 if setting.quick else SHORT_ROUNDS if setting.short else None
    calls = {batch: few or 2 * rounds for batch, (_, rounds) in CALLS.items()}
    for runtime in (runtime for runtime in runtimes if runtime in wasm.PLACES):
        rows = {}
        for name, precision in bar(made_of(names, runtime), words=f"latency, {runtime}", unit="file"):
            times = wasm.run(runtime, file_of(name, precision, runtime, setting.files), calls=calls)["milliseconds"]
            rows.setdefault(name, {})[precision] = {
                "milliseconds": {batch: round(ms, 2) for batch, ms in times.items()}
            }
        yield runtime, rows


PARTS = {"answers": measure_answers, "latency": measure_latency}
FIGURES = {"answers": ("bytes", "peak_mib", "difference", "identical", "patches"), "latency": ("milliseconds",)}


def with_rows(saved: dict, part: str, runtime: str, rows: Rows, machine: dict, setting: Setting) -> dict:
    """The saved figures with those of one part of one runtime anew; networks that ship no longer go.

    ``measured`` holds by part and runtime who measured what: machine, versions, and the networks whose figures are from
    there, each in one entry only.
    """
    results = {"measured": {}, "networks": {}} | deepcopy(saved)
    names = network_names()
    results["networks"] = {name: results["networks"].get(name, {"runtimes": {}}) for name in names}
    for name, network in results["networks"].items():
        network["title"] = describe(name)["title"]
        if name in rows:
            row = network["runtimes"].setdefault(runtime, {})
            for precision, figures in row.items():
                row[precision] = {key: value for key, value in figures.items() if key not in FIGURES[part]}
            for precision, figures in rows[name].items():
                row.setdefault(precision, {}).update(figures)
    here = {"runtime": runtime_version(runtime)} | machine
    here |= {"data": describe_data(setting)} if part == "answers" else {}
    by_runtime = results["measured"].setdefault(part, {})
    entries = [entry | {"networks": set(entry["networks"]) - set(rows)} for entry in by_runtime.get(runtime, [])]
    anew = next((entry for entry in entries if entry | here == entry and entry.keys() == {*here, "networks"}), None)
    if anew is None:
        entries.append(anew := here | {"networks": set()})
    anew["networks"] |= set(rows)
    entries = [entry | {"networks": [name for name in names if name in entry["networks"]]} for entry in entries]
    by_runtime[runtime] = [entry for entry in entries if entry["networks"]]
    known = set().union(*(network["runtimes"] for network in results["networks"].values()))
    for name, network in results["networks"].items():  # a network that came later has rows without figures
        asked = [runtime for runtime in NAMES if runtime in known and made_of([name], runtime)]
        network["runtimes"] |= {runtime: {} for runtime in asked if runtime not in network["runtimes"]}
    ways = {name: missing(name, setting.arm) or "not measured yet" for name in NAMES if name not in known}
    return results | {"missing": ways}


def measure(options: argparse.Namespace) -> None:
    """Measure, and save after each runtime, so that none is lost; what another run saved meanwhile stays."""
    torch.set_num_threads(1)
    options.files.mkdir(parents=True, exist_ok=True)
    data = options.data or ensure_dataset(current_budget().sizes)
    limit = 8 if options.quick else options.patches
    setting = Setting(
        options.files, data, limit, options.arm, options.quick, options.short, synthetic=options.data is None
    )
    names = options.networks or network_names()[: 1 if options.quick else None]
    ways = {name: missing(name, setting.arm) for name in options.runtimes}
    there = [name for name, way in ways.items() if way is None]
    if set(options.runtimes) != set(NAMES) and len(there) < len(ways):  # those that were named are wanted
        raise FileNotFoundError("; ".join(f"{LABELS[name]} is missing: {way}" for name, way in ways.items() if way))
    results: dict = {}
    here = where_and_when()
    notes = ["few repeats"] * options.short + ["beside other programs"] * options.beside
    here |= {"notes": notes} if notes else {}
    for part in ["latency"] if options.short else options.only:
        for runtime, rows in PARTS[part](names, there, setting):
            if not options.quick:
                results = read_results(SAVED) if SAVED.exists() else {}
            results = with_rows(results, part, runtime, rows, here, setting)
            if not options.quick:
                write_json(SAVED, results)
    if options.quick:
        print(tables(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables", help="measure nothing; renew the table of the saved figures")
    command = commands.add_parser("measure", help="measure, save the figures, renew the table")
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts, the others stay")
    command.add_argument("--runtimes", nargs="+", choices=NAMES, default=list(NAMES), help="these, the others stay")
    command.add_argument(
        "--networks", nargs="+", choices=network_names(), help="rows of these, the others stay; all without it"
    )
    command.add_argument("--beside", action="store_true", help="other programs run meanwhile: the table says so")
    command.add_argument(
        "--short", action="store_true", help="latency alone, with few repeats: a few minutes; the table says so"
    )
    command.add_argument("--data", type=Path, help="folder with PCam's files; without it, synthetic tissue")
    command.add_argument("--patches", type=count, help="at most so many test patches")
    command.add_argument("--arm", type=Path, default=cache_root() / "arm", help="folder of arm.sh")
    command.add_argument(
        "--files", type=Path, default=cache_root() / "runtimes", help="folder that keeps exported files"
    )
    command.add_argument("--quick", action="store_true", help="one network, each once, eight patches; nothing is saved")
    options = parser.parse_args()
    if options.command == "measure":
        measure(options)
        if options.quick:
            return
    marks.write("make bench: runtimes", tables(read_results(SAVED)), README)
    marks.write("latency", short_table(read_results(SAVED)), MAIN_README)
    print(f"figures: {SAVED}; tables: {README}, {MAIN_README}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
