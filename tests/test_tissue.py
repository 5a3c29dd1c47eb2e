"""Tests of the procedural patches and of the files that hold them."""

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

from equilib import tissue
from equilib.tissue import SPLITS, Patch, draw_patch, draw_slide, ensure_dataset, slide_of

ROOT = Path(tissue.__file__).resolve().parents[1]
SMALL = {"train": 24, "valid": 12, "test": 12}
NAMES = sorted(
    f"camelyonpatch_level_2_split_{split}_{key}.h5" for split in SPLITS for key in "xy"
)


@pytest.fixture(scope="module")
def patches() -> list[Patch]:
    return [draw_patch(0, "train", index) for index in range(240)]


@pytest.fixture(scope="module")
def images(patches) -> np.ndarray:
    """Floats 0 to 1, shape (240, 96, 96, 3)."""
    return np.stack([patch.image for patch in patches]).astype(np.float32) / 255


@pytest.fixture(scope="module")
def labels(patches) -> np.ndarray:
    return np.array([patch.label for patch in patches])


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


# Patches


def test_same_arguments_same_patch():
    # In between, other patches are drawn: no state is carried over.
    first = draw_patch(5, "valid", 7)
    others = [draw_patch(5, "valid", 8), draw_patch(6, "valid", 7), draw_patch(5, "test", 7)]
    again = draw_patch(np.int64(5), "valid", np.int32(7))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.tumour, again.tumour)
    for other in others:
        assert not np.array_equal(first.image, other.image)


def test_patch_types(patches):
    for patch in patches[:4]:
        assert patch.image.shape == (96, 96, 3)
        assert patch.image.dtype == np.uint8
        assert patch.tumour.shape == (96, 96)
        assert patch.tumour.dtype == bool
        assert type(patch.label) is bool


def test_label_is_any_tumour_in_the_centre():
    image = np.zeros((96, 96, 3), np.uint8)
    for y, x, expected in [(32, 32, True), (63, 63, True), (31, 40, False), (64, 64, False)]:
        tumour = np.zeros((96, 96), bool)
        tumour[y, x] = True
        assert Patch(image, tumour).label is expected


def test_every_pair_has_one_positive(labels):
    pairs = labels.reshape(-1, 2)
    assert (pairs.sum(1) == 1).all()
    # In random order.
    assert 0.3 < pairs[:, 0].mean() < 0.7


def test_masks(patches, labels):
    centre = np.array([patch.tumour[32:64, 32:64].sum() for patch in patches])
    assert centre[labels].min() >= 140
    assert centre[~labels].max() == 0


def test_share_of_negatives_with_tumour_outside():
    regions = [
        tissue._tumour_region(np.random.default_rng(seed), label=False)[tissue._PATCH, tissue._PATCH]
        for seed in range(1500)
    ]
    share = np.mean([region.any() for region in regions])
    # The standard error is .0105.
    assert abs(share - 0.21) < 0.04
    assert not any(region[32:64, 32:64].any() for region in regions)


def test_positive_masks_keep_the_minimum():
    for seed in range(400):
        region = tissue._tumour_region(np.random.default_rng(seed), label=True)
        assert region[tissue._INNER, tissue._INNER].sum() >= tissue.MIN_TUMOUR


# Slides


def test_slides_of_splits_are_disjoint():
    slides = [
        tuple(draw_slide(0, split, number).stains[0])
        for split in SPLITS
        for number in range(SPLITS[split])
    ]
    assert len(set(slides)) == sum(SPLITS.values())


def test_slides_are_fixed_and_shared_by_patches():
    numbers = [slide_of(0, "valid", index) for index in range(400)]
    assert set(numbers) == set(range(SPLITS["valid"]))
    assert numbers[:5] == [slide_of(0, "valid", index) for index in range(5)]
    one, two = draw_slide(0, "valid", 3), draw_slide(0, "valid", 3)
    assert np.array_equal(one.stains, two.stains)
    assert one.gains.tolist() == two.gains.tolist()


def test_both_stain_modes():
    modes = [draw_slide(0, "train", number).mode for number in range(SPLITS["train"])]
    assert 0.3 < modes.count("A") / len(modes) < 0.7


