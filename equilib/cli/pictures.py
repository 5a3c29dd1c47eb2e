"""``equilib predict --stride``: pictures larger than a patch, window by window, and their maps."""

from __future__ import annotations

import argparse
import csv
import errno
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equilib.images import IMAGE_SUFFIXES, count_images, read_pictures
from equilib.progress import bar
from equilib.results import written_whole
from equilib.windows import Windows, probability_map, windows_that_fit

if TYPE_CHECKING:
    from equilib.cli.predict import Classifier, Inputs


def predict_pictures(model: Classifier, inputs: Inputs, options: argparse.Namespace) -> None:
    """A row of CSV for each window, a map for each picture; what could not be answered is added to ``inputs.refused``."""
    name_map = _map_names(options.map, options.images) if options.map else None
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "row", "column", "class", "probability_of_tumour"])
    warned = set()  # of pictures of one size, the first is enough
    drawn = 0
    total = sum(map(count_images, type(inputs)(inputs.paths).files()))
    shown = total > 1 and not sys.stdout.isatty()  # a single one has a bar of its windows
    for name, picture in bar(inputs.each(read_pictures), total=total, words="pictures", unit="picture", shown=shown):
        try:
            windows = _windows(*picture.shape[:2], model.size, options.stride)
        except ValueError as error:
            inputs.refused.append(f"{name}: {error}")
            continue
        if picture.shape not in warned:
            warned.add(picture.shape)
            for warning in _warnings(name, windows):
                print(f"equilib: {warning}", file=sys.stderr)
        probabilities = _probabilities(model, picture, windows, name)
        inputs.refused += _unanswered(name, probabilities, windows)
        for row, line in zip(windows.rows, probabilities):
            for column, probability in zip(windows.columns, line):
                if math.isfinite(probability):
                    writer.writerow([name, row, column, int(probability > 0.5), f"{probability:.4f}"])
        if name_map:
            try:
                _draw(name_map(name), picture, probabilities, windows, name)
                drawn += 1
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                inputs.refused.append(f"the map {error.filename} cannot be written: {error.strerror}")
    if drawn:
        print(f"maps are in {options.map}", file=sys.stderr)


def _windows(height: int, width: int, size: int, stride: int | None) -> Windows:
    """The windows that were asked for; by default those of the stride near PCam's label window that fits the picture."""
    return windows_that_fit(height, width, size) if stride is None else Windows(height, width, size, stride)


def _probabilities(model: Classifier, picture: np.ndarray, windows: Windows, name: str) -> np.ndarray:
    progress = functools.partial(
        bar, total=math.ceil(len(windows) / model.batch), words=Path(name).name, unit=f" x {model.batch} windows"
    )
    return probability_map(
        model.session, picture, windows, batch_size=model.batch, normalized=model.normalized, progress=progress
    ).numpy()


def _warnings(name: str, windows: Windows) -> Iterator[str]:
    if not windows.exact:
        yield _does_not_fit(name, windows)
    if windows.stride > windows.size:
        yield (
            f"{name}: --stride {windows.stride} leaves gaps between windows of {windows.size} pixels: "
            f"{1 - windows.covered:.1%} of the picture are in none; at most {windows.size} leaves no gaps"
        )


def _does_not_fit(name: str, windows: Windows) -> str:
    rests = [(length, (length - windows.size) % windows.stride) for length in (windows.height, windows.width)]
    length, rest = next((length, rest) for length, rest in rests if rest % 2)
    fitting = " or ".join(map(str, windows.fitting_strides()))  # 1, if no other
    return (
        f"{name}: --stride {windows.stride} leaves ({length} - {windows.size}) mod {windows.stride} = {rest} pixels over, an odd "
        f"number, which two sides cannot share; so if the picture is turned by 90 degrees, other windows are answered; strides near it "
        f"that fit: {fitting}"
    )


def _unanswered(name: str, probabilities: np.ndarray, windows: Windows) -> list[str]:
    rows, columns = np.nonzero(~np.isfinite(probabilities))
    if not len(rows):
        return []
    first = f"row {windows.rows[rows[0]]}, column {windows.columns[columns[0]]}"
    return [f"{name}: the model answers {len(rows)} of {len(windows)} windows with no finite numbers, first at {first}"]


def _map_names(folder: Path, images: list[Path]) -> Callable[[str], Path]:
    """Where the map of a picture goes: never two to one file, and never among the pictures themselves."""
    if folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir():
        raise ValueError(
            f"--map {folder} is named like a picture; name the folder of the maps, which are called after theirs"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        beside = path.parent if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir() else path
        if os.path.realpath(beside) == os.path.realpath(folder):
            raise ValueError(
                f"--map {folder} is a folder of pictures, where the maps would be taken for some; name another"
            )
    held = next((path for path in sorted(folder.iterdir()) if _is_picture(path)), None)
    if held is not None:
        raise ValueError(
            f"--map {folder} holds pictures ({held.name}), among which the maps would be taken for some; name another folder"
        )
    taken = set()

    def place(name: str) -> Path:
        in_file = re.fullmatch(r"(.*)\.\w+\[(\d+)\]", Path(name).name)  # of HDF5
        stem, number = f"{in_file[1]}_{in_file[2]}" if in_file else Path(name).stem, 1
        path = folder / f"{stem}_map.png"
        while path in taken:
            number += 1
            path = folder / f"{stem}_map_{number}.png"
        taken.add(path)
        return path

    return place


def _is_picture(path: Path) -> bool:
    """Whether a later call would take a file for tissue, if it were not for its maps."""
    is_map = re.fullmatch(r".*_map(_\d+)?\.png", path.name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not is_map


def _draw(path: Path, picture: np.ndarray, probabilities: np.ndarray, windows: Windows, name: str) -> None:
    from equilib.figures import png, tumour_map

    # A name is no formula, and may hold bytes that no font has.
    title = Path(name).name.encode(errors="backslashreplace").decode().replace("$", r"\$")
    with written_whole(path) as temporary:
        temporary.write_bytes(png(tumour_map(picture, probabilities, windows, title=title), dpi=150))
