"""The last exercises of notebook 06, run as a reader runs them: with the folded solutions, and with mistakes."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from equilib import exercises
from equilib.budget import BUDGETS
from equilib.equivariance import run_model
from equilib.pcam import Patches, network_inputs
from equilib.synthetic import ensure_dataset

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "06_int8_on_device.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
NETWORK, WAY = "c06107", "c06109"


def imports(source):
    """The import statements of a cell, and nothing else of it."""
    tree = ast.parse(source)
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(ast.Module(statements, []))


def solution(cell):
    return re.search(r"<details>.*?```python\n(.*?)```", CELLS[cell], re.S)[1]


@pytest.fixture
def page(tmp_path):
    """The names that the notebook has when a reader comes to exercise 7, at less than the smallest budget, all solved."""
    budget = replace(BUDGETS["smoke"], epochs=2, batch_size=32)
    test = Patches(ensure_dataset(budget.sizes, progress=False), "test")
    names = {"budget": budget, "folder": tmp_path, "test": test, "labels": torch.from_numpy(test.labels)}
    names["inputs"] = network_inputs(test, range(16), 95)
    exec(imports(CELLS["c06002"]), names)
    for cell in ("c06102", "c06104", "c06106"):
        exec(solution(cell), names)
    names |= dict.fromkeys(("copies_done", "statistics_done", "norm_done"), True)
    exec(CELLS[NETWORK], names)
    return names


def verdict(page, capsys, change=""):
    """What exercise 7 says, once the reader has run another cell before it."""
    exec(change, page)
    exec(CELLS[WAY], page)
    return capsys.readouterr().out


def test_the_whole_way_ends_in_the_same_bits(page, capsys):
    out = verdict(page, capsys)
    assert "✅" in out and "16 of 16" in out and "KiB" in out


def test_an_unanswered_exercise_stops_nothing(page, capsys):
    assert "✏️" in verdict(page, capsys, "norm_done = False")


MISTAKES = {
    "copies that do not turn": (
        "def turned_copies(kernels):\n    return kernels.repeat_interleave(4, 0)",
        "not rotated copies",
    ),
    "numbers repeated in the wrong order": (
        "def plain_norm(*numbers):\n"
        "    norm = nn.BatchNorm2d(4 * len(numbers[0])).eval()\n"
        "    mean, variance, gamma, beta = (number.repeat(4) for number in numbers)\n"
        "    norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data = mean, variance, gamma, beta\n"
        "    return norm",
        "not rotated copies",
    ),
    "a mask that is no disc": (
        "def lopsided(size):\n"
        "    mask = DiscMask(size)\n"
        "    mask.mask[:, 48:] = 0\n"
        "    return mask\n"
        "made = TinyNetwork.__init__\n"
        "TinyNetwork.__init__ = lambda self: (made(self), setattr(self, 'mask', lopsided(95)))[0]",
        "a quarter turn moves the logits",
    ),
    "a classifier that is exported as a sum": (
        "exported = TinyNetwork.export\n"
        "def export(self):\n"
        "    plain = exported(self)\n"
        "    plain[-1].weight.data *= 4\n"
        "    return plain\n"
        "TinyNetwork.export = export",
        "another function",
    ),
    "a network that does not learn": (
        "TinyNetwork.forward = lambda self, x: 0 * self.linear.bias.repeat(len(x), 1)",
        "did not lower the loss",
    ),
    "an error of its own": ("del QUARTER", "Your answer raised NameError"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_a_hint(page, capsys, mistake):
    change, hint = MISTAKES[mistake]
    out = verdict(page, capsys, change)
    assert "❌" in out and hint in out, out


def test_int8_that_loses_bits_is_seen(page, capsys):
    """An INT8 model to which one pixel counts for itself, and one that answers the other class."""
    exec(CELLS[WAY].replace("check_whole_way(whole_way);", "found = whole_way()"), page)
    found, session = page["found"], page["found"]["session"]

    def biased(images):
        return run_model(session, images) + 1e-6 * images[:, 0, 20, 30, None]

    for wrong, hint in ((biased, "keep their bits"), (lambda images: -run_model(session, images), "left out")):
        assert not exercises.check_whole_way(lambda wrong=wrong: found | {"session": wrong})
        assert hint in capsys.readouterr().out