def test_patch_uses_its_slide(monkeypatch):
    """A slide with other stains gives another image of the same tissue."""
    plain = draw_patch(0, "train", 0)
    slide = draw_slide(0, "train", 1 + slide_of(0, "train", 0) % 100)
    monkeypatch.setattr(tissue, "draw_slide", lambda *_: slide)
    other = draw_patch(0, "train", 0)
    assert np.array_equal(plain.tumour, other.tumour)
    assert not np.array_equal(plain.image, other.image)


# Statistics: broad bands around those of real patches


def test_colours(images):
    assert np.allclose(images.mean((0, 1, 2)), [0.70, 0.54, 0.69], atol=0.06)
    assert np.allclose(images.std((0, 1, 2)), [0.235, 0.277, 0.213], atol=0.05)


def test_share_of_tissue(images, labels):
    share = (images.mean(-1) < 0.85).mean((1, 2))
    assert 0.5 < share[~labels].mean() < 0.8
    assert 0.7 < share[labels].mean() < 0.95
    assert (share[labels] > 0.5).mean() > 0.85


def test_power_spectrum(images):
    grey = images.mean(-1)
    grey = grey - grey.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    frequency = np.fft.fftfreq(96) * 96
    radius = np.hypot(frequency[:, None], frequency)
    level = {c: power[np.abs(radius - c) < max(0.6, 0.08 * c)].mean() for c in (4, 8, 16, 32)}
    for cycles, target in ((8, 0.48), (16, 0.21), (32, 0.037)):
        assert target / 2 < level[cycles] / level[4] < target * 2


def test_mean_colour_does_not_solve_the_task(images, labels):
    """Least squares on the channel means; about 70 % on real PCam."""
    features = images.mean((1, 2))
    features = np.c_[features - features.mean(0), np.ones(len(features))]
    target = labels * 2.0 - 1
    weights = np.linalg.lstsq(features, target, rcond=None)[0]
    # Fitted and judged on the same patches: an upper bound.
    assert ((features @ weights > 0) == labels).mean() < 0.72


