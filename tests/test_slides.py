"""PCam's metadata: the slide of each patch, what is refused, and intervals that draw whole slides."""

import csv

import h5py
import numpy as np
import pytest

from equilib import slides
from equilib.__main__ import main
from equilib.hdf5 import PatchFileError
from equilib.pcam import split_path

HEADER = ["", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"]
LABELS = [0, 1, 1, 0, 1, 0]
NAMES = ["test_001", "test_001", "test_016", "test_016", "test_016", "test_040"]


def write(path, rows, header=HEADER):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def root(tmp_path):
    """A test split of six patches of three slides, as PCam's files are."""
    with h5py.File(split_path(tmp_path, "test", "x"), "w") as file:
        file["x"] = np.zeros((6, 96, 96, 3), np.uint8)
    with h5py.File(split_path(tmp_path, "test", "y"), "w") as file:
        file["y"] = np.array(LABELS, np.uint8).reshape(-1, 1, 1, 1)
    words = [[i, 10, 20, "True", str(bool(label)), name] for i, (label, name) in enumerate(zip(LABELS, NAMES))]
    write(slides.meta_path(tmp_path, "test"), words)
    return tmp_path


def test_each_patch_has_its_slide(root):
    assert slides.meta_path(root, "test").name == "camelyonpatch_level_2_split_test_meta.csv"
    assert slides.read_slides(root, "test") == NAMES


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: None, "is missing: put PCam's metadata beside its .h5 files"),
        (lambda rows: [row[:5] for row in rows], "has no column wsi; it has , coord_y,"),
        (lambda rows: rows[:1], "has 0 rows for 6 patches"),
        (lambda rows: rows[:-1], "has 5 rows for 6 patches"),
        (lambda rows: rows[:3] + [rows[3][:5] + [""]] + rows[4:], "names no slide .column wsi. for patch 2"),
        (lambda rows: rows[:1] + rows[:0:-1], "has other labels .center_tumor_patch. than the patches"),
        (lambda rows: rows[:1] + [row[:5] + ["nan"] for row in rows[1:]], "has all patches of one slide, 'nan'"),
        (lambda rows: b"\xff\xfe\x00", "is no table in text form"),
        (lambda rows: b"", "has no column center_tumor_patch and no column wsi; it has none"),
    ],
)
def test_what_is_not_the_metadata_of_these_patches_is_named(root, change, words):
    path = slides.meta_path(root, "test")
    with open(path, newline="") as file:
        rows = change(list(csv.reader(file)))
    path.unlink()
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif rows is not None:
        write(path, rows[1:], rows[0])
    with pytest.raises(PatchFileError, match=f"split_test_meta.csv {words}") as error:
        slides.read_slides(root, "test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["true false", "TRUE FALSE", "1 0", "1.0 0.0"])
def test_truth_may_be_spelt_in_other_ways(root, words):
    path, (yes, no) = slides.meta_path(root, "test"), words.split()
    path.write_text(path.read_text().replace(",True,test", f",{yes},test").replace(",False,test", f",{no},test"))
    assert slides.read_slides(root, "test") == NAMES


def answers(right, labels):
    """Logit differences that are right where they should be."""
    return {"label": labels.tolist(), **{stage: np.where(right, 1, -1) * (labels * 2 - 1.0) for stage in slides.STAGES}}


def test_whole_slides_are_drawn_and_the_models_meet_on_the_same_ones():
    """Half of the slides all right, half all wrong: the interval is that of 30 slides; a model minus itself is 0."""
    rng = np.random.default_rng(0)
    slide, labels = np.repeat(np.arange(30), 40), rng.integers(0, 2, 1200)
    ours = answers(slide % 2 == 0, labels)
    found = slides.by_slide({"a": ours, "b": ours}, [f"slide {number}" for number in slide])
    value, low, high = found["intervals"]["a"]["fp32"]["accuracy"]
    assert (found["slides"], found["patches"], value) == (30, 1200, pytest.approx(0.5))
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 30) ** 0.5, rel=0.08)
    assert found["intervals"]["b − a"]["int8"] == {"accuracy": (0, 0, 0), "auc": (0, 0, 0)}
    better = answers(slide % 3 > 0, labels)
    gain = slides.by_slide({"a": ours, "b": better}, slide)["intervals"]["b − a"]["fp32"]["accuracy"]
    assert gain[0] == pytest.approx(20 / 30 - 0.5) and gain[1] < gain[0] < gain[2]
    (first, second, difference) = slides.rows(found)
    assert first["FP32 accuracy, by slide"].startswith("50.0 (") and difference["INT8 AUC, by slide"].startswith(
        "+0.000 ("
    )
    with pytest.raises(ValueError, match="12 patches have their slide, but 1200 an answer"):
        slides.by_slide({"a": ours}, slide[::100])


def test_the_command_asks_for_the_metadata_before_it_trains(root, tmp_path, capsys):
    for split in ("train", "valid"):
        for key in "xy":
            split_path(root, split, key).write_bytes(split_path(root, "test", key).read_bytes())
    slides.meta_path(root, "test").unlink()
    words = ["compare", "--data", str(root), "--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "x.json")]
    assert main([*words, "--by-slide", "--preset", "smoke"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("equilib: ") and "split_test_meta.csv is missing" in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()
