"""Tables in Markdown files, between marks, so that a program can renew them and a test can hold them to the figures."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
README, RESULTS, BENCHMARKS = (ROOT / folder / "README.md" for folder in ("", "results", "benchmarks"))
# Which file holds the marks of which name.
FILES = {
    "table 1": README,
    "differences": RESULTS,
    "differences, multiples of 24": RESULTS,
    "grid": RESULTS,
    "ablation": RESULTS,
    "ablation, most patches": RESULTS,
    "the paper's augmentation": RESULTS,
    "again": RESULTS,
    "search": RESULTS,
    "training step": README,
    "make bench": BENCHMARKS,
}


def shown(name: str, path: Path | None = None) -> str:
    """What stands between the marks of this name, in the file that holds them or in ``path``."""
    return _split(name, path or FILES[name])[1].strip()


def write(name: str, text: str, path: Path | None = None) -> None:
    """Put a text between the marks of this name."""
    path = path or FILES[name]
    head, _, tail = _split(name, path)
    path.write_text(f"{head}\n{text}\n{tail}")


def _split(name: str, path: Path) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path.name} must hold {begin} and {end} once each")
    head, rest = text.split(begin)
    inside, tail = rest.split(end)
    return head + begin, inside, end + tail
