"""What is seen of a long training: its curves, and how long it will take."""

from types import SimpleNamespace

import pytest
from PIL import Image

from equilib.callbacks import Bar, Curves

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


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to, in the bar of a terminal."""
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    return seconds


def seconds_left(shown):
    """As the bar has it: None before there was a pace."""
    facts = shown.format_dict
    if facts["n"] == facts["initial"]:
        return None
    return (facts["total"] - facts["n"]) * facts["elapsed"] / (facts["n"] - facts["initial"])


def test_what_is_left_is_told_from_the_pace_since_the_start(clock):
    """…of all epochs, and of this start: what an earlier one has done took its own time."""
    trainer = SimpleNamespace(
        is_global_zero=True, estimated_stepping_batches=300, global_step=100, current_epoch=1, max_epochs=3
    )
    bar = Bar()
    bar.on_train_start(trainer, None)
    assert seconds_left(bar.bar) is None and "?" in str(bar.bar), "a run that goes on has no pace yet"
    clock[0], trainer.global_step = 10.0, 150
    bar.on_train_batch_end(trainer, None, None, None, 49)
    assert seconds_left(bar.bar) == pytest.approx(30)
    assert "epoch 2 of 3" in str(bar.bar) and "150/300 [00:10<00:30" in str(bar.bar)
    clock[0], trainer.global_step = 60.0, 300
    bar.on_train_batch_end(trainer, None, None, None, 99)
    assert seconds_left(bar.bar) == 0 and "<00:00" in str(bar.bar)
    bar.on_train_end(trainer, None)
    assert bar.bar.disable, "closed"


def test_one_of_several_processes_draws_the_bar(clock):
    other = SimpleNamespace(is_global_zero=False, estimated_stepping_batches=300, global_step=0)
    bar = Bar()
    bar.on_train_start(other, None)
    bar.on_train_batch_end(other, None, None, None, 0)
    bar.on_train_end(other, None)
    assert bar.bar is None
