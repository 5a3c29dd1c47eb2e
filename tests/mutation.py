"""Which deliberate breakages turn a test red: ``python tests/mutation.py [--only MODULE]``, or ``make mutation``.

For each mutant of ``tests/mutants/`` the checkout is copied into a temporary folder, one line of the copy is broken, and
the tests that should notice run against it.  Before all that they run against an unbroken copy, since tests that are red
anyway catch nothing.  A mutant is

- *caught*: a test failed (or the tests ran into the time limit);
- *survived*: all of them passed;
- *stale*: the line is there no more, or more than once; the list has to follow the code (``tests/test_mutation.py``);
- *invalid*: the tests could not even be collected, so nothing is known of them.

The score is caught / (caught + survived).  Exit status: 0 if it reaches the threshold and no mutant is stale or invalid.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mutants import MUTANTS, Mutant, StaleMutantError
from tqdm import tqdm

CHECKOUT = Path(__file__).parent.parent
# Imported once and inherited by the process of each mutant: they take longer to load than most of the tests to run.
PRELOADED = (
    *("torch", "e2cnn.nn", "lightning", "torchmetrics", "scipy.ndimage", "skimage.transform", "h5py", "onnxscript"),
    *("matplotlib.pyplot", "pytest", "hypothesis.internal.conjecture.engine", "_hypothesis_pytestplugin"),
)
OUTCOMES = {0: "survived", 1: "caught", None: "caught"}  # pytest's exit status; None: out of time
ELSEWHERE = 99  # exit status where Python would import another equilib than the copy


def copy_checkout(folder: Path) -> None:
    """Copy the package and the tests, and link whatever stands beside them (results, notebooks …)."""
    for entry in CHECKOUT.iterdir():
        if entry.name in ("equilib", "tests"):
            shutil.copytree(entry, folder / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)


def run_tests(folder: Path, tests: list[str], limit: float) -> tuple[int | None, str]:
    """Run tests of a copied checkout in a process of their own.

    Returns:
        pytest's exit status, None where the time limit (in seconds) was over; and what it printed.
    """
    log = folder / "log.txt"
    process = multiprocessing.get_context("fork").Process(target=_test_process, args=(folder, tests, log))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return None, log.read_text()
    return process.exitcode, log.read_text() if log.exists() else ""


def _test_process(folder: Path, tests: list[str], log: Path) -> None:
    output = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)  # for tests that start a Python of their own
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
        "1"  # most of a short run would go into plugins that nothing here needs
    )
    sys.path[0] = str(folder)  # instead of the folder of this script
    import equilib

    if folder.resolve() not in Path(equilib.__file__).resolve().parents:
        print(f"{equilib.__file__} is not in {folder}")
        sys.exit(ELSEWHERE)
    import pytest

    options = [
        "-x",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-p",
        "_hypothesis_pytestplugin",
        "--hypothesis-seed=0",
    ]
    sys.exit(int(pytest.main([*options, *(f"tests/{test}" for test in tests)])))


def try_mutant(mutant: Mutant, limit: float) -> tuple[str, str]:
    """The outcome for one mutant, and the test that noticed it (or what went wrong)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_checkout(folder)
        try:
            mutant.apply(folder)
        except StaleMutantError as error:
            return "stale", str(error)
        status, printed = run_tests(folder, mutant.tests.split(), limit)
    if status is None:
        return "caught", f"no answer within {limit:.0f} s"
    noticed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", printed, re.MULTILINE)
    last = printed.strip().splitlines()[-1:] or [""]
    return OUTCOMES.get(status, "invalid"), noticed[1] if noticed else last[0]


def check_unbroken(mutants: list[Mutant]) -> None:
    """Ends the program unless all tests of these mutants pass on an unbroken copy."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests.split()))
    with tempfile.TemporaryDirectory() as name:
        copy_checkout(Path(name))
        status, printed = run_tests(Path(name), tests, limit=3600)
    if status != 0:
        sys.exit(f"{printed[-3000:]}\nthe tests are red before anything is broken (status {status}): nothing to learn")


def main(arguments: list[str] | None = None) -> int:
    modules = sorted({mutant.module for mutant in MUTANTS})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="MODULE", choices=modules, help=", ".join(modules))
    parser.add_argument("--says", metavar="TEXT", default="", help="only mutants whose description holds this text")
    parser.add_argument("--threshold", type=float, default=95.0, help="percent that must be caught (default 95)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the tests of one mutant (default 600)")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if m.module in (options.only or modules) and options.says in m.says]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = True  # a copy lives for one run
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    began = time.monotonic()
    check_unbroken(chosen)
    print(f"unbroken: all tests pass ({time.monotonic() - began:.0f} s)", flush=True)
    outcomes = {}
    # Not equilib.progress: what this process imports, the tests of the mutants inherit.
    for mutant in tqdm(chosen, desc="mutants", unit="mutant", disable=None, leave=False, smoothing=0):
        start = time.monotonic()
        outcomes[mutant], detail = try_mutant(mutant, options.limit)
        seconds = time.monotonic() - start
        tqdm.write(f"{outcomes[mutant]:8s} {seconds:5.0f} s  {mutant.module}: {mutant.says}  [{detail}]")
        sys.stdout.flush()
    return report(outcomes, options.threshold, time.monotonic() - began)


def report(outcomes: dict[Mutant, str], threshold: float, seconds: float) -> int:
    """Print the score by module and in all; returns the exit status."""
    print("\nmodule        caught  survived  stale  invalid")
    for module in dict.fromkeys(mutant.module for mutant in outcomes):
        count = Counter(outcome for mutant, outcome in outcomes.items() if mutant.module == module)
        print(f"{module:12s} {count['caught']:7d} {count['survived']:9d} {count['stale']:6d} {count['invalid']:8d}")
    count = Counter(outcomes.values())
    tried = count["caught"] + count["survived"]
    score = 100 * count["caught"] / tried if tried else 0.0
    print(f"score: {count['caught']} of {tried} mutants caught, {score:.1f} % ({seconds / 60:.0f} min)")
    for outcome in ("survived", "stale", "invalid"):
        for mutant in [m for m, found in outcomes.items() if found == outcome]:
            print(f"{outcome}: {mutant.module}: {mutant.says}\n    {mutant.line}\n    {mutant.instead}")
    return int(score < threshold or count["stale"] + count["invalid"] > 0)


if __name__ == "__main__":
    sys.exit(main())
