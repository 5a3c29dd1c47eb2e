"""Synthetic data sets on disk: patches of :mod:`equilib.tissue` in the file layout of PatchCamelyon (PCam).

The import stays light (numpy and scipy; h5py and tqdm only when files are written), because each worker process imports
this module.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from equilib.canvas import SIZE
from equilib.progress import bar
from equilib.results import written_whole
from equilib.tissue import GENERATOR_VERSION, SPLITS, draw_patch, whole_number

_SHARD = 128
"""Patches per shard: the work that an interruption can lose."""

_IN_PROCESS = 384
"""Below so many patches, starting processes takes longer than drawing."""

_STALE = 3600.0
"""Age in seconds at which a temporary file (of :func:`equilib.results.written_whole`) is taken for abandoned."""


def ensure_dataset(
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """The folder with the drawn data set; draws whatever is missing.

    The folder holds `camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`,
    as PCam does: key `x`, uint8 (N, 96, 96, 3), and key `y`, uint8
    (N, 1, 1, 1), both contiguous, so that they can be memory-mapped.

    An interrupted call (even by kill -9) continues where it stopped, and gives
    the same bytes.  Several processes may ask for the same data set at once.

    sizes: number of patches of "train", "valid" and "test", each 1 or more.
    seed: whole number, 0 or more.
    root: parent folder; default the environment variable EQUILIB_CACHE, else
        `equilib` in XDG_CACHE_HOME or in `~/.cache`.
    workers: number of processes; default one per processor.  The bytes do not
        depend on it.
    progress: show a bar, counted in patches, on a terminal or in a notebook.

    Raises ValueError naming the argument, and OSError if the folder cannot be
    written.
    """
    counts = _check_sizes(sizes)
    seed = whole_number("seed", seed)
    if workers is not None:
        workers = whole_number("workers", workers, least=1)
    name = f"tissue-v{GENERATOR_VERSION}-seed{seed}-" + "-".join(str(n) for n in counts.values())
    folder = cache_root(root) / name
    if _complete(folder, counts):
        _tidy(folder)  # what a process left that was killed at the very end
        return folder
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        _draw_shards(folder, seed, _missing_shards(folder, counts), counts, workers, progress)
        for split, count in counts.items():
            if not _split_complete(folder, split, count):
                _write_split(folder, seed, split, count)
        _tidy(folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the data set to {folder} ({error.strerror or error}); "
            "set EQUILIB_CACHE to a folder that can be written and has the space",
        ) from error
    return folder


def cache_root(root: str | os.PathLike | None = None) -> Path:
    """The folder for everything that can be made again: `root`, else EQUILIB_CACHE, else the user's cache folder."""
    if root is not None:
        return Path(root)
    if os.environ.get("EQUILIB_CACHE"):
        try:
            return Path(os.environ["EQUILIB_CACHE"]).expanduser()
        except RuntimeError as error:
            raise ValueError(f"EQUILIB_CACHE={os.environ['EQUILIB_CACHE']} names no folder: {error}") from error
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "equilib"


def _file(folder: Path, split: str, key: str) -> Path:
    return folder / f"camelyonpatch_level_2_split_{split}_{key}.h5"


def _shapes(count: int) -> dict[str, tuple[int, ...]]:
    return {"x": (count, SIZE, SIZE, 3), "y": (count, 1, 1, 1)}


def _complete(folder: Path, counts: Mapping[str, int]) -> bool:
    return all(_split_complete(folder, split, count) for split, count in counts.items())


def _split_complete(folder: Path, split: str, count: int) -> bool:
    """Are both files of a split there, readable, and of the right layout?"""
    import h5py

    for key, shape in _shapes(count).items():
        path = _file(folder, split, key)
        try:
            # A file that was cut short does not open.
            with h5py.File(path, "r") as file:
                data = file[key]
                if data.shape != shape or data.dtype != np.uint8 or data.id.get_offset() is None:
                    return False
                if key == "y" and not _balanced(data[:].ravel()):
                    return False
        except (OSError, KeyError, AttributeError, RuntimeError):
            # Missing, cut short or not HDF5: to be written again.
            return False
    return True


