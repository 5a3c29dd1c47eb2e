"""A bar is seen on a terminal, and nowhere else."""

import io
from pathlib import Path

import nbformat
import pytest
import torch

from equilib import deploy
from equilib.doctor import report
from equilib.mobilenet import MobileNetConfig, build, estimate_statistics
from equilib.notebooks import clean, code_cells, watched_runs
from equilib.progress import bar, in_notebook
from equilib.results import shipped_results

ROOT = Path(__file__).parent.parent


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


def test_slow_items_are_seen_one_by_one_after_fast_ones(monkeypatch):
    """tqdm's own default would wait for as many as it saw before between two pictures."""
    terminal, seconds = Terminal(), [0.0]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    shown = bar(total=60, words="counting", unit="number")
    for pace in [0.1] * 40 + [30.0] * 20:
        seconds[0] += pace
        shown.update()
    for count in range(41, 61):
        assert f"| {count}/60 [" in terminal.getvalue()
    shown.close()


# --- where bars are shown ---


def watched(monkeypatch):
    """Standard error becomes a terminal, on which everything is seen at once."""
    monkeypatch.setattr("equilib.progress.PATIENCE", 0)
    monkeypatch.setattr("equilib.progress.INTERVAL", 0)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def test_a_benchmark_counts_its_cases_and_no_bar_runs_while_the_clock_does(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from timing import interleaved

    terminal, readings, lengths = watched(monkeypatch), iter(range(100)), []

    def clock():
        lengths.append(terminal.tell())
        return next(readings)

    found = interleaved({"one": lambda: None, "other": lambda: None}, 2, clock=clock, words="timing two")
    assert found == {"one": 1, "other": 1}
    assert "timing two" in terminal.getvalue() and "6/6" in terminal.getvalue()
    pairs = lengths[2:]  # of the first round, which warms up, only the starts are read
    assert len(pairs) == 8 and pairs[0::2] == pairs[1::2], "nothing is drawn between two readings"
    assert len(set(pairs)) == 4, "but between two cases it is"


@pytest.mark.slow
def test_running_notebooks_counts_their_cells(tmp_path, monkeypatch):
    terminal, paths = watched(monkeypatch), []
    for name, sources in (("a", ["1 + 1", "", "print(2)"]), ("b", ["3"])):
        cells = [nbformat.v4.new_code_cell(source) for source in sources] + [nbformat.v4.new_markdown_cell("words")]
        paths.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths[-1])
    done = {path.name: run() for path, run in watched_runs(paths)}
    said = terminal.getvalue()
    assert "0/3" in said and "a.ipynb:" in said and "b.ipynb:" in said and "3/3" in said
    assert [cell.execution_count for cell in code_cells(done["a.ipynb"])] == [1, 2]


def test_what_a_bar_leaves_in_a_notebook_is_cleaned_away():
    left = nbformat.v4.new_output("display_data", {"text/plain": ""})
    kept = nbformat.v4.new_output("display_data", {"text/plain": "a result"})
    cell = nbformat.v4.new_code_cell("work()", outputs=[left, kept])
    assert clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs == [kept]


def test_the_doctor_shows_that_it_asks_the_models(monkeypatch):
    terminal = watched(monkeypatch)
    monkeypatch.setattr("equilib.doctor._same_bits", lambda running, images: True)
    shipped = sum("int8 sha256" in entry for entry in shipped_results("checkpoints").values())
    assert dict(report(None))["shipped models"].startswith(f"{shipped} INT8 models")
    assert "asking the shipped models" in terminal.getvalue()


def test_quantizing_takes_as_many_steps_as_its_bar_has(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "writer", lambda path: lambda network, path, size: path)  # one step, whatever it writes
    steps = []
    network = estimate_statistics(build("conventional", MobileNetConfig(width=0.35)), torch.randn(8, 3, 95, 95))
    for options in ({}, {"equalize": False, "absorb": False, "correct": True}):
        steps.clear()
        deploy.deploy(network.eval(), tmp_path / "x.onnx", **options, step_done=lambda: steps.append(1))
        assert len(steps) == deploy.STEPS
