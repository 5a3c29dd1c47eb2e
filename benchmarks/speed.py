"""`make bench`: side-by-side tables of speed and memory, printed and saved.

Everything runs on one thread, interleaved, and medians are given.  What counts is the ratios: absolute times are this
machine's.  `--quick` runs each part once at the smallest size, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from networks import VARIANTS, network
from redraw import redraw  # noqa: F401  (a part, called by its name)
from timing import in_fresh_process, interleaved

from equilib import device, dfq, int8
from equilib.mobilenet import KINDS, MobileNetConfig, build, exported
from equilib.pcam import Patches, augment, collate, crop, input_range, normalize, shuffled_order, split_path
from equilib.results import environment, markdown_table

BATCH = 32
HERE = Path(__file__).parent
PARTS = ["training", "inference", "memory", "construction", "deployment", "data_path", "redraw"]


def settings(quick: bool) -> list[tuple[float, str, int]]:
    """Width, group, repeats."""
    return [(0.35, "C4", 1)] if quick else [(0.35, "C4", 15), (0.35, "C12", 15), (1.0, "C4", 7), (1.0, "C12", 7)]


def batch(variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    layout = torch.contiguous_format if variant.startswith("e2cnn") else torch.channels_last
    images = torch.randn(BATCH, 3, 95, 95, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=layout), torch.arange(BATCH) % 2


def training_step(variant: str, width: float, group: str):
    """One step as `equilib train` takes it."""
    net = network(variant, width, group)
    images, labels = batch(variant)
    optimizer = torch.optim.AdamW(net.train().parameters(), 1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def against_conventional(seconds: dict[str, float]) -> dict:
    return {name: value / seconds["conventional"] for name, value in seconds.items()}


def training(quick: bool) -> list[dict]:
    rows = []
    for width, group, repeats in settings(quick):
        cases = {variant: training_step(variant, width, group) for variant in VARIANTS}
        seconds = interleaved(cases, repeats)
        rows.append({"width": width, "group": group, "seconds": seconds, "ratio": against_conventional(seconds)})
    return rows


def inference(quick: bool) -> list[dict]:
    rows = []
    for width, group, repeats in settings(quick):
        nets = {variant: network(variant, width, group).eval() for variant in VARIANTS}
        # What is run in the end is the export: plain modules, for both networks.
        nets |= {"conventional": exported(nets["conventional"]), "equilib, exported": exported(nets["equilib"])}

        def runner(name, net):
            images, _ = batch(name)

            def run():
                with torch.no_grad():
                    net(images)

            return run

        seconds = interleaved({name: runner(name, net) for name, net in nets.items()}, repeats)
        rows.append({"width": width, "group": group, "seconds": seconds, "ratio": against_conventional(seconds)})
    return rows


PEAK = """
import json, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from speed import peak_mib, training_step
before = peak_mib()
step = training_step({variant!r}, {width}, {group!r})
for _ in range(3):
    step()
print(json.dumps({{"mib": peak_mib() - before}}))
"""


def peak_mib() -> float:
    """The largest resident set of this process so far (Linux: getrusage's figure would include the parent's)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def memory(quick: bool) -> list[dict]:
    """Growth of the resident set over that of a process that has only imported everything."""
    rows = []
    for width, group, _ in settings(quick):
        mib = {
            variant: in_fresh_process(PEAK.format(here=str(HERE), variant=variant, width=width, group=group))["mib"]
            for variant in VARIANTS
        }
        rows.append({"width": width, "group": group, "mib": mib, "ratio": against_conventional(mib)})
    return rows


CONSTRUCTION = """
import json, time
start = time.perf_counter()
import equilib
package = time.perf_counter() - start
import equilib.layers
from equilib.mobilenet import MobileNetConfig, build
config = MobileNetConfig(width={width}, group={group!r})
start = time.perf_counter()
build({kind!r}, config)
print(json.dumps({{"import equilib": package, "build": time.perf_counter() - start}}))
"""


