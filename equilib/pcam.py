"""PatchCamelyon: reading its HDF5 files, and what happens to a batch before the network.

A split is two files in one folder, ``camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5``: key ``x`` holds uint8
patches (N, 96, 96, 3), key ``y`` labels (N, 1, 1, 1), 1 where the centre 32 x 32 pixels hold tumour tissue.
``data_download.sh`` fetches the real files; :func:`equilib.synthetic.ensure_dataset` draws synthetic ones.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from equilib.hdf5 import (  # noqa: F401 (whoever reads patches finds PCam's layout and errors here)
    LABEL_WINDOW,
    PATCH_SIZE,
    SPLITS,
    PatchFileError,
    mapped_offset,
    open_dataset,
    reading,
    wrong,
)

PUBLISHED_SIZES = {"train": 262_144, "valid": 32_768, "test": 32_768}
# Of PCam's training split, per RGB channel, for intensities in [0, 1].
MEAN = (0.7008, 0.5384, 0.6916)
STD = (0.2350, 0.2774, 0.2129)
# As many patches tell one data set from another, see Patches.digest().
_SAMPLED = 32


def split_path(root: str | Path, split: str, key: str) -> Path:
    """The path of one file: ``split`` is train, valid or test, ``key`` is x or y."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return Path(root) / f"camelyonpatch_level_2_split_{split}_{key}.h5"


