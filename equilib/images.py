"""Patches and pictures to classify: image files, folders of them, and HDF5 files, each read whole or refused with a sentence.

A network that was trained on 8-bit RGB patches answers anything that has the shape of one; so what is no such patch
(greyscale, 16 bits, transparency, several pages, another size) is refused here and not converted by guessing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from equilib.hdf5 import PatchFileError, open_dataset, reading, wrong
from equilib.pcam import PATCH_SIZE, crop, normalize

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5")
# Images, too, which are not read.
OTHER_SUFFIXES = (".bmp", ".gif", ".webp", ".jp2", ".heic", ".avif")
# Named, since Pillow would also open formats that start other programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "TIFF")


def image_files(path: str | Path) -> list[Path]:
    """The file itself, or a folder's images by name; hidden ones (as the ``._*`` of macOS) are no images.

    Raises:
        PatchFileError: there is nothing of this name, or no image in the folder.
    """
    path = Path(path)
    try:
        return _image_files(path)
    except OSError as error:  # of a folder that may not be searched, a name that is too long
        raise PatchFileError(f"{path} cannot be read ({error.strerror}); change its permissions or its name") from error


def passed_over(path: str | Path) -> list[Path]:
    """What a folder holds that may be meant, but is not read: pictures of other formats, and HDF5 files, by name."""
    path = Path(path)
    if not path.is_dir():
        return []
    return sorted(
        file
        for file in _listed(path)
        if file.suffix.lower() in (*OTHER_SUFFIXES, *HDF5_SUFFIXES) and not file.name.startswith(".")
    )


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in _listed(path) if file.suffix.lower() in IMAGE_SUFFIXES)
        files = [file for file in files if not file.name.startswith(".") and file.is_file()]
        if not files:
            raise PatchFileError(
                f"{path} holds no images itself ({', '.join(IMAGE_SUFFIXES)}); {cure_of(passed_over(path))}"
            )
        return files
    if not path.exists():
        raise PatchFileError(f"{path} is missing")
    if not path.is_file():
        raise PatchFileError(f"{path} is no ordinary file")
    return [path]


def cure_of(files: Sequence[Path]) -> str:
    """What to do about files of a folder that are passed over (:func:`passed_over`)."""
    words = []
    for suffixes, cure in ((OTHER_SUFFIXES, "save {} and its like as PNG"), (HDF5_SUFFIXES, "name {} itself")):
        found = next((file for file in files if file.suffix.lower() in suffixes), None)
        if found:
            words.append(cure.format(found.name if suffixes == OTHER_SUFFIXES else found))
    return ", ".join(words) or "name the folder that does"


def read_images(path: str | Path, size: int) -> Iterator[tuple[str, Tensor]]:
    """The patches of one file, ready for a network.

    Args:
        path: PNG, JPEG or TIFF of any compression, 8 bits, RGB; or HDF5 with key ``x``.
        size: of the network's input; patches of 96 x 96 pixels are cropped to it.

    Yields:
        A name and (1, 3, size, size) float32, normalised.

    Raises:
        PatchFileError: names the file, or the patch in it, that cannot be read or is of another size or type.
    """
    for name, values in _values(Path(path), max(PATCH_SIZE, size)):
        yield name, as_input(values, name, size)


def read_pictures(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures of one file, of any size, for :mod:`equilib.windows`.

    Args:
        path: as for :func:`read_images`.

    Yields:
        A name and (height, width, 3) uint8, as a viewer shows it: turned where the file says so (EXIF).

    Raises:
        PatchFileError: names the file, or the picture in it, that cannot be read or is of another type.
    """
    for name, values in _values(Path(path), None):
        check_rgb(values, name)
        yield name, np.ascontiguousarray(values)


def count_images(path: str | Path) -> int:
    """How many patches or pictures a file holds, for an estimate; 0 where it cannot be read."""
    path = Path(path)
    if path.suffix.lower() not in HDF5_SUFFIXES:
        return 1
    try:
        with open_dataset(path, "x") as dataset:
            return len(dataset) if dataset.shape else 0
    except PatchFileError:
        return 0


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise PatchFileError(f"{folder} cannot be listed ({error.strerror}); change its permissions") from error


