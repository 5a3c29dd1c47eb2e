"""Where the INT8 logits of Arm leave those of x86: layer by layer, and each addition on all pairs of levels.

    python benchmarks/arm_layers.py measure --arm FOLDER [--data FOLDER] [--patches 20] [--networks NAME …]
    python benchmarks/arm_layers.py tables     measure nothing, write the saved figures' table

`arm.sh` makes the folder; the answers of "this machine" are an x86-64 processor's.  Nothing is timed.  Figures go to
benchmarks/arm_layers.json, the table to benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import arm
import numpy as np
import onnx
from onnx import helper, numpy_helper

from equilib import marks
from equilib.budget import current_budget
from equilib.cli.options import count
from equilib.cli.process import until_closed
from equilib.live import SIZE, describe
from equilib.pcam import Patches, network_inputs
from equilib.results import environment, markdown_table, read_results, shipped_int8, shipped_results, write_json
from equilib.synthetic import cache_root, ensure_dataset

SAVED, README = Path(__file__).with_suffix(".json"), Path(__file__).with_name("README.md")
BATCH = 10


@dataclass(frozen=True)
class Layer:
    """What stands between quantized activations: its operators, the tensors of levels that it reads, the one it makes."""

    operators: str
    inputs: tuple[str, ...]
    output: str


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers of a quantize/dequantize graph, in order; the last one makes the logits."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    constant = {tensor.name for tensor in model.graph.initializer}

    def read(name: str) -> tuple[list[str], list[str]]:
        """Operators and tensors of levels above a tensor of real numbers."""
        node = made_by.get(name)
        if node is None:
            return [], [] if name in constant else [name]
        if node.op_type == "DequantizeLinear":
            return [], [] if node.input[0] in constant else [node.input[0]]
        above = [read(above) for above in node.input]
        return [*(o for found, _ in above for o in found), node.op_type], [t for _, found in above for t in found]

    found = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constant:
            found.append((node.input[0], node.output[0]))
    found += [(output.name, output.name) for output in model.graph.output]
    result = []
    for real, levels in found:
        operators, inputs = read(real)
        result.append(Layer(" → ".join(operators), tuple(inputs), levels))
    return result


def with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the tensor of every layer as an output; onnxruntime fuses the same layers in it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    types = {value.name: value for value in onnx.shape_inference.infer_shapes(result).graph.value_info}
    there = {output.name for output in model.graph.output}
    result.graph.output.extend(types[layer.output] for layer in layers(model) if layer.output not in there)
    return result


def additions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Only the sums of a network, each with its own scales, and all of the same two inputs ``a`` and ``b`` (uint8)."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, names = [], []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or made_by.get(node.input[0], node).op_type != "Add":
            continue
        terms = [made_by[name] for name in made_by[node.input[0]].input]
        operands = [name for letter, term in zip("ab", terms) for name in (letter, *term.input[1:])]
        names.append(node.output[0])
        nodes.append(helper.make_node("QLinearAdd", [*operands, *node.input[1:]], names[-1:], domain="com.microsoft"))
    used = {name for node in nodes for name in node.input if name in tensors}
    value = lambda name: helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["pairs"])  # noqa: E731
    graph = helper.make_graph(
        nodes, "additions", [value("a"), value("b")], list(map(value, names)), [tensors[name] for name in sorted(used)]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def on_both(model: onnx.ModelProto, inputs: dict[str, np.ndarray], folder: Path) -> tuple[dict, dict]:
    """All outputs of a graph on this machine and on the Arm processor, as the graph is written."""
    with tempfile.TemporaryDirectory() as name:
        paths = [str(Path(name) / file) for file in ("model.onnx", "inputs.npz", "here.npz", "arm.npz")]
        onnx.save(model, paths[0])
        np.savez(paths[1], **inputs)
        arm.outputs(*paths[:3])
        done = subprocess.run(arm.command(folder, "outputs", *paths[:2], paths[3]), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"onnxruntime on Arm failed:\n{done.stderr}")
        return dict(np.load(paths[2])), dict(np.load(paths[3]))


def all_pairs() -> dict[str, np.ndarray]:
    """Each level with each: 65,536 pairs."""
    a, b = np.meshgrid(*(2 * [np.arange(256, dtype=np.uint8)]), indexing="ij")
    return {"a": a.ravel(), "b": b.ravel()}


def in_integers(sums: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums of :func:`additions` as Arm's kernel makes them, by its source (onnxruntime, mlas/lib/qladd.cpp).

    Both ratios of scales become integers of at most 22 bits, the larger one using all of them; the sum is shifted right
    once, to the nearest level, ties away from zero.  On x86 the same kernel computes in float32, ties to even.
    """
    results = {}
    for node, (ratio_a, zero_a), (ratio_b, zero_b), zero in _scales(sums):
        ratios = [float(np.float32(ratio)) for ratio in (ratio_a, ratio_b)]
        shift = 21 - int(np.floor(np.log2(max(ratios))))
        factors = [int(np.rint(ratio * 2.0**shift)) for ratio in ratios]
        total = sum(f * (inputs[n].astype(np.int64) - z) for f, n, z in zip(factors, "ab", (zero_a, zero_b)))
        nearest = np.sign(total) * ((np.abs(total) + 2 ** (shift - 1)) >> shift)
        results[node.output[0]] = np.clip(nearest + zero, 0, 255).astype(np.uint8)
    return results


