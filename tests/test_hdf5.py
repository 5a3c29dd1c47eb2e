"""HDF5 files as they come from elsewhere: linked, virtual, packed, locked, damaged."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from equilib.hdf5 import PatchFileError, open_dataset
from equilib.images import read_images
from equilib.pcam import Patches, split_path

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def x(tmp_path):
    """The path of a split's pixels; its labels are there already."""
    with h5py.File(split_path(tmp_path, "test", "y"), "w") as file:
        file["y"] = np.array([0, 1, 0, 1], np.uint8).reshape(-1, 1, 1, 1)
    return split_path(tmp_path, "test", "x")


def external_link(path):
    with h5py.File(path.with_name("normalised.h5"), "w") as file:
        file["x"] = PIXELS
    with h5py.File(path, "w") as file:
        file["original"], file["x"] = PIXELS // 2, h5py.ExternalLink("normalised.h5", "x")


def soft_link(path):
    with h5py.File(path, "w") as file:
        file["first"], file["x"], file["x data"] = PIXELS // 2, h5py.SoftLink("/x data"), PIXELS


def virtual(path):
    for half in range(2):
        with h5py.File(path.with_name(f"half{half}.h5"), "w") as file:
            file["x"] = PIXELS[2 * half :][:2]
    layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
    for half in range(2):
        layout[2 * half : 2 * half + 2] = h5py.VirtualSource(f"half{half}.h5", "x", (2, 96, 96, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def external_storage(path):
    raw = path.with_name("raw.bin")
    raw.write_bytes(PIXELS.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("x", PIXELS.shape, np.uint8, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def user_block(path):
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["x"] = PIXELS


def checked_gzip(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=PIXELS, chunks=(2, 96, 96, 3), compression="gzip", fletcher32=True)


LAYOUTS = [external_link, soft_link, virtual, external_storage, user_block, checked_gzip]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_pixels_are_those_that_h5py_reads(x, layout):
    layout(x)
    assert np.array_equal(Patches(x.parent, "test").images([3, 0, 2, 1]), PIXELS[[3, 0, 2, 1]])
    assert len(list(read_images(x, 95))) == 4


def test_two_data_sets_of_the_same_patches_have_one_digest(x):
    user_block(x)
    digest = Patches(x.parent, "test").digest()
    checked_gzip(x)
    assert Patches(x.parent, "test").digest() == digest != Patches(x.parent, "test", limit=3).digest()
    with h5py.File(x, "r+") as file:
        file["x"][2, 5, 5, 0] ^= 1
    assert Patches(x.parent, "test").digest() != digest


def removed(name):
    return lambda path: path.with_name(name).unlink()


def cut(name):
    return lambda path: os.truncate(path.with_name(name), 1000)


def missing_filter(path):
    with h5py.File(path, "w") as file:
        space, created = h5py.h5s.create_simple(PIXELS.shape), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((2, 96, 96, 3))
        created.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        stored = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, created)
        for start in (0, 2):
            stored.write_direct_chunk((start, 0, 0, 0), b"packed", 0)


def of(key, value):
    def write(path):
        with h5py.File(path, "w") as file:
            if isinstance(value, str) and value == "group":
                file.create_group(key)
            else:
                file[key] = value

    return write


@pytest.mark.parametrize(
    "layout, harm, words",
    [
        (external_link, removed("normalised.h5"), ["x is a link to x in normalised.h5"]),
        (virtual, removed("half1.h5"), ["half1.h5 is missing"]),
        (external_storage, removed("raw.bin"), ["raw.bin", "missing"]),
        (external_storage, cut("raw.bin"), ["raw.bin", "cut short"]),
        (missing_filter, None, ["number 32001", "hdf5plugin", "h5repack"]),
        (of("images", PIXELS), None, ["no dataset 'x'", "'images'"]),
        (of("x", 1), None, ["shape ()"]),
        (of("x", "group"), None, ["x is a group"]),
        (of("x", h5py.Empty("u1")), None, ["shape None"]),
        (of("x", "text"), None, ["shape ()"]),
        (of("x", h5py.SoftLink("/nowhere")), None, ["x is a link to /nowhere"]),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_nothing_is_to_be_deleted(x, layout, harm, words):
    layout(x)
    if harm:
        harm(x)
    own = x.rename(x.with_name("mine.h5")) if layout is not external_link else x
    for read in (lambda: list(read_images(own, 95)), lambda: own.rename(x) and Patches(x.parent, "test")):
        with pytest.raises(PatchFileError) as error:
            read()
        text = str(error.value)
        assert own.name in text or x.name in text
        assert all(word in text for word in words) and "delete" not in text, text


def test_a_filter_that_a_plugin_brings_is_used(x, monkeypatch):
    missing_filter(x)
    asked = []
    monkeypatch.setitem(sys.modules, "hdf5plugin", type(sys)("hdf5plugin"))
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: bool(asked.append(code)) or len(asked) > 1)
    with open_dataset(x, "x") as dataset:
        assert dataset.shape == PIXELS.shape and asked == [32001, 32001]


def test_only_what_data_download_has_recorded_may_be_deleted(x, tmp_path):
    user_block(x)
    whole = x.read_bytes()
    for damage in (whole[:-5000], whole[:100], b"", b"<html>", bytes(len(whole))):
        x.write_bytes(damage)
        with pytest.raises(PatchFileError, match="restore it from where it came, or, if it is PCam's own") as error:
            Patches(tmp_path, "test")
        assert "delete" not in str(error.value)
    x.with_name(x.name + ".md5").write_text("a record")
    with pytest.raises(PatchFileError, match="delete it and run data_download.sh again"):
        Patches(tmp_path, "test")
    own = x.rename(x.with_name("mine.h5"))
    with pytest.raises(PatchFileError, match="mine.h5 .* restore it from where it came$"):
        list(read_images(own, 95))


def test_damage_that_shows_while_reading(x, tmp_path):
    checked_gzip(x)
    content = bytearray(x.read_bytes())
    content[-2000] ^= 255
    x.write_bytes(content)
    patches = Patches(tmp_path, "test")
    with pytest.raises(PatchFileError, match=f"{x.name} is truncated, damaged"):
        patches.images([0, 3])


@pytest.mark.parametrize("chunks", [None, (1, 96, 96, 3)])
def test_what_a_writer_left_half_done_is_not_read_as_zeros(x, tmp_path, chunks):
    with h5py.File(x, "w") as file:
        stored = file.create_dataset("x", PIXELS.shape, np.uint8, chunks=chunks)
        if chunks:
            stored[:3] = PIXELS[:3]
    with pytest.raises(PatchFileError, match=f"{x.name} is incomplete: of {4 if chunks else 1} parts"):
        Patches(tmp_path, "test")


def test_a_file_that_shrinks_while_it_is_in_use(x, tmp_path):
    user_block(x)
    patches = Patches(tmp_path, "test")
    os.truncate(x, 50_000)
    with pytest.raises(PatchFileError, match=x.name):
        patches.images([3])


def test_a_file_that_another_program_writes(x, tmp_path):
    user_block(x)
    code = f"import h5py, sys; file = h5py.File({str(x)!r}, 'r+'); print(flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        with pytest.raises(PatchFileError, match=f"{x.name} is held open by another program") as error:
            Patches(tmp_path, "test")
        assert "delete" not in str(error.value) and "restore" not in str(error.value)
    finally:
        writer.communicate()
    assert np.array_equal(Patches(tmp_path, "test").images([1]), PIXELS[[1]])


@pytest.mark.parametrize(
    "number, words",
    [(errno.EMFILE, "too many files"), (errno.EACCES, "permission"), (errno.EIO, "the file may be whole")],
)
def test_the_systems_refusals_are_not_the_files_fault(x, tmp_path, monkeypatch, number, words):
    user_block(x)

    def refuse(*arguments, **options):
        raise OSError(number, f"Unable to synchronously open file (errno = {number})")

    monkeypatch.setattr("h5py.File", refuse)
    with pytest.raises(PatchFileError, match=words) as error:
        Patches(tmp_path, "test")
    assert "delete" not in str(error.value) and "restore" not in str(error.value)