def test_no_preferred_direction(images):
    grey = images.mean(-1)
    # Central differences: those of neighbours share a pixel, and its noise.
    dy = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    dx = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    xx, yy, xy = ((a * b).sum((1, 2)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    assert abs(xx.sum() / yy.sum() - 1) < 0.05
    # The orientation of each patch as a vector of the doubled angle: the mean
    # of n uniform ones of length <= 1 is about 1 / sqrt(n) at most.
    vectors = np.stack([xx - yy, 2 * xy]) / (xx + yy)
    strength = np.hypot(*vectors).mean()
    assert np.hypot(*vectors.mean(1)) < 3 * strength / np.sqrt(len(images))


def test_fields_have_no_preferred_direction():
    rng = np.random.default_rng(0)
    for make in (lambda: tissue._waves(rng, 20), lambda: tissue._grain(rng, 0.8)):
        fields = np.stack([make() for _ in range(120)])
        assert abs(fields.std() - 1) < 0.15
        ratio = (np.diff(fields, axis=1) ** 2).mean() / (np.diff(fields, axis=2) ** 2).mean()
        assert abs(ratio - 1) < 0.12


# Files


def test_layout(made):
    assert made.name == f"tissue-v{tissue.GENERATOR_VERSION}-seed3-24-12-12"
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
        "from equilib.tissue import ensure_dataset\n"
        f"ensure_dataset({SMALL}, seed=3, root={str(tmp_path)!r}, workers=2, progress=False)\n"
        "print(__file__)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60
    )
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
    monkeypatch.setattr(tissue, "_SHARD", 8)
    sizes = {"train": 40, "valid": 8, "test": 8}
    whole = ensure_dataset(sizes, root=tmp_path / "whole", workers=1, progress=False)
    root = tmp_path / "killed"
    child = python(
        f"""
        from equilib import tissue
        tissue._SHARD = 8
        tissue.ensure_dataset({sizes}, root={str(root)!r}, workers=1, progress=False)
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
    draw = tissue.draw_patch
    monkeypatch.setattr(tissue, "draw_patch", lambda *a: drawn.append(a) or draw(*a))
    # One finished shard is damaged, too: it is drawn again.
    next(iter(shards)).write_bytes(b"cut sho")
    ensure_dataset(sizes, root=root, workers=1, progress=False)
    assert len(drawn) == 8 * (7 - len(shards) + 1)
    good = contents(whole)
    for leftover in folder.rglob("*.tmp"):
        # Fresh, so it might be another process': it stays for an hour.
        os.utime(leftover, (1, 1))
    ensure_dataset(sizes, root=root, progress=False)
    assert contents(folder) == good


def test_final_names_appear_only_when_finished(made, tmp_path, monkeypatch):
    """An interruption in the middle of a shard, or of a file, leaves no half."""
    save, read = np.savez, tissue._read_shard

    def half_a_shard(file, **_):
        file.write(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half_a_shard)
    with pytest.raises(KeyboardInterrupt):
        ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    folder = tmp_path / made.name
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".tmp"}

    def half_a_file(folder, seed, split, start, count):
        if split == "valid":
            raise KeyboardInterrupt
        return read(folder, seed, split, start, count)

    monkeypatch.setattr(np, "savez", save)
    monkeypatch.setattr(tissue, "_read_shard", half_a_file)
    with pytest.raises(KeyboardInterrupt):
        ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert sorted(path.name for path in folder.glob("*.h5")) == NAMES[2:4]

    monkeypatch.setattr(tissue, "_read_shard", read)
    ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert {path.name: path.read_bytes() for path in folder.glob("*.h5")} == contents(made)


def test_two_processes_at_once(made, tmp_path):
    code = f"""
        from equilib.tissue import ensure_dataset
        ensure_dataset({SMALL}, seed=3, root={str(tmp_path)!r}, workers=1, progress=False)
        """
    children = [python(code) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert contents(tmp_path / made.name) == contents(made)


def test_shards_cleared_by_another_process(made, tmp_path, monkeypatch):
    """The other process finished first, and removed the shards under our feet."""
    draw = tissue._draw_shards

    def draw_then_clear(folder, *rest):
        draw(folder, *rest)
        tissue._tidy(folder)

    monkeypatch.setattr(tissue, "_draw_shards", draw_then_clear)
    folder = ensure_dataset(SMALL, seed=3, root=tmp_path, workers=1, progress=False)
    assert contents(folder) == contents(made)


def test_no_processes_available(made, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("no semaphores here")

    monkeypatch.setattr(tissue, "ProcessPoolExecutor", refuse)
    with pytest.warns(UserWarning, match="no semaphores here"):
        folder = ensure_dataset(SMALL, seed=3, root=tmp_path, workers=2, progress=False)
    assert contents(folder) == contents(made)


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("EQUILIB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert tissue.cache_root(None) == tmp_path / ".cache" / "equilib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tissue.cache_root(None) == tmp_path / "xdg" / "equilib"
    monkeypatch.setenv("EQUILIB_CACHE", str(tmp_path / "mine"))
    assert tissue.cache_root(None) == tmp_path / "mine"
    assert tissue.cache_root(str(tmp_path)) == tmp_path


def test_progress_bar(tmp_path, capsys):
    sizes = {"train": 2, "valid": 1, "test": 1}
    ensure_dataset(sizes, root=tmp_path, seed=1, progress=False)
    assert capsys.readouterr() == ("", "")
    ensure_dataset(sizes, root=tmp_path, seed=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err


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


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, "train", 0), "seed"),
        ((0, "dev", 0), "split"),
        ((0, None, 0), "split"),
        ((0, "train", -1), "index"),
        ((0, "train", 1.0), "index"),
        ((0, "train", True), "index"),
    ],
)
def test_bad_patch_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        draw_patch(*arguments)


def test_bad_slide_number():
    with pytest.raises(ValueError, match="^number:"):
        draw_slide(0, "test", SPLITS["test"])


def test_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(OSError, match="EQUILIB_CACHE") as caught:
        ensure_dataset(SMALL, root=file, progress=False)
    assert str(file) in str(caught.value)
    assert caught.value.errno is not None
