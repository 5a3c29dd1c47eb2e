"""What is seen of a long training: its curves, and how long it will take."""

from types import SimpleNamespace

import pytest
from PIL import Image

from equilib.callbacks import Curves, seconds_left

ROWS = [{"epoch": n, "train_loss": 0.7 / n, "valid_loss": 0.8 / n, "valid_accuracy": 1 - 0.5 / n} for n in (1, 2, 3)]
FIRST = SimpleNamespace(is_global_zero=True)


def test_curves_are_drawn_anew_after_each_epoch(tmp_path):
    path, history = tmp_path / "curves.png", SimpleNamespace(rows=ROWS[:1])
    curves, seen = Curves(path, history, "equivariant"), []
    for count in (1, 2, 3):
        history.rows = ROWS[:count]
        curves.on_train_epoch_end(FIRST, None)
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width > 500
        seen.append(path.read_bytes())
    assert len(set(seen)) == 3 and list(tmp_path.iterdir()) == [path], "and nothing half-written is left"
    path.unlink()
    curves.on_train_epoch_end(SimpleNamespace(is_global_zero=False), None)
    assert not path.exists(), "one of several processes draws"


def test_a_picture_that_cannot_be_written_ends_no_training(tmp_path):
    curves = Curves(tmp_path / "gone" / "curves.png", SimpleNamespace(rows=ROWS), "equivariant")
    with pytest.warns(UserWarning, match="curves.png is not drawn .*; the training goes on"):
        curves.on_train_epoch_end(FIRST, None)
    curves.on_train_epoch_end(FIRST, None)  # it has said so


def test_what_is_left_is_told_from_the_pace_since_the_start():
    assert seconds_left(100, 100, 300, 5.0) is None, "a run that goes on has no pace yet"
    assert seconds_left(100, 150, 300, 10.0) == pytest.approx(30)
    assert seconds_left(0, 300, 300, 60.0) == 0