class Patches(Dataset):
    """One split of PCam, uint8 and unchanged, read in batches.

    Uncompressed contiguous files are memory-mapped.  Of chunked ones whole slabs are read (``slab`` patches that share
    chunks), and the last ones used, up to 256 MB, are kept: ask for patches in the order of :func:`shuffled_order`, and
    each slab is read and unpacked once.  Files are opened once per process, so that worker processes (forked or spawned)
    never share a handle.

    Args:
        root: the folder of the files.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        limit: use only the first ``limit`` patches.

    Raises:
        PatchFileError: a file is missing, truncated, of the wrong key, shape or dtype, or x and y differ in length.
        ValueError: unknown split, or ``limit`` larger than the split.
    """

    def __init__(self, root: str | Path, split: str, *, limit: int | None = None):
        self.root, self.split = Path(root), split
        self.path = split_path(root, split, "x")
        self.labels = _read_labels(split_path(root, split, "y"))
        with open_dataset(self.path, "x") as dataset:
            if dataset.shape is None or dataset.shape[1:] != (PATCH_SIZE, PATCH_SIZE, 3):
                raise wrong(self.path, f"x has shape {dataset.shape}, not (N, {PATCH_SIZE}, {PATCH_SIZE}, 3)")
            if dataset.dtype != np.uint8:
                raise wrong(self.path, f"x has dtype {dataset.dtype}, not uint8")
            if len(dataset) != len(self.labels):
                raise wrong(
                    self.path,
                    f"it holds {len(dataset)} patches, but its labels {split_path(root, split, 'y').name} are "
                    f"{len(self.labels)}; the files belong to different splits or one is incomplete",
                )
            self._shape = dataset.shape
            self._offset = mapped_offset(dataset, self.path)
            self.slab = dataset.chunks[0] if dataset.chunks else 1
        if limit is not None:
            if not 1 <= limit <= len(self.labels):
                # By the name that configurations and the command line give it.
                raise ValueError(
                    f"{split}_limit must lie between 1 and the {len(self.labels)} patches of {split}, got {limit}"
                )
            self.labels = self.labels[:limit]
        self._handle, self._process, self._slabs = None, None, OrderedDict()

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self):
        # A handle must not cross into another process, and a memory map would be pickled as a copy of the file.
        return self.__dict__ | {"_handle": None, "_process": None, "_slabs": OrderedDict()}

    def _patches(self):
        if self._handle is None or self._process != os.getpid():
            with reading(self.path):
                if self._offset is not None:
                    self._handle = np.memmap(self.path, np.uint8, "r", self._offset, self._shape)
                else:
                    # HDF5's own cache only has to hold a chunk while a slab is put together.
                    self._handle = h5py.File(self.path, "r", rdcc_nbytes=2**24, locking="best-effort")["x"]
                    self._slabs = OrderedDict()
            self._process = os.getpid()
        return self._handle

    def _read_slab(self, number: int) -> np.ndarray:
        if number in self._slabs:
            self._slabs.move_to_end(number)
        else:
            start = number * self.slab
            patches = self._patches()
            with reading(self.path):
                self._slabs[number] = patches[start : start + self.slab]
            while len(self._slabs) > _window(self.slab) // self.slab:
                self._slabs.popitem(last=False)
        return self._slabs[number]

    def images(self, indices) -> np.ndarray:
        """Patches by index, in the order asked for: (B, 96, 96, 3) uint8."""
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise TypeError(f"indices must be a row of whole numbers, got {indices.dtype} of shape {indices.shape}")
        indices = indices.astype(np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"patch {indices.min()}…{indices.max()} of {len(self)}")
        patches = self._patches()
        if self._offset is not None:
            return patches[indices]
        images = np.empty((len(indices), *self._shape[1:]), np.uint8)
        # Those at hand first: reading another one may push them out.
        for number in sorted(set((indices // self.slab).tolist()), key=lambda number: number not in self._slabs):
            wanted = np.flatnonzero(indices // self.slab == number)
            images[wanted] = self._read_slab(number)[indices[wanted] % self.slab]
        return images

    def digest(self) -> str:
        """16 hexadecimal digits that tell data sets apart by what they hold, wherever and however packed it lies.

        They depend on the number of patches, all labels, and the pixels of 32 patches spread over the split.
        """
        spread = np.unique(np.linspace(0, len(self) - 1, min(_SAMPLED, len(self))).astype(int))
        content = hashlib.sha256(self.labels.astype(np.uint8).tobytes())
        for index in spread:
            content.update(np.ascontiguousarray(self.images([index])).tobytes())
        return content.hexdigest()[:16]

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images([index])[0], int(self.labels[index])

    def __getitems__(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """What a DataLoader calls for a batch: images and labels, not a list of pairs."""
        return self.images(indices), self.labels[np.asarray(indices, dtype=np.int64)]


def _window(slab: int) -> int:
    """The number of patches, whole slabs, that fit into 256 MB."""
    patches = 2**28 // PATCH_SIZE**2 // 3
    return max(1, patches // slab) * slab


def shuffled_order(length: int, slab: int, generator: torch.Generator) -> Tensor:
    """A random order of ``range(length)`` in which whole slabs of a chunked file stay near each other.

    Slabs are shuffled, then patches within windows of 256 MB.  With ``slab`` = 1 all orders are equally likely.
    """
    if slab == 1:
        return torch.randperm(length, generator=generator)
    starts = torch.randperm((length + slab - 1) // slab, generator=generator) * slab
    order = []
    for window in starts.split(_window(slab) // slab):
        patches = (window[:, None] + torch.arange(slab)).flatten()
        patches = patches[patches < length]
        order.append(patches[torch.randperm(len(patches), generator=generator)])
    return torch.cat(order)


def collate(batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    """(B, 96, 96, 3) uint8 and labels to (B, 3, 96, 96) uint8 (channels_last in memory, no copy) and (B,) int64."""
    images, labels = batch
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def crop(images: Tensor, size: int) -> Tensor:
    """Crop (…, n, n) to (…, size, size).  From 96 to 95 pixels this takes the last row and column off.

    Such a crop does not commute with rotations, so all rotations act after it.
    """
    n = images.shape[-1]
    if images.shape[-2:] != (n, n):
        raise ValueError(f"images must be square to be cropped, got {images.shape[-2]} x {n} pixels")
    if not 1 <= size <= n:
        raise ValueError(f"input_size={size} cannot be cropped from images of {n} x {n} pixels; take one from 1 to {n}")
    start = (n - size) // 2
    return images[..., start : start + size, start : start + size]


def turn_and_reflect(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random quarter turn, and for half of the patches a reflection (section 5 of the paper).

    Args:
        images: (B, C, n, n), any dtype.
        generator: on the CPU; decides alone, so that a batch can be repeated.
    """
    choice = torch.randint(0, 8, (len(images),), generator=generator).to(images.device)
    result = images.clone()
    for element in range(1, 8):
        selected = choice == element
        if selected.any():
            turned = torch.rot90(images[selected], element % 4, (-2, -1))
            result[selected] = turned.flip(-1) if element >= 4 else turned
    return result


def turn_any_angle(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A random rotation by any angle for each patch, interpolated bilinearly; for networks that see the disc only.

    Interpolation blurs, so a network that sees turned patches alone never sees a sharp one.

    Args:
        images: (B, C, n, n), uint8 or float32; pixels from outside the picture repeat its edge.
        share: of the patches that are turned, between 0 and 1; the others stay as they are.
        generator: on the CPU; decides alone.

    Returns:
        Float32, same shape and scale.
    """
    angle = 2 * torch.pi * torch.rand(len(images), generator=generator)
    if share < 1:
        angle[torch.rand(len(images), generator=generator) >= share] = 0
    angle = angle.to(images.device)
    zero = torch.zeros_like(angle)
    rows = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def vary_stain(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Vary how strongly each patch is stained: the amounts of haematoxylin, eosin and the rest.

    The logarithm of the light that passes (optical density) is linear in the amounts of dye (Ruifrok and Johnston 2001);
    each amount c becomes (1 + a) c + b, with a and b uniform in ±strength for each patch and dye (Tellez et al. 2018).

    Args:
        images: (B, 3, n, n), uint8 or float32, values 0 to 255.
        strength: 0 changes nothing (but values of 0, whose density is infinite, become 1), 0.05 is mild, 0.2 strong.
        generator: on the CPU; decides alone.

    Returns:
        Float32, same shape, values 0 to 255.

    Raises:
        ValueError: another shape, or whole numbers outside of 0 to 255.
    """
    _check_pixels(images)
    from skimage.color import hed_from_rgb, rgb_from_hed

    to_dye, to_rgb = (torch.tensor(m, dtype=torch.float32) for m in (hed_from_rgb, rgb_from_hed))
    scale, shift = strength * (2 * torch.rand(2, len(images), 3, generator=generator) - 1)
    matrix = ((to_dye * (1 + scale)[:, None]) @ to_rgb).mT.to(images.device)  # (B, 3, 3), on columns of density
    offset = (shift @ to_rgb).to(images.device)
    density = -(images.float().clamp_min(1) / 255).log().flatten(2)
    changed = torch.baddbmm(offset[:, :, None], matrix, density)
    return 255 * (-changed).exp().clamp_max(1).view(images.shape)


def normalize(images: Tensor) -> Tensor:
    """Patches (B, 3, n, n), uint8 or other numbers from 0 to 255, to float32 with zero mean and unit variance over PCam,
    channels_last.

    Raises:
        ValueError: another shape, whole numbers outside of 0 to 255, or real numbers from 0 to 1.
    """
    _check_pixels(images)
    if images.is_floating_point() and images.numel():
        high = images.max()
        if 0 < high <= 1 and (images != images.round()).any():
            raise ValueError("patches hold real numbers from 0 to 1, where 0 to 255 is meant; multiply them by 255")
    return standardize(images)


def standardize(images: Tensor) -> Tensor:
    """:func:`normalize` without a look at the values: an augmented patch may be as dark as one that is scaled to 1."""
    # A copy even of floats, since it is changed in place.
    x = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    rows = x.permute(0, 2, 3, 1).flatten(2)  # (B, n, 3 n): long rows are what vector instructions want
    n = images.shape[-1]
    rows.sub_(255 * torch.tensor(MEAN * n, device=x.device)).div_(255 * torch.tensor(STD * n, device=x.device))
    return x


def _check_pixels(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"patches have shape (B, 3, n, n), got {tuple(images.shape)}")
    if images.dtype == torch.uint8 or images.is_floating_point() or not images.numel():
        return
    low, high = (int(value) for value in images.to(torch.float64).aminmax())  # which not every type has
    if not 0 <= low <= high <= 255:
        raise ValueError(f"patches hold uint8, or numbers from 0 to 255, got {low} to {high}")


def input_range() -> tuple[float, float]:
    """The smallest and largest value that :func:`normalize` can give."""
    low = min((0 - mean) / std for mean, std in zip(MEAN, STD))
    high = max((1 - mean) / std for mean, std in zip(MEAN, STD))
    return low, high


def label_window(degrees: float = 0, centre: tuple[float, float] | None = None) -> np.ndarray:
    """The pixels of the 32 x 32 window that decides a patch's label, when the patch is turned: (96, 96) bool.

    Args:
        degrees: rotation of the patch, counter-clockwise; the window, seen from the tissue, turns the other way.
        centre: row and column of the window's centre, by default that of the patch.
    """
    row, column = ((PATCH_SIZE - 1) / 2,) * 2 if centre is None else centre
    y, x = np.mgrid[:PATCH_SIZE, :PATCH_SIZE].astype(float)
    y, x = row - y, x - column
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turned = np.stack([cosine * x - sine * y, sine * x + cosine * y])
    return np.abs(turned).max(0) < LABEL_WINDOW / 2


def label_changes(
    tumour: np.ndarray, degrees: float, *, places: int | None = None, generator: np.random.Generator | None = None
) -> float:
    """The share of labels that change when the tissue turns, between 0 and 1.

    Args:
        tumour: (N, 96, 96) bool, where the tissue of N patches is tumour.
        degrees: the rotation.
        places: instead of the window in the centre, that many windows a patch at random places, all inside the patch at
            every rotation.
        generator: for the places.
    """
    tumour = np.asarray(tumour)
    if tumour.ndim != 3 or tumour.shape[1:] != (PATCH_SIZE, PATCH_SIZE):
        raise ValueError(f"tumour must have shape (N, {PATCH_SIZE}, {PATCH_SIZE}), got {tumour.shape}")
    if places is None:
        upright, turned = (tumour[:, label_window(angle)].any(1) for angle in (0, degrees))
        return float((upright != turned).mean())
    generator = generator or np.random.default_rng(0)
    reach = int(np.ceil(LABEL_WINDOW / 2**0.5))  # half a diagonal
    changed = []
    for mask in tumour:
        for _ in range(places):
            centre = tuple(generator.integers(reach, PATCH_SIZE - reach, 2) + 0.5)
            changed.append(mask[label_window(0, centre)].any() != mask[label_window(degrees, centre)].any())
    return float(np.mean(changed))


def network_inputs(patches: Patches, indices, size: int) -> Tensor:
    """Patches by index, cropped and normalised: (B, 3, size, size) float32."""
    images, _ = collate((patches.images(indices), patches.labels[:0]))
    return normalize(crop(images, size))


def _read_labels(path: Path) -> np.ndarray:
    with open_dataset(path, "y") as dataset:
        shape = dataset.shape or ()
        if not shape or shape not in ((shape[0], 1, 1, 1), (shape[0],)):
            raise wrong(path, f"y has shape {dataset.shape}, not (N, 1, 1, 1)")
        if not np.issubdtype(dataset.dtype, np.integer):
            raise wrong(path, f"y has dtype {dataset.dtype}, not an integer one")
        labels = dataset[...].reshape(-1).astype(np.int64)
    if labels.size == 0 or not np.isin(labels, (0, 1)).all():
        raise wrong(path, "y must hold labels 0 and 1, and at least one")
    return labels