def construction(quick: bool) -> list[dict]:
    rows = []
    for width, group, _ in settings(quick):
        for kind in KINDS:
            code = CONSTRUCTION.format(width=width, group=group, kind=kind)
            runs = [in_fresh_process(code) for _ in range(1 if quick else 3)]
            medians = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
            rows.append({"width": width, "group": group, "kind": kind, "seconds": medians})
    return rows


def data_path(quick: bool, step_seconds: float) -> list[dict]:
    """Patches a second from file to the network's input: shuffled, cropped, augmented, normalised."""
    count = 256 if quick else 8192
    generator = np.random.default_rng(0)
    # Smooth enough that gzip has something to do, as with tissue.
    blocks = generator.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    images = blocks.repeat(4, 1).repeat(4, 2)
    layouts = {
        "contiguous": {},
        "chunks of (512, 12, 12, 1), as h5py chooses": {"chunks": (min(512, count), 12, 12, 1)},
        "chunks of 32 patches, gzip": {"chunks": (32, 96, 96, 3), "compression": "gzip"},
    }
    rows = []
    for name, options in layouts.items():
        with tempfile.TemporaryDirectory() as folder:
            with h5py.File(split_path(folder, "train", "x"), "w") as file:
                file.create_dataset("x", data=images, **options)
            with h5py.File(split_path(folder, "train", "y"), "w") as file:
                file.create_dataset("y", data=(np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1))
            ours = _our_speed(folder, count)
            theirs = _reopening_speed(folder, 8 if quick else 64)
        consumed = BATCH / step_seconds
        rows.append(
            {
                "layout": name,
                "equilib": ours,
                "both files reopened for each patch": theirs,
                "network": consumed,
                "ratio": ours / consumed,
            }
        )
    return rows


def _our_speed(folder: str, count: int) -> float:
    patches = Patches(folder, "train")
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for indices in shuffled_order(count, patches.slab, generator).split(BATCH):
        images, _ = collate(patches.__getitems__(indices.tolist()))
        normalize(augment(crop(images, 95), generator))
    return count / (time.perf_counter() - start)


def _reopening_speed(folder: str, count: int) -> float:
    """The access pattern of torchvision.datasets.PCAM, without its conversion to PIL."""
    order = torch.randperm(len(Patches(folder, "train")), generator=torch.Generator().manual_seed(0))[:count]
    start = time.perf_counter()
    for index in order.tolist():
        with h5py.File(split_path(folder, "train", "x")) as file:
            file["x"][index]
        with h5py.File(split_path(folder, "train", "y")) as file:
            file["y"][index, 0, 0, 0]
    return count / (time.perf_counter() - start)


def deployment(quick: bool) -> list[dict]:
    """Equalization, export, size of the files, and latency in onnxruntime."""
    rows = []
    for width, group, repeats in settings(quick):
        config = MobileNetConfig(width=width, group=group)
        sessions, row = {}, {"width": width, "group": group, "size_mb": {}, "seconds": {}, "latency_ms": {}}
        with tempfile.TemporaryDirectory() as folder:
            for kind in KINDS:
                torch.manual_seed(0)
                plain = exported(build(kind, config))
                start = time.perf_counter()
                equalized = dfq.absorb_high_bias(dfq.equalize(dfq.fold_batch_norm(plain))[0])[0]
                row["seconds"][f"{kind}, equalize and absorb"] = time.perf_counter() - start
                for name, model in (("FP32", plain), ("INT8", int8.quantize(equalized, input_range()))):
                    start = time.perf_counter()
                    path = device.export_onnx(model, Path(folder) / f"{kind}_{name}.onnx", 95)
                    row["seconds"][f"{kind}, {name} export"] = time.perf_counter() - start
                    row["size_mb"][f"{kind}, {name}"] = path.stat().st_size / 1e6
                    sessions[f"{kind}, {name}"] = device.session(path, threads=1)
            for size in (1, BATCH):
                images = np.random.default_rng(0).normal(size=(size, 3, 95, 95)).astype(np.float32)
                cases = {
                    name: lambda session=session, images=images: session.run(None, {"images": images})
                    for name, session in sessions.items()
                }
                seconds = interleaved(cases, 1 if quick else 4 * repeats)
                row["latency_ms"][str(size)] = {name: 1000 * value for name, value in seconds.items()}
        rows.append(row)
    return rows