def _balanced(labels: np.ndarray) -> bool:
    """Does each consecutive pair of labels have one positive?"""
    pairs = labels[: len(labels) // 2 * 2].reshape(-1, 2).astype(int)
    return bool((pairs.sum(1) == 1).all() and labels.max() <= 1)


def _write_split(folder: Path, seed: int, split: str, count: int) -> None:
    """Gather the shards of a split into its two files."""
    import h5py

    shapes = _shapes(count)
    with _unless_there(lambda: _split_complete(folder, split, count)), contextlib.ExitStack() as stack:
        # Left in the opposite order: both files are closed, then x gets its name, then y.
        names = {key: stack.enter_context(written_whole(_file(folder, split, key))) for key in reversed(shapes)}
        files = {key: stack.enter_context(h5py.File(names[key], "w")) for key in shapes}
        data = {key: _contiguous(files[key], key, shape) for key, shape in shapes.items()}
        for start in range(0, count, _SHARD):
            images, labels = _read_shard(folder, seed, split, start, count)
            data["x"][start : start + len(images)] = images
            data["y"][start : start + len(images), 0, 0, 0] = labels


def _contiguous(file, key: str, shape: tuple[int, ...]):
    """A data set in one piece at a known offset from the start of the file."""
    import h5py

    # The low-level interface, since the high-level one cannot ask for this.
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    # Early, so that the offset exists from the start; never filled with zeros
    # first, since every byte is written; no times, so that bytes are the same.
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    made = h5py.h5d.create(file.id, key.encode(), h5py.h5t.STD_U8LE, space, creation)
    return h5py.Dataset(made)


def _shard_path(folder: Path, split: str, start: int, count: int) -> Path:
    stop = min(start + _SHARD, count)
    return folder / "shards" / f"{split}-{start}-{stop}.npz"


def _missing_shards(folder: Path, counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(split, first patch) of the shards that are still to be drawn."""
    return [
        (split, start)
        for split, count in counts.items()
        if not _split_complete(folder, split, count)
        for start in range(0, count, _SHARD)
        if not _shard_path(folder, split, start, count).exists()
    ]


def _draw_shard(folder: Path, seed: int, split: str, start: int, count: int) -> int:
    """Draw and write one shard; returns its number of patches."""
    stop = min(start + _SHARD, count)
    patches = [draw_patch(seed, split, index) for index in range(start, stop)]
    path = _shard_path(folder, split, start, count)
    # Another process may have finished and cleared the folder away.
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unless_there(path.exists), written_whole(path) as name, open(name, "wb") as file:
        images = np.stack([patch.image for patch in patches])
        labels = np.array([patch.label for patch in patches], np.uint8)
        np.savez(file, images=images, labels=labels)
    return stop - start


def _read_shard(folder: Path, seed: int, split: str, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one shard, drawn again if it is damaged or gone."""
    path = _shard_path(folder, split, start, count)
    length = min(start + _SHARD, count) - start
    for _ in range(3):
        try:
            with np.load(path) as shard:
                images, labels = shard["images"], shard["labels"]
            if images.shape == (length, SIZE, SIZE, 3) and labels.shape == (length,):
                return images, labels
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        _draw_shard(folder, seed, split, start, count)
    raise OSError(f"{path} cannot be read back")


@contextlib.contextmanager
def _unless_there(already_there: Callable[[], bool]) -> Iterator[None]:
    """Let a finished file go that cannot get its name because another process has made it."""
    try:
        yield
    except PermissionError:
        # Windows refuses while another process has the file open.  That
        # process got there first, and its file has the same bytes.
        if not already_there():
            raise


def _tidy(folder: Path) -> None:
    """Remove the shards, and temporary files that nobody writes any more."""
    shards = folder / "shards"
    for path in shards.glob("*.npz"):
        with contextlib.suppress(OSError):
            path.unlink()
    for path in [*folder.glob("*.part"), *shards.glob("*.part")]:
        # Fresh ones may belong to another process that draws the same set.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()
    with contextlib.suppress(OSError):
        shards.rmdir()


def _draw_shards(
    folder: Path,
    seed: int,
    missing: list[tuple[str, int]],
    counts: Mapping[str, int],
    workers: int | None,
    progress: bool,
) -> None:
    """Draw the missing shards, in this process or in several."""
    jobs = {(split, start): (str(folder), seed, split, start, counts[split]) for split, start in missing}
    total = sum(counts.values())
    left = sum(min(_SHARD, counts[split] - start) for split, start in missing)
    if workers is None:
        workers = 1 if left < _IN_PROCESS else _processors()
    workers = min(workers, len(jobs))
    with bar(total=total, done=total - left, words="drawing patches", unit="patch", shown=progress) as drawn:
        if workers > 1:
            try:
                _draw_in_processes(jobs, workers, drawn)
            except (BrokenProcessPool, ImportError, NotImplementedError) as error:
                # Some sandboxes forbid processes or semaphores.
                warnings.warn(f"no worker processes ({error}): drawing in this one", stacklevel=3)
        for job in list(jobs.values()):
            drawn.update(_draw_job(job))


def _draw_in_processes(jobs: dict, workers: int, drawn) -> None:
    """Work off `jobs`, removing those that are done."""
    # A fresh interpreter: forking a process that has threads (as notebooks
    # and torch have) can hang, and Windows cannot fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            with _main_hidden():
                futures = {pool.submit(_draw_job, job): key for key, job in jobs.items()}
            for future in as_completed(futures):
                drawn.update(future.result())
                del jobs[futures[future]]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw_job(job: tuple[str, int, str, int, int]) -> int:
    """What a worker runs: top-level, so that it can be pickled by name."""
    folder, *rest = job
    return _draw_shard(Path(folder), *rest)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed, rather than wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep spawned workers from running the caller's script once more.

    A spawned worker imports the main script unless it has no file.  The
    workers need nothing from it, and a script without the guard
    `if __name__ == "__main__"` would start workers of its own.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__[name] for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """The three sizes in the order train, valid, test."""
    if not isinstance(sizes, Mapping):
        raise ValueError(f"sizes: expected a mapping from split to number, got {sizes!r}")
    for split in sizes:
        if split not in SPLITS:
            raise ValueError(f"sizes: unknown split {split!r}, expected {', '.join(SPLITS)}")
    for split in SPLITS:
        if split not in sizes:
            raise ValueError(f"sizes: the split {split!r} is missing")
    return {split: whole_number(f"sizes[{split!r}]", sizes[split], least=1) for split in SPLITS}