def from_a_tie(sums: onnx.ModelProto, pairs: dict[str, np.ndarray], chosen: dict[str, np.ndarray]) -> float:
    """How far the chosen pairs' exact sums are at most from the middle between two levels, in levels."""
    worst = 0.0
    for node, (ratio_a, zero_a), (ratio_b, zero_b), _ in _scales(sums):
        for k in np.flatnonzero(chosen[node.output[0]]):
            exact = ratio_a * (int(pairs["a"][k]) - zero_a) + ratio_b * (int(pairs["b"][k]) - zero_b)
            worst = max(worst, float(abs(exact % 1 - Fraction(1, 2))))
    return worst


def _scales(sums: onnx.ModelProto) -> Iterator[tuple]:
    """Of each addition: its node, of both inputs the exact ratio of scales and the zero point, and that of the output."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in sums.graph.initializer}
    for node in sums.graph.node:
        scale_a, zero_a, scale_b, zero_b, scale, zero = (tensors[node.input[i]].item() for i in (1, 2, 4, 5, 6, 7))
        yield node, (Fraction(scale_a) / Fraction(scale), zero_a), (Fraction(scale_b) / Fraction(scale), zero_b), zero


def pair_figures(model: onnx.ModelProto, folder: Path) -> dict:
    """Of how many of all pairs of levels the sums differ, by how much, and how far these are from a tie.

    ``unexplained`` counts the pairs where Arm's answer is not that of :func:`in_integers`.
    """
    sums, pairs = additions(model), all_pairs()
    here, there = on_both(sums, pairs, folder)
    integers = in_integers(sums, pairs)
    differ = {name: here[name] != there[name] for name in here}
    return {
        "additions": len(differ),
        "pairs": int(sum(found.sum() for found in differ.values())),
        "levels": int(max(np.abs(here[name].astype(int) - there[name]).max() for name in here)),
        "from a tie": from_a_tie(sums, pairs, differ),
        "unexplained": int(sum((integers[name] != there[name]).sum() for name in here)),
    }


def network_figures(model: onnx.ModelProto, images: np.ndarray, folder: Path) -> dict:
    """Patches whose tensors differ; in which layers a difference begins, their inputs being equal; and the logits'."""
    every, chain = with_all_outputs(model), layers(model)
    logits = chain[-1].output
    begins, differing, worst = Counter(), 0, 0.0
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        here, there = on_both(every, {model.graph.input[0].name: batch}, folder)
        for patch in range(len(batch)):
            same = {one.output: np.array_equal(here[one.output][patch], there[one.output][patch]) for one in chain}
            differing += not all(same.values())
            for one in chain:
                if not same[one.output] and all(same.get(name, True) for name in one.inputs):
                    begins[one.operators] += 1
        worst = max(worst, float(np.abs(here[logits] - there[logits]).max()))
    return {"patches": len(images), "differing": differing, "begins": dict(begins), "difference": worst}


def shipped_names() -> list[str]:
    """The networks that come with an INT8 file."""
    return [name for name, entry in shipped_results("checkpoints").items() if "int8 sha256" in entry]


def measure(name: str, images: np.ndarray, folder: Path) -> dict:
    """All figures of a shipped network."""
    model = onnx.load(shipped_int8(name))
    return {"title": describe(name)["title"]} | pair_figures(model, folder) | network_figures(model, images, folder)


def table(saved: dict) -> str:
    """A row a network, and where it was measured."""
    rows = [
        {
            "INT8, Arm against x86": row["title"],
            "residual sums": str(row["additions"]),
            "pairs of levels whose sum differs": f"{row['pairs']:,} of {row['additions'] * 2**16:,}",
            "from a tie, at most": f"{row['from a tie']:.0e} levels",
            "patches with a difference": f"{row['differing']} of {row['patches']}",
            "where it begins": ", ".join(f"{layer}: {count}" for layer, count in row["begins"].items()) or "–",
            "largest difference of logits": f"{row['difference']:.1g}",
        }
        for row in saved["networks"].values()
    ]
    machines = dict.fromkeys(
        ", ".join(f"{key} {value}" for key, value in row["environment"].items()) for row in saved["networks"].values()
    )
    return f"{markdown_table(rows)}\n\nMeasured on: {'; '.join(machines)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables", help="measure nothing; renew the table of the saved figures")
    command = commands.add_parser("measure", help="measure, save the figures, renew the table")
    command.add_argument("--arm", type=Path, default=cache_root() / "arm", help="folder of arm.sh")
    command.add_argument("--data", type=Path, help="folder with PCam's files; without it, synthetic tissue")
    command.add_argument("--patches", type=count, default=20, help="so many test patches (20)")
    command.add_argument(
        "--networks", nargs="+", choices=shipped_names(), help="these, the others stay; all without it"
    )
    options = parser.parse_args()
    if options.command == "measure":
        here = environment() | {"date": time.strftime("%Y-%m-%d"), "Arm": "Cortex-A76, emulated"}
        test = Patches(options.data or ensure_dataset(current_budget().sizes), "test")
        images = network_inputs(test, range(options.patches), SIZE).numpy()
        for name in options.networks or shipped_names():
            figures = measure(name, images, options.arm) | {"environment": here}
            known = read_results(SAVED)["networks"] if SAVED.exists() else {}
            write_json(
                SAVED, {"networks": {n: f for n, f in (known | {name: figures}).items() if n in shipped_names()}}
            )
            print(f"{name}: {figures}", flush=True)
    marks.write("arm", table(read_results(SAVED)), README)


if __name__ == "__main__":
    sys.exit(until_closed(main))
