"""Patches to classify: image files, folders of them, and HDF5 files, each read whole or refused with a sentence.

A network that was trained on 8-bit RGB patches answers anything that has the shape of one; so what is no such patch
(greyscale, 16 bits, transparency, several pages, another size) is refused here and not converted by guessing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from equilib.hdf5 import PatchFileError, open_dataset, reading, wrong
from equilib.pcam import PATCH_SIZE, crop, normalize

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5")
# Named, since Pillow would also open formats that start other programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "TIFF")


def image_files(path: str | Path) -> list[Path]:
    """The file itself, or a folder's images by name; hidden ones (as the ``._*`` of macOS) are no images.

    Raises:
        PatchFileError: there is nothing of this name, or no image in the folder.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in _listed(path) if file.suffix.lower() in IMAGE_SUFFIXES)
        files = [file for file in files if not file.name.startswith(".") and not file.is_dir()]
        if not files:
            raise PatchFileError(
                f"{path} holds no images itself ({', '.join(IMAGE_SUFFIXES)}); name the folder that does"
            )
        return files
    if not path.exists():
        raise PatchFileError(f"{path} is missing")
    if not path.is_file():
        raise PatchFileError(f"{path} is no ordinary file")
    return [path]


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
    path = Path(path)
    if path.suffix.lower() in HDF5_SUFFIXES:
        yield from _read_hdf5(path, size)
    else:
        yield str(path), as_input(_read_image(path, size), str(path), size)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise PatchFileError(f"{folder} cannot be listed ({error.strerror}); change its permissions") from error


def _read_hdf5(path: Path, size: int) -> Iterator[tuple[str, Tensor]]:
    with open_dataset(path, "x") as dataset:
        if not dataset.shape or len(dataset.shape) != 4:
            raise wrong(path, f"x has shape {dataset.shape}")
        if not len(dataset):
            raise wrong(path, "x holds no patches")
        for index in range(len(dataset)):
            name = f"{path}[{index}]"
            with reading(path):
                values = dataset[index]
            yield name, as_input(values, name, size)


def _read_image(path: Path, size: int) -> np.ndarray:
    """(height, width, 3) uint8, or what the file holds instead, for :func:`as_input` to refuse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damaged metadata, which a patch does not need
            with Image.open(path, formats=FORMATS) as image:
                image.verify()  # the check sums of a PNG, which reading alone passes over
            with Image.open(path, formats=FORMATS) as image:
                if (pages := getattr(image, "n_frames", 1)) > 1:
                    raise PatchFileError(f"{path} holds {pages} pictures; save the one that is meant by itself")
                if max(image.size) > max(PATCH_SIZE, size):  # a whole slide is refused without unpacking it
                    return np.broadcast_to(np.zeros((), np.uint8), (image.height, image.width, 3))
                if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                    raise PatchFileError(f"{path} holds {image.mode} colours; save it as RGB")
                return _pixels(image)
    except PatchFileError:
        raise
    except UnidentifiedImageError as error:
        raise PatchFileError(f"{path} is no image that can be read: no {', '.join(FORMATS)} begins like it") from error
    except Exception as error:  # Pillow raises SyntaxError, struct.error and others for damaged files
        reason = " ".join(str(error).split())
        raise PatchFileError(f"{path} is no image that can be read ({reason}); it is damaged or incomplete") from error


def _pixels(image: Image.Image) -> np.ndarray:
    # Pillow keeps the upper 8 of 16 bits without a word; how values are stored stands in the way they will be unpacked.
    stored = [tile[3] if isinstance(tile[3], str) else str(tile[3][:1]) for tile in image.tile]
    bits = getattr(image, "tag_v2", {}).get(258, (8,))  # BitsPerSample of a TIFF
    deep = image.mode.startswith(("I", "F")) or any(";16" in raw for raw in stored) or max(bits) > 8
    image.load()
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values.astype(np.uint16) if deep else values


def as_input(values: np.ndarray, name: str, size: int) -> Tensor:
    """One patch (height, width, 3) uint8 as (1, 3, size, size) float32; PatchFileError where it is something else."""
    if values.dtype != np.uint8:
        raise PatchFileError(f"{name} has values of type {values.dtype}, not 8-bit ones (uint8); convert it first")
    if values.ndim != 3 or values.shape[2] != 3:
        raise PatchFileError(
            f"{name} has shape {values.shape}, not (height, width, 3); save it as RGB, without transparency"
        )
    allowed = [(side, side) for side in (PATCH_SIZE, size) if side >= size]
    if values.shape[:2] not in allowed:
        cropped = (
            f"{PATCH_SIZE} x {PATCH_SIZE} (cropped to {size} x {size})" if size <= PATCH_SIZE else f"{size} x {size}"
        )
        raise PatchFileError(
            f"{name} has {values.shape[0]} x {values.shape[1]} pixels; the network takes patches of {cropped} "
            "at the 10x magnification of PCam: cut the image, do not scale it"
        )
    return normalize(crop(torch.from_numpy(values.copy()).permute(2, 0, 1)[None], size))
