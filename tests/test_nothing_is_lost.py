"""What is made never takes the place of something else: folders of pages, copies for students."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from equilib import live, notebooks, results, site

COURSE = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("build", [live.build, lambda folder: site.build([], folder)], ids=["live", "site"])
def test_a_folder_with_other_files_is_not_replaced(tmp_path, monkeypatch, build):
    thesis = tmp_path / "thesis" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("ten years")
    with pytest.raises(ValueError, match="thesis holds other files"):
        build(thesis.parent)
    with pytest.raises(ValueError, match="is a file"):
        build(thesis)
    monkeypatch.chdir(thesis.parent)
    for above in (".", "..", "/"):
        with pytest.raises(ValueError, match="this runs in, or one above"):
            build(Path(above))
    assert thesis.read_text() == "ten years"


def test_what_was_made_so_before_may_be_replaced(tmp_path):
    assert results.replaceable_folder(tmp_path / "new", ["a"]) == (tmp_path / "new").resolve()
    (tmp_path / "made").mkdir()
    results.replaceable_folder(tmp_path / "made", ["a", "b"])
    (tmp_path / "made" / "a").write_text("")
    with pytest.raises(ValueError, match="other files"):
        results.replaceable_folder(tmp_path / "made", ["a", "b"])
    (tmp_path / "made" / "b").write_text("")
    results.replaceable_folder(tmp_path / "made", ["a", "b"])


def test_copies_for_students_take_the_place_of_nothing(tmp_path):
    source = tmp_path / "01.ipynb"
    source.write_bytes((COURSE / "01_feature_fields.ipynb").read_bytes())
    before = source.read_bytes()
    assert notebooks.main(["student", str(tmp_path), str(source)]) == 2
    assert source.read_bytes() == before, "the solutions"
    folder = tmp_path / "student"
    for _ in range(2):  # twice is once
        assert notebooks.main(["student", str(folder), str(source)]) == 0
    copied = nbformat.read(folder / "01.ipynb", as_version=4)
    copied.cells[-1].source = "my answer"
    nbformat.write(copied, folder / "01.ipynb")
    assert notebooks.main(["student", str(folder), str(source)]) == 2
    assert "my answer" in (folder / "01.ipynb").read_text()
    other = tmp_path / "other" / "01.ipynb"
    other.parent.mkdir()
    other.write_bytes(before)
    assert notebooks.main(["student", str(tmp_path / "both"), str(source), str(other)]) == 2
    assert not (tmp_path / "both").exists()


def test_a_name_of_any_length_is_written_whole(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    with results.written_whole(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole" and os.listdir(tmp_path) == [path.name]


def test_results_take_the_place_of_results_only(tmp_path):
    from equilib.experiment import _refuse_other

    for contents in (b"\x89HDF", b"thesis", b"[1]", b'{"a": 1}'):
        (tmp_path / "mine").write_bytes(contents)
        with pytest.raises(ValueError, match="mine is there already, and holds no results"):
            _refuse_other(tmp_path / "mine")
    for contents in (b"", b'{"models": {}}'):
        (tmp_path / "mine").write_bytes(contents)
        _refuse_other(tmp_path / "mine")
    _refuse_other(tmp_path / "none")


@pytest.mark.skipif(os.name == "nt", reason="there a process ends without a word")
def test_a_command_that_is_told_to_end_leaves_nothing_half(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_text("whole")
    script = """
import os, signal, sys
from equilib.cli.process import until_closed
from equilib.results import written_whole

def command():
    with written_whole(sys.argv[1]) as temporary:
        temporary.write_text("ha")
        os.kill(os.getpid(), signal.SIGTERM)

sys.exit(until_closed(command))
"""
    ended = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (143, "")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "whole"


@pytest.mark.skipif(os.name == "nt", reason="there a process ends without a word")
def test_ctrl_c_in_any_command_is_one_line(tmp_path):
    script = """
import os, signal, sys
from equilib.cli.process import until_closed

sys.argv = ["experiments/grid.py"]
sys.exit(until_closed(lambda: os.kill(os.getpid(), signal.SIGINT)))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (ended.returncode, ended.stderr) == (130, "grid.py: interrupted\n")


def test_a_picture_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    from PIL import Image

    save = Image.Image.save

    def full(self, path, *arguments, **options):
        if not isinstance(path, Path):  # the frames, in memory
            return save(self, path, *arguments, **options)
        path.write_bytes(b"GIF8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    (tmp_path / "turning.gif").write_bytes(b"before")
    assert notebooks.main(["animation", str(tmp_path / "turning.gif")]) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "1", '"x"', '{"cells": 3}', "", '{"cells": [{}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'],
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys, text):
    (tmp_path / "odd.ipynb").write_text(text)
    for arguments in (["run"], ["student", str(tmp_path / "copies")]):
        assert notebooks.main([*arguments, str(tmp_path / "odd.ipynb")]) == 2
        said = capsys.readouterr().err.strip()
        assert "odd.ipynb is no notebook (" in said and "\n" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ipynb"]


def test_a_notebook_of_other_tools_is_one(tmp_path):
    """Cell numbers in an older format, keys of a tool's own, no count of executions: nbformat itself only warns."""
    source = nbformat.read(COURSE / "01_feature_fields.ipynb", as_version=4)
    source.nbformat_minor = 4
    source.cells[0]["colab"] = {"x": 1}
    for cell in source.cells:
        cell.pop("execution_count", None)
    (tmp_path / "01.ipynb").write_text(json.dumps(source), encoding="utf-8")
    assert len(notebooks.read(tmp_path / "01.ipynb").cells) == len(source.cells)
    assert notebooks.main(["student", str(tmp_path / "copies"), str(tmp_path / "01.ipynb")]) == 0
