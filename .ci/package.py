"""Build the wheel and the sdist, and print what is in them: ``make package``, or ``python .ci/package.py dist``.

Both are made by setuptools as it is installed; nothing is asked of an index.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(output: str | Path, source: str | Path = ROOT) -> list[Path]:
    """The wheel and the sdist of a checkout, in a folder."""
    from setuptools import build_meta

    output, before = Path(output).resolve(), Path.cwd()
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(Path(source) / "build" / "lib", ignore_errors=True)  # or modules that are gone would be packed again
    os.chdir(source)
    try:
        return [output / build_meta.build_wheel(str(output)), output / build_meta.build_sdist(str(output))]
    finally:
        os.chdir(before)


def contents(archive: str | Path) -> dict[str, int]:
    """Bytes of each file by its name; the folder that an sdist wraps around all of them is left out."""
    archive = Path(archive)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return {entry.filename: entry.file_size for entry in opened.infolist()}
    with tarfile.open(archive) as opened:
        return {entry.name.partition("/")[2]: entry.size for entry in opened.getmembers() if entry.isfile()}


def summary(archive: Path) -> str:
    """A line for each folder, and the size of the whole."""
    parts = defaultdict(list)
    for name, size in contents(archive).items():
        parts[str(Path(name).parent)].append(size)
    lines = [f"{sum(sizes) / 1e6:9.3f} MB {len(sizes):4d} files  {part}" for part, sizes in sorted(parts.items())]
    return f"{archive}: {archive.stat().st_size / 1e6:.1f} MB\n" + "\n".join(lines)


def main(output: str) -> None:
    built = build(output)
    print("\n\n".join(map(summary, built)))


if __name__ == "__main__":
    main(*sys.argv[1:])
