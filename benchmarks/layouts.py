"""Which layout of a network a runtime runs fastest on this machine; equilib/layouts.py holds what came out.

    python benchmarks/layouts.py [--runtimes onnxruntime openvino executorch] [--quick] [--save]

Field-wise networks with k fields in one group (k = 1 is as written) or cut into dense pieces, and strict ones with padded
depthwise channels, each beside the conventional network of the same channels; INT8 and FP32, one thread, interleaved.
Of ExecuTorch, INT8 programs with merged groups: those that equilib.pte could write.
Medians of processor time, which other programs disturb less than they do the time that passes; what counts is the ratios.
`--save` keeps the figures in benchmarks/layouts.json, under this architecture and runtime, and their table in README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import astuple, fields
from importlib.metadata import version
from itertools import product
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from unittest.mock import patch

import onnx
import torch
from timing import where_and_when
from torch import nn

from equilib import device, layouts, marks, pte, runtimes
from equilib.cli.process import until_closed
from equilib.deploy import deploy
from equilib.layouts import Layout, architecture, rewrite
from equilib.mobilenet import MobileNetConfig, build, estimate_statistics, exported
from equilib.own_integers import own_integers
from equilib.progress import bar
from equilib.results import markdown_table, shipped_int8, write_json
from equilib.training import shipped_network

SAVED = Path(__file__).parent / "layouts.json"
README = SAVED.with_name("README.md")
MULTIPLES = {"x86_64": 16, "aarch64": 8}  # of channels, that onnxruntime's depthwise kernels want (convsym.cpp)
FIELDS = {"1": 1, "2": 2, "4": 4, "8": 8, "12": 12, "all": 10_000}  # in one group, at most; as many as divide them
PIECES = (16, 32, 48)  # channels of a dense convolution, at least; what cannot be cut is merged up to 48
BATCHES = {1: (8, 9), 4: (2, 7), 32: (1, 5)}  # calls in a row, else what ran before them counts; and rounds
# Name: trained network that comes with the project, or kind and configuration of a fresh one; and the size of its fields.
# Random weights take the same time.
WIDE = {"width": 0.35, "divisor": 24}
NETWORKS = {
    "conventional": (("conventional", {"group": "C4"} | WIDE), 1),
    "field-wise C4": ("pcam_C4_fieldwise_w0.35_m24_20000_seed0", 4),
    "field-wise C12": (("equivariant", {"group": "C12", "depthwise": "fieldwise"} | WIDE), 12),
    "strict C4, multiples of 12": ("pcam_C4_w0.35_20000_seed0", 1),
}


def trained(name: str) -> nn.Module:
    """A network of :data:`NETWORKS`, in evaluation mode."""
    source, _ = NETWORKS[name]
    if isinstance(source, str):
        return shipped_network(source)
    torch.manual_seed(0)
    return estimate_statistics(build(source[0], MobileNetConfig(**source[1])), torch.randn(8, 3, 95, 95))


def files(folder: Path) -> dict[tuple[str, str], Path]:
    """INT8 and FP32 files of all networks; those that come with the project are copies of the shipped ones."""
    paths = {}
    for name, (source, _) in bar(NETWORKS.items(), words="exports", unit="network"):
        network = trained(name)
        if isinstance(source, str):
            paths[name, "INT8"] = Path(copy(shipped_int8(source), folder))
        else:
            paths[name, "INT8"] = deploy(network, folder / f"{name}.onnx").onnx
        paths[name, "FP32"] = device.export_onnx(exported(network), folder / f"{name}, FP32.onnx", 95)
    return paths


def variants(name: str) -> dict[str, Layout]:
    """The layouts to be compared for a network, by name."""
    _, field_size = NETWORKS[name]
    if field_size > 1:
        merged = {f"k = {label}": Layout(k * field_size if k > 1 else 1) for label, k in FIELDS.items()}
        return merged | {f"pieces of {channels}": Layout(48, 1, channels) for channels in PIECES}
    multiple = MULTIPLES.get(architecture(), 16)
    return {"as written": Layout(), f"padded to {multiple}": Layout(1, multiple)}


def as_it_is(path, *_, **__) -> str:
    """Instead of :func:`equilib.layouts.prepared`."""
    return str(path)


def programs(paths: dict[tuple[str, str], Path]) -> dict[tuple[str, str, str], Callable]:
    """ExecuTorch's, by network, precision and layout."""
    models = {}
    for (name, precision), path in bar(paths.items(), words="programs", unit="file"):
        if precision != "INT8":
            continue
        simulated = deploy(trained(name), path.with_name("unused.onnx")).simulated
        for label, layout in variants(name).items():
            if layout != Layout(layout.group_channels):
                continue  # padding and pieces are onnxruntime's
            with patch.object(pte, "LAYOUT", layout):
                models[name, precision, label] = pte.load_pte(
                    pte.export_pte(simulated, path.with_name("program.pte"), 95)
                )
    return models


def rewritten_files(runtime: str, paths: dict[tuple[str, str], Path]) -> dict[tuple[str, str, str], Callable]:
    """ONNX files in a runtime, by network, precision and layout."""
    models = {}
    for (name, precision), path in bar(paths.items(), words="rewriting", unit="file"):
        model = onnx.load(path)
        for label, layout in variants(name).items():
            rewritten = rewrite(model, layout)
            if label.startswith("padded") and rewritten is model:
                continue  # nothing to pad
            other = path.with_name("rewritten.onnx")
            onnx.save(own_integers(rewritten), other)
            with patch.object(device, "prepared", as_it_is), patch.object(runtimes, "prepared", as_it_is):
                models[name, precision, label] = runtimes.RUNTIMES[runtime].load(other)
    return models