def _values(path: Path, largest: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """What a file holds, unchecked.  Of images above ``largest`` pixels a side, their shape alone."""
    if path.suffix.lower() in HDF5_SUFFIXES:
        yield from _read_hdf5(path)
    else:
        yield str(path), _read_image(path, largest)


def _read_hdf5(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with open_dataset(path, "x") as dataset:
        if not dataset.shape or len(dataset.shape) != 4:
            raise wrong(path, f"x has shape {dataset.shape}")
        if not len(dataset):
            raise wrong(path, "x holds no patches")
        for index in range(len(dataset)):
            name = f"{path}[{index}]"
            with reading(path):
                values = dataset[index]
            yield name, values


def _read_image(path: Path, largest: int | None) -> np.ndarray:
    """(height, width, 3) uint8, or what the file holds instead, for :func:`check_rgb` to refuse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damaged metadata, which a patch does not need
            with Image.open(path, formats=FORMATS) as image:
                image.verify()  # the check sums of a PNG, which reading alone passes over
            with Image.open(path, formats=FORMATS) as image:
                if (pages := getattr(image, "n_frames", 1)) > 1:
                    raise PatchFileError(f"{path} holds {pages} pictures; save the one that is meant by itself")
                if largest is not None and max(image.size) > largest:  # a whole slide is refused without unpacking it
                    return np.broadcast_to(np.zeros((), np.uint8), (image.height, image.width, 3))
                if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                    raise PatchFileError(f"{path} holds {image.mode} colours; save it as RGB")
                return _pixels(image)
    except PatchFileError:
        raise
    except PermissionError as error:
        raise PatchFileError(f"{path} may not be read ({error.strerror}); change its permissions") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS / 1e6
        raise PatchFileError(f"{path} has more than {limit:.0f} million pixels; cut it into pieces") from error
    except UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise PatchFileError(f"{path} is empty (0 bytes); copy it again") from error
        raise PatchFileError(
            f"{path} is no image that can be read: no {', '.join(FORMATS)} begins like it; save an image of another format "
            "as PNG"
        ) from error
    except Exception as error:  # Pillow raises SyntaxError, struct.error and others for damaged files
        reason = " ".join(str(error).split())
        raise PatchFileError(f"{path} is no image that can be read ({reason}); it is damaged or incomplete") from error


def _pixels(image: Image.Image) -> np.ndarray:
    # Pillow keeps the upper 8 of 16 bits without a word; how values are stored stands in the way they will be unpacked.
    stored = [tile[3] if isinstance(tile[3], str) else str(tile[3][:1]) for tile in image.tile]
    bits = getattr(image, "tag_v2", {}).get(258, (8,))  # BitsPerSample of a TIFF
    deep = image.mode.startswith(("I", "F")) or any(";16" in raw for raw in stored) or max(bits) > 8
    image.load()
    image = _upright(image)
    if image.mode in ("P", "RGB") and "transparency" in image.info:  # one colour that is none
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values.astype(np.uint16) if deep and values.dtype.kind != "f" else values


def _upright(image: Image.Image) -> Image.Image:
    """As every viewer shows it: a camera may store a picture lying down and its orientation beside it (EXIF)."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata raises what it likes; a viewer then shows the picture as it is stored
        return image


def check_rgb(values: np.ndarray, name: str) -> None:
    """PatchFileError unless these are (height, width, 3) and uint8."""
    if values.dtype != np.uint8:
        raise PatchFileError(f"{name} has values of type {values.dtype}, not 8-bit ones (uint8); convert it first")
    if values.ndim != 3 or values.shape[2] != 3:
        first = values.ndim == 3 and values.shape[0] == 3
        remedy = "the colours come last: transpose it" if first else "save it as RGB, without transparency"
        raise PatchFileError(f"{name} has shape {values.shape}, not (height, width, 3); {remedy}")


def as_input(values: np.ndarray, name: str, size: int) -> Tensor:
    """One patch (height, width, 3) uint8 as (1, 3, size, size) float32; PatchFileError where it is something else."""
    check_rgb(values, name)
    allowed = [(side, side) for side in (PATCH_SIZE, size) if side >= size]
    if values.shape[:2] not in allowed:
        cropped = (
            f"{PATCH_SIZE} x {PATCH_SIZE} (cropped to {size} x {size})" if size <= PATCH_SIZE else f"{size} x {size}"
        )
        windows = ", or give --stride, which answers window by window" if min(values.shape[:2]) > size else ""
        raise PatchFileError(
            f"{name} has {values.shape[0]} x {values.shape[1]} pixels; the network takes patches of {cropped} "
            f"at the 10x magnification of PCam: cut the image, do not scale it{windows}"
        )
    return normalize(crop(torch.from_numpy(values.copy()).permute(2, 0, 1)[None], size))
