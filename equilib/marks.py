"""Tables in Markdown files, between marks, so that a program can renew them and a test can hold them to the figures.

The marks of a name are the comments ``<!-- name: begin -->`` and ``<!-- name: end -->``.
"""

from __future__ import annotations

from pathlib import Path

from equilib.results import written_whole


def shown(name: str, path: Path) -> str:
    """What stands between the marks of this name; raises ValueError where the file does not hold them once each."""
    return _split(name, path)[1].strip()


def write(name: str, text: str, path: Path) -> None:
    """Put a text between the marks of this name; raises ValueError where the file does not hold them once each."""
    head, _, tail = _split(name, path)
    with written_whole(path) as temporary:
        temporary.write_text(f"{head}\n{text}\n{tail}", encoding="utf-8")


def _split(name: str, path: Path) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path.name} must hold {begin} and {end} once each")
    head, rest = text.split(begin)
    inside, tail = rest.split(end)
    return head + begin, inside, end + tail
