"""A bar is seen on a terminal, and nowhere else."""

import io

import pytest

from equilib.progress import bar


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
