"""Tests of the files that hold procedural patches."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from equilib import synthetic
from equilib.synthetic import ensure_dataset
from equilib.tissue import SPLITS, draw_patch

ROOT = Path(synthetic.__file__).resolve().parents[1]
SMALL = {"train": 24, "valid": 12, "test": 12}
NAMES = sorted(f"camelyonpatch_level_2_split_{split}_{key}.h5" for split in SPLITS for key in "xy")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small data set, drawn in this process."""
    root = tmp_path_factory.mktemp("one")
    return ensure_dataset(SMALL, seed=3, root=root, workers=1, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def python(code: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, env=environment, **options)


# Files


def test_layout(made):
    assert made.name == f"tissue-v{synthetic.GENERATOR_VERSION}-seed3-24-12-12"
    assert sorted(path.name for path in made.iterdir()) == NAMES
    for split, count in SMALL.items():
        for key, shape in (("x", (count, 96, 96, 3)), ("y", (count, 1, 1, 1))):
            path = made / f"camelyonpatch_level_2_split_{split}_{key}.h5"
            with h5py.File(path) as file:
                assert list(file) == [key]
                data = file[key]
                assert (data.shape, data.dtype) == (shape, np.uint8)
                assert data.chunks is None
                assert data.compression is None
                offset = data.id.get_offset()
                assert offset is not None
                mapped = np.memmap(path, np.uint8, "r", offset, shape)
                assert np.array_equal(mapped, data[:])


def test_files_hold_the_patches(made):
    with h5py.File(made / NAMES[2]) as x, h5py.File(made / NAMES[3]) as y:
        assert list(x) + list(y) == ["x", "y"]
        for index in (0, 5, 23):
            patch = draw_patch(3, "train", index)
            assert np.array_equal(x["x"][index], patch.image)
            assert y["y"][index, 0, 0, 0] == patch.label


def test_workers_give_the_same_bytes(made, tmp_path):
    folder = ensure_dataset(SMALL, seed=3, root=tmp_path, workers=2, progress=False)
    assert contents(folder) == contents(made)


def test_script_without_a_guard(made, tmp_path):
    """Spawned workers must not run the caller's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from equilib.synthetic import ensure_dataset\n"
        f"ensure_dataset({SMALL}, seed=3, root={str(tmp_path)!r}, workers=2, progress=False)\n"
        "print(__file__)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.strip() == str(script)
    assert contents(tmp_path / made.name) == contents(made)


def test_reuse_writes_nothing(made):
    before = {path: path.stat().st_mtime_ns for path in [made, *made.iterdir()]}
    assert ensure_dataset(SMALL, seed=3, root=made.parent, progress=False) == made
    assert {path: path.stat().st_mtime_ns for path in [made, *made.iterdir()]} == before


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "shape", "zeros"])
def test_damaged_file_is_written_again(made, damage):
    good = contents(made)
    path = made / ("camelyonpatch_level_2_split_valid_" + ("y.h5" if damage == "zeros" else "x.h5"))
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "garbage":
        path.write_bytes(b"not HDF5")
    elif damage == "missing":
        path.unlink()
    else:
        with h5py.File(path, "w") as file:
            file[path.stem[-1]] = np.zeros((12, 1, 1, 1), np.uint8)
    assert contents(made) != good
    assert ensure_dataset(SMALL, seed=3, root=made.parent, progress=False) == made
    assert contents(made) == good


def test_kill_then_continue(tmp_path, monkeypatch):
    """kill -9 in the middle, then again: finished shards are kept, same bytes."""
    monkeypatch.setattr(synthetic, "_SHARD", 8)
    sizes = {"train": 40, "valid": 8, "test": 8}
    whole = ensure_dataset(sizes, root=tmp_path / "whole", workers=1, progress=False)
    root = tmp_path / "killed"
    child = python(
        f"""
        from equilib import synthetic
        synthetic._SHARD = 8
        synthetic.ensure_dataset({sizes}, root={str(root)!r}, workers=1, progress=False)
        """
    )
    folder = root / whole.name
    deadline = time.monotonic() + 30
    while len(list(folder.glob("shards/*.npz"))) < 2:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    child.wait()
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("shards/*.npz")}
    assert 2 <= len(shards) < 7
    assert not list(folder.glob("*.h5"))

    drawn = []
    draw = synthetic.draw_patch
    monkeypatch.setattr(synthetic, "draw_patch", lambda *a: drawn.append(a) or draw(*a))
    # One finished shard is damaged, too: it is drawn again.
    next(iter(shards)).write_bytes(b"cut sho")
    ensure_dataset(sizes, root=root, workers=1, progress=False)
    assert len(drawn) == 8 * (7 - len(shards) + 1)
    good = contents(whole)
    for leftover in folder.rglob("*.part"):
        # Fresh, so it might be another process': it stays for an hour.
        os.utime(leftover, (1, 1))
    ensure_dataset(sizes, root=root, progress=False)
    assert contents(folder) == good


def test_final_names_appear_only_when_finished(made, tmp_path, monkeypatch):
    """An interruption in the middle of a shard, or of a file, leaves no half."""
    save, read = np.savez, synthetic._read_shard

    def half_a_shard(file, **_):
        file.write(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half_a_shard)
    with pytest.raises(KeyboardInterrupt):
        ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    folder = tmp_path / made.name
    assert not [path for path in folder.rglob("*") if path.is_file()]

    def half_a_file(folder, seed, split, start, count):
        if split == "valid":
            raise KeyboardInterrupt
        return read(folder, seed, split, start, count)

    monkeypatch.setattr(np, "savez", save)
    monkeypatch.setattr(synthetic, "_read_shard", half_a_file)
    with pytest.raises(KeyboardInterrupt):
        ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert sorted(path.name for path in folder.glob("*.h5")) == NAMES[2:4]

    monkeypatch.setattr(synthetic, "_read_shard", read)
    ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert {path.name: path.read_bytes() for path in folder.glob("*.h5")} == contents(made)


def test_two_processes_at_once(made, tmp_path):
    code = f"""
        from equilib.synthetic import ensure_dataset
        ensure_dataset({SMALL}, seed=3, root={str(tmp_path)!r}, workers=1, progress=False)
        """
    children = [python(code) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert contents(tmp_path / made.name) == contents(made)


def test_shards_cleared_by_another_process(made, tmp_path, monkeypatch):
    """The other process finished first, and removed the shards under our feet."""
    draw = synthetic._draw_shards

    def draw_then_clear(folder, *rest):
        draw(folder, *rest)
        synthetic._tidy(folder)

    monkeypatch.setattr(synthetic, "_draw_shards", draw_then_clear)
    folder = ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert contents(folder) == contents(made)


def test_no_processes_available(made, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("no semaphores here")

    monkeypatch.setattr(synthetic, "ProcessPoolExecutor", refuse)
    with pytest.warns(UserWarning, match="no semaphores here"):
        folder = ensure_dataset(SMALL, seed=3, root=tmp_path, workers=2, progress=False)
    assert contents(folder) == contents(made)


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("EQUILIB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert synthetic.cache_root(None) == tmp_path / ".cache" / "equilib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert synthetic.cache_root(None) == tmp_path / "xdg" / "equilib"
    monkeypatch.setenv("EQUILIB_CACHE", str(tmp_path / "mine"))
    assert synthetic.cache_root(None) == tmp_path / "mine"
    assert synthetic.cache_root(str(tmp_path)) == tmp_path


def test_progress_bar(tmp_path, capsys, monkeypatch):
    """On a terminal, unless it is not wanted; nowhere else."""
    sizes = {"train": 2, "valid": 1, "test": 1}
    ensure_dataset(sizes, root=tmp_path, seed=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("equilib.progress.PATIENCE", 0)
    monkeypatch.setattr("equilib.progress.INTERVAL", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ensure_dataset(sizes, root=tmp_path, seed=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err
    ensure_dataset(sizes, root=tmp_path, seed=3, progress=False)
    assert capsys.readouterr() == ("", "")


# Bad arguments


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 0, "valid": 1, "test": 1}, r"sizes\['train'\].*0"),
        ({"train": 1, "valid": -2, "test": 1}, r"sizes\['valid'\].*-2"),
        ({"train": 1, "valid": 1, "test": 2.0}, r"sizes\['test'\].*2\.0"),
        ({"train": True, "valid": 1, "test": 1}, r"sizes\['train'\].*True"),
        ({"train": "8", "valid": 1, "test": 1}, r"sizes\['train'\].*'8'"),
        ({"train": 1, "valid": 1}, "sizes.*'test' is missing"),
        ({"train": 1, "valid": 1, "test": 1, "dev": 1}, "sizes.*'dev'"),
        ([1, 1, 1], "sizes.*mapping"),
    ],
)
def test_bad_sizes(sizes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ensure_dataset(sizes, root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "name"),
    [({"seed": -1}, "seed"), ({"seed": 0.5}, "seed"), ({"workers": 0}, "workers")],
)
def test_bad_options(options, name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}:"):
        ensure_dataset(SMALL, root=tmp_path, **options)


def test_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(OSError, match="EQUILIB_CACHE") as caught:
        ensure_dataset(SMALL, root=file, progress=False)
    assert str(file) in str(caught.value)
    assert caught.value.errno is not None
