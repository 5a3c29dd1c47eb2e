"""Image files as users have them: every usual kind gives the right pixels or one sentence."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from equilib.hdf5 import PatchFileError
from equilib.images import check_rgb, image_files, read_images, read_pictures
from equilib.pcam import crop, normalize

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
EXPECTED = normalize(crop(torch.from_numpy(PIXELS).permute(2, 0, 1)[None], 95))


def read(path):
    ((name, image),) = read_images(path, 95)
    assert name == str(path)
    return image


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "zstd", "lzma"]
)
def test_tiff_of_every_lossless_compression(tmp_path, compression):
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", compression=compression)
    assert torch.equal(read(tmp_path / "a.tif"), EXPECTED)


@pytest.mark.parametrize(
    "name, options", [("a.tif", {"compression": "jpeg", "quality": 95}), ("a.jpg", {"quality": 95})]
)
def test_lossy_ones_are_near(tmp_path, name, options):
    smooth = np.stack([*np.meshgrid(np.arange(96), np.arange(96)), np.full((96, 96), 90)], 2)
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / name, **options)
    expected = normalize(crop(torch.from_numpy(smooth).permute(2, 0, 1)[None], 95))
    assert (read(tmp_path / name) - expected).abs().max() < 0.15


def test_what_holds_the_same_colours_is_read(tmp_path):
    opaque = np.dstack([PIXELS, np.full((96, 96), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert torch.equal(read(tmp_path / "opaque.png"), EXPECTED)
    few = Image.fromarray(PIXELS // 64 * 64).quantize(64)
    few.save(tmp_path / "palette.png")
    expected = normalize(crop(torch.from_numpy(np.asarray(few.convert("RGB")).copy()).permute(2, 0, 1)[None], 95))
    assert torch.equal(read(tmp_path / "palette.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_picture_lies_as_a_viewer_shows_it(tmp_path, suffix):
    """Stored turned by 90 degrees, with EXIF's word for it (6, 3, 8): upright in every format, to the bit."""
    exif = Image.Exif()
    for orientation, turns in ((1, 0), (6, 1), (3, 2), (8, 3)):
        exif[0x0112] = orientation
        stored = np.ascontiguousarray(np.rot90(PIXELS, turns))
        Image.fromarray(stored).save(tmp_path / f"turned.{suffix}", exif=exif)
        Image.fromarray(stored).save(tmp_path / f"plain.{suffix}")
        (_, found), (_, plain) = (
            pair for name in ("turned", "plain") for pair in read_pictures(tmp_path / f"{name}.{suffix}")
        )
        assert np.array_equal(found, np.rot90(plain, -turns))
        assert suffix == "jpg" or np.array_equal(found, PIXELS)


def test_damaged_metadata_leave_a_picture_as_it_is_stored(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0")
    assert torch.equal(read(tmp_path / "a.png"), EXPECTED)


def deep_rgb_png(path):
    """16 bits a channel; Pillow reads such files as 8 bits, but does not write them."""
    import struct
    import zlib

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PIXELS.astype(np.uint16) * 257)
    header = struct.pack(">2I5B", 96, 96, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def deep_tiff(path):
    from skimage import io

    io.imsave(path, PIXELS.astype(np.uint16) * 257, check_contrast=False)


def pages(path):
    Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(PIXELS)])


def as_mode(mode):
    return lambda path: Image.fromarray(PIXELS).convert(mode).save(path)


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("deep.png", deep_rgb_png, ["uint16"]),
        ("deep.tif", deep_tiff, ["uint16"]),
        ("grey.png", as_mode("L"), ["(96, 96)", "RGB"]),
        ("bilevel.png", as_mode("1"), ["bool"]),
        ("grey16.png", as_mode("I;16"), ["uint16"]),
        ("alpha.png", lambda path: Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save(path), ["transparency"]),
        (
            "keyed.png",
            lambda path: Image.fromarray(PIXELS).save(path, transparency=tuple(map(int, PIXELS[0, 0]))),
            ["transparency"],
        ),
        ("print.jpg", as_mode("CMYK"), ["CMYK", "RGB"]),
        ("pages.tif", pages, ["2 pictures"]),
        ("slide.png", lambda path: Image.new("RGB", (3000, 2000)).save(path), ["2000 x 3000", "cut the image"]),
        ("empty.png", lambda path: path.touch(), ["0 bytes", "copy it again"]),
        ("page.jpg", lambda path: path.write_text("<html>"), ["no image"]),
        (
            "drawing.png",
            lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n"),
            ["no image"],
        ),
        ("folder.png", lambda path: path.mkdir(), ["no images"]),
        *([("pipe.png", os.mkfifo, ["no ordinary file"])] if hasattr(os, "mkfifo") else []),  # Windows has none
        ("none.png", lambda path: None, ["missing"]),
    ],
)
def test_all_else_is_refused_by_name(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(PatchFileError) as error:
        [list(read_images(file, 95)) for file in image_files(tmp_path / name)]
    assert all(word in str(error.value) for word in [name, *words]), str(error.value)


def test_the_remedy_fits_what_is_wrong_with_the_shape():
    for shape, remedy in (((3, 96, 96), "transpose"), ((96, 96, 4), "without transparency"), ((96, 96), "RGB")):
        with pytest.raises(PatchFileError, match=remedy):
            check_rgb(np.zeros(shape, np.uint8), "x.h5[0]")


def test_networks_of_larger_patches_get_theirs(tmp_path):
    large = np.random.default_rng(1).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    ((_, image),) = read_images(tmp_path / "large.png", 500)
    assert torch.equal(image, normalize(torch.from_numpy(large).permute(2, 0, 1)[None]))
    Image.fromarray(PIXELS).save(tmp_path / "small.png")
    with pytest.raises(PatchFileError, match="small.png has 96 x 96 pixels; the network takes patches of 500 x 500"):
        list(read_images(tmp_path / "small.png", 500))


def test_a_folder_gives_its_images_by_name_and_no_hidden_ones(tmp_path):
    for name in ("b.png", "a.TIF", "._a.TIF", ".DS_Store", "notes.txt", "c.jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    assert [file.name for file in image_files(tmp_path)] == ["a.TIF", "b.png", "c.jpeg"]


def test_other_formats_are_to_be_saved_as_png(tmp_path):
    for name in ("b.webp", "a.bmp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
        with pytest.raises(
            PatchFileError, match=f"{name} is no image.*no PNG, JPEG, TIFF begins like it; save .* as PNG$"
        ):
            read(tmp_path / name)
    with pytest.raises(PatchFileError, match=r"holds no images itself .*; save a\.bmp and its like as PNG$"):
        image_files(tmp_path)
    (tmp_path / "slide.svs").touch()
    Image.fromarray(PIXELS).save(tmp_path / "c.png")
    assert image_files(tmp_path) == [tmp_path / "c.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PatchFileError, match="name the folder that does$"):
        image_files(tmp_path / "empty")


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(PatchFileError, match=f"{tmp_path.name} cannot be listed"):
        image_files(tmp_path)