def tables(results: dict) -> str:
    """The tables for the README, from what was saved."""

    def per_setting(rows, name, values, text):
        return [
            {name: f"{row['group']}, width {row['width']}"}
            | {variant: text(value, row["ratio"][variant]) for variant, value in row[values].items()}
            for row in rows
        ]

    def timed(value, ratio):
        return f"{value:.2f} s (×{ratio:.2f})"

    data = [
        {
            "layout of the file": row["layout"],
            "equilib": f"{row['equilib']:,.0f}",
            "both files reopened for each patch": f"{row['both files reopened for each patch']:,.0f}",
            "training takes": f"{row['network']:,.0f}",
        }
        for row in results["data_path"]
    ]
    latency = [
        {"FP32 → INT8, one thread": f"{row['group']}, width {row['width']}, batch {size}"}
        | {
            kind: "{:.2f} → {:.2f} ms".format(
                *(row["latency_ms"][size][f"{kind}, {name}"] for name in ("FP32", "INT8"))
            )
            for kind in KINDS
        }
        | {
            "file, equivariant": "{:.2f} → {:.2f} MB".format(
                *(row["size_mb"][f"equivariant, {n}"] for n in ("FP32", "INT8"))
            )
        }
        for row in results["deployment"]
        for size in row["latency_ms"]
    ]
    built = [
        {
            "construction": f"{row['group']}, width {row['width']}, {row['kind']}",
            "seconds": f"{row['seconds']['build']:.2f}",
        }
        for row in results["construction"]
    ]
    drawn = [
        {
            "slider": row["widget"],
            **{case: f"{value:.0f} ms" for case, value in row["ms"].items()},
            "ratio": f"×{row['ratio']:.1f}",
        }
        for row in results.get("redraw", [])
    ]
    where: dict[str, list[str]] = {}  # which parts were measured on which machine, since --only keeps the others
    for name, measured in results["measured"].items():
        machine = ", ".join(f"{key} {value}" for key, value in measured["environment"].items())
        where.setdefault(f"{machine}; {measured['date']}", []).append(name)
    machines = "; ".join(f"{', '.join(names)}: {machine}" for machine, names in where.items())
    return "\n\n".join(
        [
            f"One thread, batch {BATCH}, 95 × 95 pixels; medians of interleaved runs; × is relative to the conventional "
            f"network. Measured on: {machines}.",
            markdown_table(per_setting(results["training"], "training step", "seconds", timed)),
            markdown_table(per_setting(results["inference"], "inference", "seconds", timed)),
            markdown_table(
                per_setting(results["memory"], "peak memory of training", "mib", lambda v, r: f"{v:.0f} MiB (×{r:.2f})")
            ),
            "Patches a second, from the file to the network's input (shuffled, cropped, augmented, normalised; reopening: "
            "read only):",
            markdown_table(data),
            markdown_table(latency),
            markdown_table(built),
            *([markdown_table(drawn)] if drawn else []),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat at the smallest size; nothing is saved")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="measure these anew, keep the others with their machine"
    )
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing; print the saved tables, renew the README"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="indexing with dtype torch.uint8")  # e2cnn's, at construction
    saved = HERE / "latest.json"
    if options.tables:
        results = json.loads(saved.read_text())
    else:
        torch.set_num_threads(1)
        results = json.loads(saved.read_text()) if options.only != PARTS else {}
        here = {"date": time.strftime("%Y-%m-%d"), "environment": environment() | {"threads": "1"}}
        results["measured"] = results.get("measured", {}) | dict.fromkeys(options.only, here)
        for name in options.only:
            start = time.perf_counter()
            arguments = [results["training"][0]["seconds"]["conventional"]] if name == "data_path" else []
            results[name] = globals()[name](options.quick, *arguments)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    text = tables(results)
    print(text)
    if not options.quick:
        sys.path.append(str(HERE.parent / "experiments"))
        import readme

        saved.write_text(json.dumps(results, indent=1) + "\n")
        readme.write("make bench", text)


if __name__ == "__main__":
    main()
