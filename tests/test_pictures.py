"""`equilib predict --stride`: pictures larger than a patch, through the command."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from test_cli import MODEL, SAME, made, one_sentence

from equilib import device, self_test
from equilib.__main__ import main
from equilib.cli import predict
from equilib.equivariance import run_model
from equilib.fields import tissue_photograph
from equilib.images import count_images, read_pictures
from equilib.self_test import SelfTest
from equilib.windows import Windows, windows_that_fit

TISSUE = (tissue_photograph(223)[:, :, :159] * 255).round().byte().permute(1, 2, 0).numpy().copy()


def saved(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return str(path)


def rows(text, name):
    return [row for row in csv.DictReader(text.splitlines()) if row["image"] == name]


def as_map(found):
    """The CSV of one picture as an array of the probabilities' texts."""
    places = [sorted({int(row[axis]) for row in found}) for axis in ("row", "column")]
    values = np.empty([len(place) for place in places], dtype=object)
    for row in found:
        values[places[0].index(int(row["row"])), places[1].index(int(row["column"]))] = row["probability_of_tumour"]
    return values


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    """A network that sees no directions but for the sums of floats; with a self-test, so that nothing is said of it."""
    path = made(tmp_path_factory.mktemp("model") / "m.onnx", SAME)
    asked = SelfTest((3, 95, 95), -2.0, 2.0, (), 1.0)
    answers = run_model(device.session(path), torch.from_numpy(asked.images()))
    model = onnx.load(path)
    helper.set_model_props(
        model, {self_test.KEY: replace(asked, answers=tuple(map(tuple, answers.tolist()))).to_json()}
    )
    onnx.save(model, path)
    return str(path)


