"""The tables of what benchmarks/speed.py saved."""

from __future__ import annotations

from collections.abc import Callable

from training_step import BATCH

from equilib.results import markdown_table


def _by_setting(rows: list[dict], name: str, values: str, text: Callable[[float, float], str]) -> str:
    """A row a setting and a column a network: ``text`` makes a cell of the value and its ratio to the conventional one."""
    variants = dict.fromkeys(variant for row in rows for variant in row[values])
    lines = []
    for row in rows:
        setting = f"{row['group']}, width {row['width']}" + ", bfloat16" * (row.get("precision") == "bfloat16")
        found = {variant: text(value, row["ratio"][variant]) for variant, value in row[values].items()}
        lines.append({name: setting} | dict.fromkeys(variants, "–") | found)
    return markdown_table(lines)


def _seconds(value: float, ratio: float) -> str:
    return f"{value:.2f} s (×{ratio:.2f})"


def _mebibytes(value: float, ratio: float) -> str:
    return f"{value:.0f} MiB (×{ratio:.2f})"


def data_table(results: dict) -> str:
    """Patches a second, by the layout of the file."""
    theirs = "both files reopened for each patch"
    return markdown_table(
        [
            {
                "layout of the file": row["layout"],
                "equilib": f"{row['equilib']:,.0f}",
                theirs: f"{row[theirs]:,.0f}",
                "training takes": f"{row['network']:,.0f}",
            }
            for row in results["data_path"]
        ]
    )


def latency_table(results: dict) -> str:
    """Milliseconds a batch in onnxruntime, FP32 and INT8; the size of the files in the last row of a network's setting."""
    rows = []
    for row in results["deployment"]:
        networks = list(dict.fromkeys(name.rpartition(", ")[0] for name in row["size_mb"]))
        setting = f"{row['group']}, width {row['width']}"
        for size, latency in row["latency_ms"].items():
            cells = {name: _both(latency, name) for name in networks}
            rows.append({"FP32 → INT8, one thread": f"{setting}, batch {size}, ms"} | cells)
        files = {name: _both(row["size_mb"], name) for name in networks}
        rows.append({"FP32 → INT8, one thread": f"{setting}, file, MB"} | files)
    return markdown_table(rows)


def _both(values: dict[str, float], network: str) -> str:
    real, integers = (values[f"{network}, {precision}"] for precision in ("FP32", "INT8"))
    return f"{real:.2f} → {integers:.2f}"


def construction_table(results: dict) -> str:
    """Seconds to build a network."""
    return markdown_table(
        [
            {
                "construction": f"{row['group']}, width {row['width']}, {row['kind']}",
                "seconds": f"{row['seconds']['build']:.2f}",
            }
            for row in results["construction"]
        ]
    )


def redraw_table(results: dict) -> str:
    """Milliseconds that a slider takes, and a new figure."""
    return markdown_table(
        [
            {
                "slider": row["widget"],
                **{case: f"{value:.0f} ms" for case, value in row["ms"].items()},
                "ratio": f"×{row['ratio']:.1f}",
            }
            for row in results["redraw"]
        ]
    )


def machines(results: dict) -> str:
    """Which parts were measured on which machine, since a part can be measured by itself."""
    where: dict[str, list[str]] = {}
    for name, measured in results["measured"].items():
        machine = ", ".join(f"{key} {value}" for key, value in measured["environment"].items())
        where.setdefault("; ".join([machine, measured["date"], *measured.get("notes", [])]), []).append(name)
    return "; ".join(f"{', '.join(names)}: {machine}" for machine, names in where.items())


NETWORKS = ("training", "inference", "memory", "construction", "deployment")  # parts that compare them


def channels(results: dict) -> str:
    """Which channels the compared networks have, as far as the saved figures say."""
    known: dict[str, list[str]] = {}
    for name in NETWORKS:
        divisor = results["measured"].get(name, {}).get("divisor")
        words = f"multiples of {divisor}" if divisor else "multiples of |G| and equilib's layers strict, as of old"
        known.setdefault(words, []).append(name)
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in known.items())


def tables(results: dict) -> str:
    """All of them, for benchmarks/README.md."""
    return "\n\n".join(
        [
            f"One thread, batch {BATCH}, 95 × 95 pixels; medians of interleaved runs; × is relative to the conventional "
            f"network. Measured on: {machines(results)}. Channels: {channels(results)}.",
            _by_setting(results["training"], "training step", "seconds", _seconds),
            _by_setting(results["inference"], "inference", "seconds", _seconds),
            _by_setting(results["memory"], "peak memory of training", "mib", _mebibytes),
            "Patches a second, from the file to the network's input (shuffled, cropped, augmented, normalised; reopening: "
            "read only):",
            data_table(results),
            latency_table(results),
            construction_table(results),
            redraw_table(results),
        ]
    )