def measure(runtime: str, paths: dict[tuple[str, str], Path], quick: bool) -> dict:
    """Milliseconds by network, precision, layout and batch size."""
    models = programs(paths) if runtime == "executorch" else rewritten_files(runtime, paths)
    milliseconds: dict = {}
    for batch, (calls, rounds) in BATCHES.items():
        images = torch.randn(batch, 3, 95, 95, generator=torch.Generator().manual_seed(0))
        seconds = defaultdict(list)
        for count in bar(range(2 if quick else rounds + 1), words=f"{runtime}, batch {batch}", unit="round"):
            for key, model in models.items():
                start = time.process_time()
                for _ in range(1 if quick else calls):
                    model(images)
                if count:  # the first round warms up
                    seconds[key].append((time.process_time() - start) / (1 if quick else calls))
        for (name, precision, label), values in seconds.items():
            row = milliseconds.setdefault(name, {}).setdefault(precision, {}).setdefault(label, {})
            row[str(batch)] = round(1000 * statistics.median(values), 3)
    return milliseconds


def tables(milliseconds: dict) -> str:
    """Milliseconds, and beside them how many times those of the conventional network as it is written."""
    rows = []
    for name, precisions in milliseconds.items():
        for precision, layouts_ in precisions.items():
            reference = milliseconds["conventional"][precision]["as written"]
            for label, times in layouts_.items():
                cells = {
                    f"batch {batch}, ms": f"{value:.2f} (×{value / reference[batch]:.2f})"
                    for batch, value in times.items()
                }
                rows.append({"network": name, "precision": precision, "layout": label} | cells)
    return markdown_table(rows)


def page(saved: dict) -> str:
    """INT8 by layout and batch, beside the conventional network with padded channels; bold is what sessions take."""
    parts = []
    for key, figures in saved.items():
        machine, runtime = key.split(", ")
        rows, milliseconds = [], figures["milliseconds"]
        reference = list(milliseconds["conventional"]["INT8"].values())[-1]
        for name, precisions in milliseconds.items():
            for label, times in precisions["INT8"].items():
                row = {"INT8": name, "layout": label}
                for batch, ms in times.items():
                    chosen = layouts.measured_layout("INT8", runtime, machine, batch=int(batch))
                    mark = "**" if label == fitting(name, precisions["INT8"], chosen) else ""
                    row[f"batch {batch}, ms"] = f"{mark}{ms:.2f} (×{ms / reference[batch]:.2f}){mark}"
                rows.append(row)
        measured = ", ".join(f"{name} {value}" for name, value in figures["environment"].items())
        parts.append(f"{markdown_table(rows)}\n\n{runtime} on {machine}: {measured}.")
    return "\n\n".join(parts)


def fitting(name: str, rows: dict, layout: Layout) -> str:
    """Of the layouts that were measured for a network, the one that this layout comes to."""
    allowed = [
        label
        for label, other in variants(name).items()
        if label in rows and all(mine <= its for mine, its in zip(astuple(other), astuple(layout)))
    ]
    return allowed[-1]


def ranking(milliseconds: dict, precision: str, batch: int) -> dict[Layout, float]:
    """How long each layout takes, relative to as written: geometric means over networks, fastest first."""
    layouts_ = {layout for name in NETWORKS for layout in variants(name).values()}
    values = [sorted({astuple(layout)[i] for layout in layouts_}) for i in range(len(fields(Layout)))]

    def relative(name, layout):
        rows = milliseconds[name][precision]
        return rows[fitting(name, rows, layout)][str(batch)] / next(iter(rows.values()))[str(batch)]

    result = {
        layout: statistics.geometric_mean([relative(name, layout) for name in NETWORKS])
        for layout in (Layout(*choice) for choice in product(*values))
    }
    return dict(sorted(result.items(), key=lambda item: item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", choices=[*runtimes.RUNTIMES, "executorch"], default=["onnxruntime"])
    parser.add_argument("--quick", action="store_true", help="each once, to see that it works")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/layouts.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = where_and_when()
    with TemporaryDirectory() as folder:
        paths = files(Path(folder))
        for runtime in options.runtimes:
            milliseconds = measure(runtime, paths, options.quick)
            machine = {"runtime": version(runtime)} | here
            print(f"{runtime} on {architecture()}; {', '.join(f'{key} {value}' for key, value in machine.items())}\n")
            print(tables(milliseconds))
            for precision in milliseconds["conventional"]:
                for batch in BATCHES:
                    print(f"\n{precision}, {batch} at once, time relative to as written, of all together:")
                    for layout, ratio in list(ranking(milliseconds, precision, batch).items())[:4]:
                        print(f"    {ratio:.3f} {layout}")
                    chosen = layouts.measured_layout(precision, runtime, batch=batch)
                    print(f"    equilib.layouts has {chosen}", flush=True)
            if options.save:
                saved = json.loads(SAVED.read_text()) if SAVED.exists() else {}
                saved[f"{architecture()}, {runtime}"] = {"environment": machine, "milliseconds": milliseconds}
                write_json(SAVED, saved)
                marks.write("layouts", page(saved), README)
                print(f"figures: {SAVED}")


if __name__ == "__main__":
    sys.exit(until_closed(main))