def test_the_map_of_a_turned_picture_is_the_turned_map(tmp_path, capsys, monkeypatch):
    """With a shipped INT8 network, in the CSV and to the bit, whatever the batch and the number of threads."""
    maps = []
    monkeypatch.setattr("equilib.cli.pictures.probability_map", kept(maps))
    names = [saved(tmp_path / f"{turns}.png", np.rot90(TISSUE, turns)) for turns in range(4)]
    for stride, threads in (("32", "1"), ("30", "2")):  # 30 leaves pixels over, an even number
        assert main(["predict", str(MODEL), *names, "--stride", stride, "--threads", threads]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        upright, *turned = (as_map(rows(said.out, name)) for name in names)
        assert upright.shape == (5, 3) and len(set(upright.flatten())) > 5
        for turns, found in enumerate(turned, start=1):
            assert (found == np.rot90(upright, turns)).all()
    for index, found in enumerate(maps):
        assert torch.equal(found, torch.rot90(maps[index // 4 * 4], index % 4)), "more digits than the CSV has"


def kept(maps):
    from equilib.windows import probability_map

    def keep(*arguments, **options):
        maps.append(probability_map(*arguments, **options))
        return maps[-1]

    return keep


def test_a_row_is_what_the_cut_patch_gets(tmp_path, capsys):
    picture = saved(tmp_path / "large.png", TISSUE)
    assert main(["predict", str(MODEL), picture, "--stride", "64"]) == 0
    found = rows(capsys.readouterr().out, picture)
    assert [(row["row"], row["column"]) for row in found] == [(r, c) for r in ("0", "64", "128") for c in ("0", "64")]
    names = [
        saved(tmp_path / f"{row['row']}_{row['column']}.png", TISSUE[int(row["row"]) :, int(row["column"]) :][:95, :95])
        for row in found
    ]
    assert main(["predict", str(MODEL), *names]) == 0
    patches = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for of in ("class", "probability_of_tumour"):
        assert [row[of] for row in found] == [row[of] for row in patches]


def test_a_stride_that_does_not_fit_is_answered_and_says_which_ones_do(tmp_path, capsys, brightness):
    pixels = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    name = saved(tmp_path / "a.png", pixels)
    assert main(["predict", brightness, name, "--stride", "32"]) == 0
    said = capsys.readouterr()
    assert len(rows(said.out, name)) == 2 * 3
    assert said.err.startswith("equilib: ") and said.err.count("\n") == 1
    assert all(words in said.err for words in ("(128 - 95) mod 32 = 1", "strides near it that fit: 21 or 33"))
    assert main(["predict", brightness, name, "--stride", "33"]) == 0
    assert capsys.readouterr().err == ""


def test_a_stride_that_leaves_gaps_is_told(tmp_path, capsys, brightness):
    """A picture of which hardly anything was looked at would pass for one without tumour."""
    name = saved(tmp_path / "a.png", np.zeros((300, 300, 3), dtype=np.uint8))
    for stride, share in ((205, f"{1 - 190**2 / 300**2:.1%}"), (2000, f"{1 - 95**2 / 300**2:.1%}")):
        assert main(["predict", brightness, name, name, "--stride", str(stride)]) == 0
        gaps = [line for line in capsys.readouterr().err.splitlines() if "leaves gaps" in line]
        assert len(gaps) == 1 and share in gaps[0], "once for pictures of one size"
    assert main(["predict", brightness, name, "--stride", "95"]) == 0
    assert "leaves gaps" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "height, width, stride", [(128, 160, 32), (512, 512, 32), (96, 97, 5), (95, 300, 7), (301, 210, 400)]
)
def test_the_strides_that_are_named_fit_and_none_is_nearer(height, width, stride):
    found = Windows(height, width, 95, stride).fitting_strides()
    exact = [s for s in range(1, min(height, width) - 95 + 1) if s != stride and Windows(height, width, 95, s).exact]
    below, above = [s for s in exact if s < stride], [s for s in exact if s > stride]
    assert list(found) == below[-1:] + above[:1]


def test_nothing_is_lost(tmp_path, capsys, brightness):
    """What cannot be answered is named, the rest answered; in HDF5 too, whose pictures have any size here."""
    small, broken = saved(tmp_path / "small.png", TISSUE[:94]), tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "small.png").read_bytes()[:5000])
    grey, good = saved(tmp_path / "grey.png", TISSUE[..., 0]), saved(tmp_path / "good.png", TISSUE)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["x"] = np.stack([TISSUE, TISSUE[::-1]])
    inputs = [small, str(broken), grey, str(tmp_path / "none.png"), good, str(tmp_path / "two.h5")]
    assert main(["predict", brightness, *inputs, "--stride", "32"]) == 1
    said = capsys.readouterr()
    for name in (good, f"{tmp_path / 'two.h5'}[0]", f"{tmp_path / 'two.h5'}[1]"):
        assert len(rows(said.out, name)) == 15
    errors = said.err.splitlines()
    assert len(errors) == 4 and all(line.startswith("equilib: ") for line in errors)
    for words in (
        "small.png: a picture of 159 x 94",
        "broken.png is no image",
        "grey.png has shape",
        "none.png is missing",
    ):
        assert any(words in line for line in errors), words


def test_windows_without_an_answer_are_counted_and_the_others_answered(tmp_path, capsys):
    nodes = [helper.make_node("Exp", ["powers"], ["logits"])]
    nodes = [helper.make_node("Mul", ["scores", "scores"], ["squares"]), helper.make_node("Mul", ["squares", "squares"], ["powers"]), *nodes]  # fmt: skip
    overflows = str(made(tmp_path / "m.onnx", nodes, weights=np.full((3, 2), 1.0, "f4")))
    pixels = np.full((95, 95 + 64, 3), 170, np.uint8)
    pixels[:, 80:] = 255
    name = saved(tmp_path / "half.png", pixels)
    assert main(["predict", overflows, name, "--stride", "64", "--map", str(tmp_path / "maps")]) == 1
    said = capsys.readouterr()
    assert [row["column"] for row in rows(said.out, name)] == ["0"]
    assert "1 of 2 windows with no finite numbers, first at row 0, column 64" in said.err
    assert (tmp_path / "maps" / "half_map.png").exists()


def test_a_network_that_ends_in_a_softmax_and_one_that_takes_single_patches(tmp_path, capsys, brightness):
    softmax = [helper.make_node("Softmax", ["scores"], ["logits"], axis=-1)]
    models = [
        brightness,
        str(made(tmp_path / "s.onnx", softmax)),
        str(made(tmp_path / "1.onnx", SAME, takes=[1, 3, 95, 95])),
    ]
    name = saved(tmp_path / "a.png", TISSUE)
    found = []
    for model in models:
        assert main(["predict", model, name, "--stride", "64"]) == 0
        found.append([float(row["probability_of_tumour"]) for row in rows(capsys.readouterr().out, name)])
    assert np.allclose(found, found[0], atol=1.01e-4)


def test_maps_are_pictures_in_a_folder_of_their_own(tmp_path, capsys, brightness):
    pictures = tmp_path / "in"
    (pictures / "b").mkdir(parents=True)
    names = [
        saved(pictures / "a.png", TISSUE),
        saved(pictures / "b" / "a.png", TISSUE),
        saved(pictures / "$x_$.png", TISSUE),
    ]
    before = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    assert main(["predict", brightness, str(pictures), names[1], "--map", str(tmp_path / "out" / "maps")]) == 0
    said = capsys.readouterr()
    assert f"maps are in {tmp_path / 'out' / 'maps'}" in said.err and len(rows(said.out, names[0])) == 15
    made_ones = sorted(path.name for path in (tmp_path / "out" / "maps").iterdir())
    assert made_ones == ["$x_$_map.png", "a_map.png", "a_map_2.png"]
    for name in made_ones:
        with Image.open(tmp_path / "out" / "maps" / name) as drawn:
            assert drawn.format == "PNG" and np.asarray(drawn.convert("RGB")).std() > 10
    assert {path: path.read_bytes() for path in pictures.rglob("*.png")} == before
    assert main(["predict", brightness, str(pictures), "--map", str(pictures)]) == 1
    one_sentence(capsys, "--map", "folder of pictures")
    (tmp_path / "file").touch()
    assert main(["predict", brightness, names[0], "--map", str(tmp_path / "file")]) == 1
    one_sentence(capsys, "no folder")
    with pytest.raises(SystemExit):
        main(["predict", brightness, names[0], "--stride", "0"])


def test_an_input_is_never_overwritten_by_a_map(tmp_path, capsys, brightness):
    names = [saved(tmp_path / name, TISSUE) for name in ("a.png", "a_map.png")]
    before = (tmp_path / "a_map.png").read_bytes()
    assert main(["predict", brightness, *names, "--map", str(tmp_path)]) == 1
    one_sentence(capsys, "a folder of pictures")
    assert (tmp_path / "a_map.png").read_bytes() == before and len(list(tmp_path.glob("*.png"))) == 2


def test_maps_are_not_put_where_the_next_call_would_take_them_for_tissue(tmp_path, capsys, monkeypatch, brightness):
    saved(tmp_path / "a.png", TISSUE)
    monkeypatch.chdir(tmp_path)
    for folder in (".", str(tmp_path), "../" + tmp_path.name):
        assert main(["predict", brightness, "a.png", "--map", folder]) == 1
        one_sentence(capsys, "a folder of pictures")
    assert main(["predict", brightness, "a.png", "--map", "maps"]) == 0 and Path("maps/a_map.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses such paths as a whole")
def test_a_map_that_cannot_be_written_leaves_the_other_pictures_answered(tmp_path, capsys, brightness):
    names = [saved(tmp_path / "in" / f"{'x' * 248}.png", TISSUE), saved(tmp_path / "in" / f"{'y' * 225}.png", TISSUE)]
    assert main(["predict", brightness, *names, "--map", str(tmp_path / "maps")]) == 1
    said = capsys.readouterr()
    assert len(rows(said.out, names[0])) == len(rows(said.out, names[1])) > 1
    assert "cannot be written" in said.err and ".part" not in said.err
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [f"{'y' * 225}_map.png"], "255 bytes are a name"


def test_what_a_folder_holds_besides_is_told(tmp_path, capsys, brightness):
    saved(tmp_path / "a.png", TISSUE[:96, :96])
    for name in ("b.bmp", "c.webp", "d.h5", "notes.txt", ".hidden.bmp"):
        (tmp_path / name).write_bytes(b"")
    assert main(["predict", brightness, str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.count("a.png") == 1
    assert "3 file(s) in it were not read: save b.bmp and its like as PNG" in said.err and "d.h5 itself" in said.err
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "e.hdf5").write_bytes(b"")
    assert main(["predict", brightness, str(tmp_path / "only")]) == 1
    one_sentence(capsys, "holds no images itself", "e.hdf5 itself")


def test_memory_is_that_of_a_batch(tmp_path, capsys, monkeypatch, brightness):
    seen = []
    real = predict.run_model
    monkeypatch.setattr(
        "equilib.windows.run_model", lambda m, images, **more: seen.append(len(images)) or real(m, images, **more)
    )
    name = saved(tmp_path / "a.png", np.zeros((400, 400, 3), np.uint8))
    assert main(["predict", brightness, name, "--stride", "5"]) == 0
    assert sum(seen) == 62 * 62 and max(seen) == 64


def test_a_picture_of_too_many_pixels_is_no_damaged_one(tmp_path, capsys, monkeypatch, brightness):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    name = saved(tmp_path / "slide.png", np.zeros((300, 300, 3), np.uint8))
    assert main(["predict", brightness, name, "--stride", "32"]) == 1
    one_sentence(capsys, "slide.png", "million pixels", "cut it into pieces")


def test_without_a_stride_larger_ones_are_refused_and_told_of_it(tmp_path, capsys, brightness):
    assert main(["predict", brightness, saved(tmp_path / "a.png", TISSUE)]) == 1
    one_sentence(capsys, "223 x 159", "--stride")


def test_pictures_are_read_as_they_are_and_counted(tmp_path):
    saved(tmp_path / "a.png", TISSUE)
    ((_, pixels),) = read_pictures(tmp_path / "a.png")
    assert (pixels == TISSUE).all()
    with h5py.File(tmp_path / "three.h5", "w") as file:
        file["x"] = np.zeros((3, 96, 96, 3), np.uint8)
    (tmp_path / "bad.h5").write_bytes(b"no")
    assert [count_images(tmp_path / name) for name in ("a.png", "three.h5", "bad.h5")] == [1, 3, 0]


def test_without_a_stride_the_map_of_a_turned_picture_is_the_turned_map_at_any_size(tmp_path, capsys, brightness):
    """Even pictures, on which no even stride fits a window of 95 pixels, get the odd one that is nearest."""
    for height, width in ((128, 128), (160, 223), (96, 96), (159, 159)):
        picture = np.resize(TISSUE, (height, width, 3))
        names = [saved(tmp_path / f"{height} {turns}.png", np.rot90(picture, turns)) for turns in range(4)]
        assert main(["predict", brightness, *names, "--map", str(tmp_path / "maps")]) == 0
        said = capsys.readouterr()
        assert said.err == f"maps are in {tmp_path / 'maps'}\n"
        upright, *turned = (as_map(rows(said.out, name)) for name in names)
        for turns, found in enumerate(turned, start=1):
            assert (found == np.rot90(upright, turns)).all()


@pytest.mark.parametrize("side", [256, 512, 1000, 1024, 2048, 4000, 4096])
def test_the_default_stride_fits_usual_pictures_and_is_near_the_label_window(side):
    windows = windows_that_fit(side, side, 95)
    assert windows.exact and abs(windows.stride - 32) == 1
    assert windows_that_fit(side - 1, side - 1, 95).stride == 32 or (side - 1 - 95) % 32 % 2


def test_maps_are_not_put_among_other_pictures(tmp_path, capsys, brightness):
    big, _ = saved(tmp_path / "big.png", TISSUE), saved(tmp_path / "pics" / "a.png", TISSUE)
    assert main(["predict", brightness, big, "--map", str(tmp_path / "pics")]) == 1
    one_sentence(capsys, "holds pictures (a.png)", "name another folder")
    assert len(list((tmp_path / "pics").iterdir())) == 1
    for _ in range(2):  # among maps there is room
        assert main(["predict", brightness, big, "--map", str(tmp_path / "maps")]) == 0
    capsys.readouterr()
    small = saved(tmp_path / "small.png", TISSUE[:50])
    assert main(["predict", brightness, small, "--map", str(tmp_path / "none")]) == 1
    assert "maps are in" not in capsys.readouterr().err
