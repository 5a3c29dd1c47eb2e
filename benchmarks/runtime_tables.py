"""The table of results/runtimes.json."""

from __future__ import annotations

from collections.abc import Callable

from equilib.results import markdown_table
from equilib.runtimes import LABELS

PRECISIONS = ("FP32", "INT8")
COLUMNS: dict[str, Callable[[dict], str | None]] = {
    "batch 1, ms": lambda row: _milliseconds(row, "1"),
    "batch 32, ms": lambda row: _milliseconds(row, "32"),
    "file, MB": lambda row: f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else None,
    "memory, MiB": lambda row: f"{row['peak_mib']:.0f}" if row.get("peak_mib") is not None else None,
    "largest difference of logits": lambda row: f"{row['difference']:.1g}" if "difference" in row else None,
    "same bits under four turns": lambda row: f"{100 * row['identical']:.1f} %" if "identical" in row else None,
    "patches": lambda row: f"{row['patches']:,}" if "patches" in row else None,
}


def _milliseconds(row: dict, batch: str) -> str | None:
    value = row.get("milliseconds", {}).get(batch)
    return None if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _cell(figures: dict, text: Callable[[dict], str | None]) -> str:
    cells = [text(figures.get(precision, {})) or "–" for precision in PRECISIONS]
    return cells[0] if cells[0] == cells[1] else " → ".join(cells)


def tables(results: dict) -> str:
    """All networks in all runtimes, FP32 → INT8; a runtime without figures has a row that says how to get it."""
    rows = []
    for network in results["networks"].values():
        for runtime, label in LABELS.items():
            if runtime in network["runtimes"]:
                figures = network["runtimes"][runtime]
                cells = {column: _cell(figures, text) for column, text in COLUMNS.items()}
                rows.append({"FP32 → INT8": network["title"], "runtime": label} | cells)
    for runtime, way in results["missing"].items():
        cells = dict.fromkeys(COLUMNS, "–") | {next(iter(COLUMNS)): f"missing: {way}"}
        rows.append({"FP32 → INT8": "all", "runtime": LABELS[runtime]} | cells)
    return f"{_words(results)}\n\n{markdown_table(rows)}"


SHORT = ("batch 1, ms", "batch 32, ms", "same bits under four turns")


def short_table(results: dict, runtime: str = "onnxruntime") -> str:
    """All networks in one runtime, FP32 → INT8."""
    rows = [
        {"FP32 → INT8": network["title"]}
        | {column: _cell(network["runtimes"][runtime], COLUMNS[column]) for column in SHORT}
        for network in results["networks"].values()
        if runtime in network["runtimes"]
    ]
    return markdown_table(rows)


def _words(results: dict) -> str:
    words = ["One thread, 95 × 95 pixels"]
    if results.get("data"):
        words.append(f"bits and logits on the first test patches of {results['data']}")
    return "; ".join(words) + f". {' '.join(_machines(part, where) for part, where in results['measured'].items())}"


def _machines(part: str, where: dict[str, dict]) -> str:
    """On which machine each runtime was measured, runtimes with the same one together."""
    together: dict[str, list[str]] = {}
    for runtime, machine in where.items():
        shown = ("processor", "instructions", "revision", "date")
        key = ", ".join(f"{name} {machine[name]}" if name == "revision" else machine[name] for name in shown)
        together.setdefault(key, []).append(f"{LABELS[runtime]} ({machine['runtime']})")
    listed = "; ".join(f"{', '.join(runtimes)}: {machine}" for machine, runtimes in together.items())
    return f"{part.capitalize()}: {listed}."
