"""The confirmation patches of ``results/PLAN.md``: sealed until the runs of its floor are done, then read for its contrasts.

``results/evidence/confirmation/`` holds each run's answers on the other 1,500 patches of the test slides.  The program that
trains writes them and nobody looks: whoever sees them early may choose by them.  So they are read here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from equilib.contrasts import name_of, of_plan, run_name
from equilib.results import is_stored, read_results
from equilib.study import Run

# How many seeds, from 0 on, each network has in the floor: «Order», 1.
FLOOR = {"C12_fieldwise": 3, "conventional": 3, "grouped4": 3, "C4_fieldwise": 3, "grouped12": 2, "C4_strict": 2}


class Sealed(RuntimeError):
    """The confirmation patches may not be read yet; the message says which runs are missing."""


def floor_names() -> list[str]:
    """The names of the floor's runs."""
    return [run_name(network, seed) for network, seeds in FLOOR.items() for seed in range(seeds)]


def floor_missing(runs: Sequence[Run]) -> list[str]:
    """Those of the floor's runs that are not among these."""
    there = {name_of(run) for run in of_plan(runs)}
    return [name for name in floor_names() if name not in there]


def opened(runs: Sequence[Run], folder: str | Path) -> list[Run]:
    """The runs that the plan's contrasts compare, each with its answers on the confirmation patches.

    Args:
        runs: all of ``results/evidence/``.
        folder: ``results/evidence/confirmation``; no file in it is touched before the floor is complete.

    Returns:
        Runs whose ``figures["confirmation"]`` has ``label`` and ``fp32``, for :data:`equilib.contrasts.CONFIRMATION`.

    Raises:
        Sealed: a run of the floor has no JSON yet.
        FileNotFoundError: the answers of a run are not in the folder.
        ValueError: a file holds something else, or the answers of the run's test patches.
    """
    if lacking := floor_missing(runs):
        count, total = len(lacking), len(floor_names())
        raise Sealed(
            f"the confirmation patches stay sealed until all {total} runs of the floor of results/PLAN.md are done; "
            f"{count} {'is' if count == 1 else 'are'} missing: {', '.join(lacking)}"
        )
    return [replace(run, figures=run.figures | {"confirmation": _answers(run, Path(folder))}) for run in of_plan(runs)]


def _answers(run: Run, folder: Path) -> dict[str, list]:
    path = folder / f"{name_of(run)}.json"
    if not is_stored(path):
        raise FileNotFoundError(
            f"{path} is missing: score that run's checkpoint on the confirmation patches, as `experiments/grid.py train` does"
        )
    answers = read_results(path)
    lists = [answers.get(name) for name in ("label", "fp32")]
    if not all(isinstance(found, list) and found for found in lists) or len(lists[0]) != len(lists[1]):
        raise ValueError(f"{path} must hold a label and an answer (fp32) for each patch")
    if lists[1] == run.figures["per_patch"]["fp32"]:
        raise ValueError(f"{path} holds the answers on the test patches, which confirm nothing")
    return answers
