"""What is made never takes the place of something else: folders of pages, copies for students."""

import os
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
