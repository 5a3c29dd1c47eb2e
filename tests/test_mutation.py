"""The list of mutants is up to date, and the runner's verdicts are right; the run itself is ``make mutation``."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import mutation
import pytest
from mutants import MUTANTS, Mutant, StaleMutantError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("module", sorted({mutant.module for mutant in MUTANTS}))
def test_no_mutant_is_stale(module):
    """Each line is there, once; the broken module is Python still, and another program; the tests exist."""
    source = (ROOT / "equilib" / f"{module}.py").read_text()
    program, stale = ast.dump(ast.parse(source)), []
    for mutant in (mutant for mutant in MUTANTS if mutant.module == module):
        try:
            broken = mutant.broken(source)
        except StaleMutantError as error:
            stale.append(str(error))
            continue
        assert ast.dump(ast.parse(broken)) != program, mutant.says
        for test in mutant.tests.split():
            file, _, name = test.partition("::")
            text = (ROOT / "tests" / file).read_text()
            assert f"def {name.partition('[')[0]}(" in text if name else "def test_" in text, test
    assert not stale, "\n".join(stale)


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
    """On the real package and a real test, in a Python of its own, where nothing of equilib is loaded yet."""
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch  # so that each process inherits it
from mutants import Mutant
from mutation import try_mutant
window = "test_grids.py::test_impossible_windows_are_refused"
print(json.dumps([try_mutant(Mutant("grids", "x", line, instead, window), 300) for line, instead in json.loads(sys.argv[2])]))
"""
    breakages = [
        ("check_count(name, getattr(self, name))", "check_count(name, getattr(self, name), 0)"),
        ("// self.stride + 1", "// self.stride"),
        ("no such line", ""),
        ("class Window:", "class Windows:"),
    ]
    arguments = [sys.executable, "-c", program, str(ROOT / "tests"), json.dumps(breakages)]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert [outcome for outcome, _ in found] == ["caught", "survived", "stale", "invalid"], found
    assert found[0][1].startswith("test_grids.py::test_impossible_windows_are_refused")


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
