"""One dataset of an HDF5 file, or a sentence that says why it cannot be read.

Files come from a download, from a colleague, from a cluster: packed with filters that are not installed, linked into
other files, still being written, cut short.  What is wrong is said with the file's name and a remedy; only a file that
``data_download.sh`` has recorded, and that is damaged, may be deleted, since it can be had again.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

# PCam's layout: its splits, the side of a patch, and of the square in its centre that decides the label, in pixels.
SPLITS = ("train", "valid", "test")
PATCH_SIZE, LABEL_WINDOW = 96, 32
PCAM_NAME = re.compile(rf"camelyonpatch_level_2_split_({'|'.join(SPLITS)})_[xy]\.h5")
# Filters of HDF5 itself, which repacking can use instead of one that is missing.
REPACK = "h5repack -f GZIP=4 OLD NEW"


class PatchFileError(RuntimeError):
    """A file of patches is missing, damaged or not what it should be; the message names it and says what to do."""


@contextmanager
def open_dataset(path: str | Path, key: str) -> Iterator[h5py.Dataset]:
    """The dataset ``key`` of a file, open for reading.

    Raises:
        PatchFileError: names the file and the remedy; also where reading fails inside the block.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchFileError(_missing(path))
    # Not every file system can lock; a lock of another program is respected where there are locks.
    with reading(path), h5py.File(path, "r", locking="best-effort") as file:
        dataset = _dataset(file, path, key)
        _check_filters(dataset, path, key)
        _check_sources(dataset, path, key)
        _check_written(dataset, path, key)
        yield dataset


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what h5py and the system raise inside the block into a PatchFileError that names the file."""
    try:
        yield
    except (PatchFileError, IndexError):
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise PatchFileError(_failure(Path(path), error)) from error


def mapped_offset(dataset: h5py.Dataset, path: str | Path) -> int | None:
    """Where in the file ``path`` the dataset's bytes lie, in order and unpacked; None where they do not."""
    # The target of a link may lie in another file.
    elsewhere = not os.path.samefile(dataset.file.filename, path) or dataset.is_virtual or dataset.external
    if elsewhere or dataset.chunks is not None:
        return None
    return dataset.id.get_offset()


def wrong(path: str | Path, what: str) -> PatchFileError:
    """The error for a whole file with other contents than it should have."""
    path = Path(path)
    if PCAM_NAME.fullmatch(path.name):
        return PatchFileError(f"{path}: {what}; check that this is the folder of the unpacked PCam files")
    return PatchFileError(f"{path}: {what}; patches are uint8 (N, 96, 96, 3) under the key x")


def damaged(path: str | Path, what: str) -> PatchFileError:
    """The error for a damaged file."""
    path = Path(path)
    if not PCAM_NAME.fullmatch(path.name):
        return PatchFileError(f"{path} {what}; restore it from where it came")
    if path.with_name(path.name + ".md5").is_file():  # the record that data_download.sh leaves
        return PatchFileError(f"{path} {what}; delete it and run data_download.sh again")
    return PatchFileError(
        f"{path} {what}; restore it from where it came, or, if it is PCam's own, run data_download.sh again"
    )


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not an HDF5 file"
    if path.exists():
        return f"{path} is no ordinary file"
    if path.parent.is_file():
        return f"{path.parent} is a file; name the folder that holds {path.name}"
    packed = path.with_name(path.name + ".gz")
    if packed.is_file():
        return f"{path} is missing; unpack {packed.name} first"
    if PCAM_NAME.fullmatch(path.name):
        return f"{path} is missing; run data_download.sh, or name the folder of its files"
    return f"{path} is missing"


