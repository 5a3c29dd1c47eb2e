"""A bar is seen on a terminal, and nowhere else."""

import io

import pytest

from equilib.progress import bar, in_notebook


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, seen", [(Terminal(), True), (io.StringIO(), False)])
@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_is_for_terminals(monkeypatch, stream, seen, shown):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("equilib.progress.PATIENCE", 0)
    stream.seek(0), stream.truncate()
    assert list(bar(range(3), words="counting", unit="number", shown=shown)) == [0, 1, 2]
    assert ("counting" in stream.getvalue()) == (seen and shown)
    if not (seen and shown):
        assert stream.getvalue() == ""


def test_what_is_over_at_once_shows_none(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(bar(range(3), words="counting", unit="number")) == [0, 1, 2]
    assert "counting" not in terminal.getvalue()


class Cell:
    """What a notebook's front end holds of a cell: outputs, some of which change in place."""

    def __init__(self, monkeypatch):
        self.outputs, self.changes = [], 0
        monkeypatch.setattr("equilib.progress.in_notebook", lambda: True)
        monkeypatch.setattr("equilib.progress.INTERVAL", 0)
        monkeypatch.setattr("IPython.display.display", self.display)

    def display(self, data, *, raw, display_id):
        assert raw and display_id, "or it could not be changed"
        self.outputs.append(dict(data))
        return self

    def update(self, data, *, raw):
        self.outputs[-1], self.changes = dict(data), self.changes + 1


def test_in_a_notebook_a_bar_is_a_line_that_changes_and_is_empty_at_the_end(monkeypatch, capsys):
    cell, seen = Cell(monkeypatch), []
    monkeypatch.setattr("equilib.progress.PATIENCE", 0)
    for _ in bar(range(4), words="counting", unit="number"):
        seen.append(cell.outputs[-1]["text/plain"])
    assert (
        all(line.startswith("counting") and "\n" not in line for line in seen)
        and "█" in seen[-1]
        and "| 3/4 [" in seen[-1]
    )
    assert cell.outputs == [{"text/plain": ""}] and cell.changes >= 4
    assert capsys.readouterr() == ("", ""), "a saved notebook holds nothing on stderr"


def test_two_bars_in_a_notebook_have_a_line_each(monkeypatch):
    cell = Cell(monkeypatch)
    monkeypatch.setattr("equilib.progress.PATIENCE", 0)
    cells = {}
    monkeypatch.setattr("IPython.display.display", lambda data, **_: cells.setdefault(len(cells), Line(data)))
    for _ in bar(range(2), words="outer", unit="number"):
        for _ in bar(range(2), words="inner", unit="number"):
            assert cells[0].data["text/plain"].startswith("outer")
            assert cells[len(cells) - 1].data["text/plain"].startswith("inner")
    assert len(cells) == 3 and all(line.data == {"text/plain": ""} for line in cells.values())
    assert not cell.outputs


class Line:
    def __init__(self, data):
        self.data = data

    def update(self, data, *, raw):
        self.data = data


def test_what_is_over_at_once_leaves_no_output_in_a_notebook(monkeypatch):
    cell = Cell(monkeypatch)
    assert list(bar(range(3), words="counting", unit="number")) == [0, 1, 2]
    assert cell.outputs == []


def test_a_kernel_is_told_from_a_terminal(monkeypatch):
    from types import SimpleNamespace

    assert not in_notebook()
    for shell, found in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=object()), True)):
        monkeypatch.setitem(
            __import__("sys").modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell)
        )
        assert in_notebook() == found
