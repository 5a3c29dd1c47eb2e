"""The list of mutants is up to date, and the runner's verdicts are right; the run itself is ``make mutation``."""

import ast
from pathlib import Path

import mutation
import pytest
from mutants import MUTANTS, Mutant, StaleMutantError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.module}: {mutant.says}")
def test_no_mutant_is_stale(mutant):
    """Its line is there, once; the broken module is Python still, and another program; its tests exist."""
    source = (ROOT / "equilib" / f"{mutant.module}.py").read_text()
    broken = mutant.broken(source)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))
    for test in mutant.tests.split():
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert f"def {name.partition('[')[0]}(" in text if name else "def test_" in text, test


def test_every_mutant_is_named_once():
    names = [(mutant.module, mutant.says) for mutant in MUTANTS]
    assert len(names) == len(set(names))


def test_a_line_that_is_gone_is_stale(tmp_path):
    (tmp_path / "equilib").mkdir()
    (tmp_path / "equilib" / "grids.py").write_text("a = b + 1\nc = b + 1\n")
    for line, count in (("b - 1", 0), ("b + 1", 2)):
        with pytest.raises(StaleMutantError, match=rf"equilib/grids.py holds .* {count} times, not once"):
            Mutant("grids", "x", line, "b", "test_grids.py").apply(tmp_path)
    Mutant("grids", "x", "a = b + 1", "a = b", "test_grids.py").apply(tmp_path)
    assert (tmp_path / "equilib" / "grids.py").read_text() == "a = b\nc = b + 1\n"


def test_a_breakage_is_caught_survives_or_says_nothing():
    """On the real package and real tests, quick ones; the outcome comes from a process of its own."""
    window = "test_grids.py::test_impossible_windows_are_refused"
    breakages = {
        "caught": ("if getattr(self, name) < 1:", "if getattr(self, name) < 0:", window),
        "survived": ("// self.stride + 1", "// self.stride", window),
        "stale": ("no such line", "", window),
        "invalid": ("class Window:", "class Windows:", window),
    }
    for expected, (line, instead, tests) in breakages.items():
        outcome, detail = mutation.try_mutant(Mutant("grids", expected, line, instead, tests), limit=300)
        assert outcome == expected, detail
        assert expected != "caught" or detail.startswith(window)


def test_the_score_counts_what_was_tried(capsys):
    first, second, third = MUTANTS[:3]
    assert mutation.report({first: "caught", second: "caught"}, 95, 60) == 0
    assert "score: 2 of 2 mutants caught, 100.0 %" in capsys.readouterr().out
    assert mutation.report({first: "caught", second: "survived"}, 95, 60) == 1
    printed = capsys.readouterr().out
    assert "score: 1 of 2 mutants caught, 50.0 %" in printed and f"survived: {second.module}: {second.says}" in printed
    assert mutation.report({first: "caught", second: "survived"}, 50, 60) == 0
    for outcome in ("stale", "invalid"):
        assert mutation.report({first: "caught", third: outcome}, 50, 60) == 1, "a list out of date is no success"