def _failure(path: Path, error: Exception) -> str:
    """What to say of an exception of h5py; HDF5 gives the system's error number, or none where the bytes are wrong."""
    reason = " ".join(str(error).split())
    number = getattr(error, "errno", None)
    if number in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK) and "lock" in reason:
        return (
            f"{path} is held open by another program, which may be writing it; wait until that has closed it "
            "(HDF5_USE_FILE_LOCKING=FALSE in the environment reads it nevertheless)"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return f"{path} cannot be opened: too many files are open; raise the limit (ulimit -n), or take fewer --workers"
    if number in (errno.EACCES, errno.EPERM):
        return f"{path} cannot be read: permission denied; change its permissions or those of its folder"
    if number == errno.ENOENT:
        return _missing(path)
    if number is not None:
        return f"{path} cannot be read ({reason}); that is the disk's or the system's fault, the file may be whole"
    return str(damaged(path, f"is truncated, damaged or no HDF5 file ({reason})"))


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    link = file.get(key, getlink=True)
    if link is None:
        raise wrong(path, f"no dataset {key!r} (it has {sorted(file)})")
    if isinstance(link, h5py.HardLink):
        found = file[key]
    else:
        target = link.path if isinstance(link, h5py.SoftLink) else f"{link.path} in {link.filename}"
        try:
            found = file[key]
        except (KeyError, OSError) as error:
            reason = " ".join(str(error).strip("'\"").split())
            raise PatchFileError(f"{path}: {key} is a link to {target}, which cannot be read ({reason})") from error
    if not isinstance(found, h5py.Dataset):
        raise wrong(path, f"{key} is a {type(found).__name__.lower()}, not a dataset")
    return found


def _check_filters(dataset: h5py.Dataset, path: Path, key: str) -> None:
    """Refuse what is packed with a filter that is not here; only a read would fail, with a message about folders."""
    created = dataset.id.get_create_plist()
    filters = [created.get_filter(index) for index in range(created.get_nfilters())]
    if any(not h5py.h5z.filter_avail(code) for code, *_ in filters):
        with contextlib.suppress(ImportError):  # it registers a dozen filters, where it is installed
            import hdf5plugin  # noqa: F401
    for code, _, _, name in filters:
        if not h5py.h5z.filter_avail(code):
            named = f"{name.decode(errors='replace')!r}, number {code}" if name else f"number {code}"
            raise PatchFileError(
                f"{path}: {key} is packed with an HDF5 filter that is not installed here ({named}); "
                f"run pip install hdf5plugin, or repack the file where the filter is known: {REPACK}"
            )


def _check_sources(dataset: h5py.Dataset, path: Path, key: str) -> None:
    """Refuse datasets whose pixels lie in other files that are not there: HDF5 would give zeros without a word."""
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            name = source.file_name
            here = name == "." or "%" in name  # numbered files: as many as there are
            if not here and not any((folder / name).is_file() for folder in (path.resolve().parent, Path())):
                raise PatchFileError(f"{path}: {key} is put together from other files, of which {name} is missing")
    if dataset.external:
        present = 0
        for name, offset, size in dataset.external:
            if not Path(name).is_file():
                raise PatchFileError(f"{path}: {key} keeps its values in another file, {name}, which is missing")
            present += min(Path(name).stat().st_size - offset, size)
        if present < dataset.nbytes:
            raise PatchFileError(f"{path}: {key} keeps its values in another file, {name}, which is cut short")


def _check_written(dataset: h5py.Dataset, path: Path, key: str) -> None:
    """Refuse what was never written, or is lost from the index of a damaged file: HDF5 would give zeros for it too."""
    if not dataset.size or dataset.is_virtual or dataset.external:
        return
    if dataset.chunks is None:
        there, wanted = int(dataset.id.get_storage_size() > 0), 1
    else:
        there, wanted = (
            dataset.id.get_num_chunks(),
            math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks)),
        )
        plain = dataset.id.get_create_plist().get_nfilters() == 0
        size = there * math.prod(dataset.chunks) * dataset.dtype.itemsize
        if plain and dataset.id.get_storage_size() != size:  # packed parts, whose filter is lost
            raise damaged(path, f"is damaged: the parts of {key} do not have its size")
    if there < wanted:
        raise damaged(path, f"is incomplete: of {wanted} parts of {key}, {there} have been written")
