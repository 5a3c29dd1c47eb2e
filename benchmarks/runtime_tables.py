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

# Runtimes that know no processor time, so that the time that passes is measured.
WALL_CLOCK = ("node", "chromium")
RATIO = "INT8, × the conventional one of its channels (batch 1; 32)"


def _milliseconds(row: dict, batch: str) -> str | None:
    value = row.get("milliseconds", {}).get(batch)
    return None if value is None else f"{value:.3g}"


def _cell(figures: dict, text: Callable[[dict], str | None]) -> str:
    cells = [text(figures.get(precision, {})) or "–" for precision in PRECISIONS]
    return cells[0] if cells[0] == cells[1] else " → ".join(cells)


def _split(title: str) -> tuple[str, str]:
    """What a title (:func:`equilib.live.describe`) says of the channels, and all the rest of it."""
    parts = title.split(", ")
    return tuple(", ".join(part for part in parts if ("channels" in part) is wanted) for wanted in (True, False))


def _of_its_channels(results: dict, network: dict) -> dict | None:
    """The conventional network of the same channels, however long trained; None if none is there."""
    channels, _ = _split(network["title"])
    alike = (other for other in results["networks"].values() if _split(other["title"])[0] == channels)
    return next((other for other in alike if other["title"].startswith("Conventional")), None)


def _ratio(results: dict, network: dict, runtime: str) -> str:
    """INT8 at batch 1 and 32 relative to the conventional network of the same channels.

    Only where both are of one measurement, and, where time that passes is measured (WebAssembly), on a machine that did
    nothing else.
    """
    other = _of_its_channels(results, network)
    names = [name for name, one in results["networks"].items() if one is network or one is other]
    passes = runtime in WALL_CLOCK
    together = any(
        set(names) <= set(entry["networks"])
        and not (passes and any("beside" in note for note in entry.get("notes", [])))
        for entry in results["measured"].get("latency", {}).get(runtime, [])
    )
    if other is None or other is network or not together:
        return "–"
    ours, theirs = (one["runtimes"][runtime]["INT8"]["milliseconds"] for one in (network, other))
    return "; ".join(f"×{ours[batch] / theirs[batch]:.2f}" for batch in ours)


def tables(results: dict) -> str:
    """All networks in all runtimes, FP32 → INT8; a runtime without figures has a row that says how to get it."""
    rows = []
    for network in results["networks"].values():
        for runtime, label in LABELS.items():
            if runtime in network["runtimes"]:
                figures = network["runtimes"][runtime]
                cells = {column: _cell(figures, text) for column, text in COLUMNS.items()}
                cells[RATIO] = _ratio(results, network, runtime)
                if not figures:
                    cells[next(iter(COLUMNS))] = "not measured yet"
                rows.append({"FP32 → INT8": network["title"], "runtime": label} | cells)
    for runtime, way in results["missing"].items():
        cells = dict.fromkeys((*COLUMNS, RATIO), "–") | {next(iter(COLUMNS)): f"missing: {way}"}
        rows.append({"FP32 → INT8": "all", "runtime": LABELS[runtime]} | cells)
    return f"{_words(results)}\n\n{markdown_table(rows)}"


SHORT = ("batch 1, ms", "batch 32, ms", "same bits under four turns")


def short_table(results: dict, runtime: str = "onnxruntime") -> str:
    """FP32 → INT8 in one runtime, of networks whose time was measured.

    Where these hold several conventional ones: only those with the channels of the last, so that like is compared with like;
    where all have the same, the text above the table says them, not each title.
    """
    timed = [
        network
        for network in results["networks"].values()
        if "milliseconds" in network["runtimes"].get(runtime, {}).get("INT8", {})
    ]
    conventional = [network for network in timed if _of_its_channels(results, network) is network]
    chosen = timed
    if len(conventional) > 1:
        chosen = [network for network in timed if _of_its_channels(results, network) is conventional[-1]]
    alike = len({_split(network["title"])[0] for network in chosen}) == 1
    rows = [
        {"FP32 → INT8": _split(network["title"])[1] if alike else network["title"]}
        | {column: _cell(network["runtimes"][runtime], COLUMNS[column]) for column in SHORT}
        for network in chosen
    ]
    return markdown_table(rows)


def _words(results: dict) -> str:
    words = ["One thread, 95 × 95 pixels"]
    kinds = {entry.get("data", "") for entries in results["measured"].get("answers", {}).values() for entry in entries}
    if len(kinds) == 1 and all(kinds):  # else each entry says its own
        words.append(f"bits and logits on the first test patches of {kinds.pop()}")
    titles = {name: network["title"] for name, network in results["networks"].items()}
    parts = [_machines(part, where, titles, several=len(kinds) > 1) for part, where in results["measured"].items()]
    return f"{'; '.join(words)}. {' '.join(parts)}"


def _machines(part: str, where: dict[str, list[dict]], titles: dict[str, str], several: bool) -> str:
    """On which machine each runtime was measured, runtimes with the same one together; networks where not all are meant."""
    together: dict[str, list[str]] = {}
    for runtime, entries in where.items():
        for entry in entries:
            shown = [entry["processor"], entry["instructions"], f"revision {entry['revision']}", entry["date"]]
            shown += entry.get("notes", [])
            shown += [f"patches of {entry['data']}"] if several and entry.get("data") else []
            chosen = [titles[name] for name in entry["networks"]]
            only = "" if len(chosen) == len(titles) else f", {' and '.join(chosen)}"
            together.setdefault(", ".join(shown), []).append(f"{LABELS[runtime]} ({entry['runtime']}{only})")
    listed = "; ".join(f"{', '.join(runtimes)}: {machine}" for machine, runtimes in together.items())
    return f"{part.capitalize()}: {listed}."
