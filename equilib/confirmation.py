"""The confirmation patches of ``results/PLAN.md``: a contrast's are sealed until the floor's runs of both its networks are done.

``results/evidence/confirmation/`` holds each run's answers on the other 1,500 patches of the test slides.  The program that
trains writes them and nobody looks: whoever sees them early may choose by them.  So they are read here alone, and a
contrast's only when these are complete, of a part three seeds of both (the plan's addition of 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from equilib.contrasts import CONTRASTS, NETWORKS, Contrast, name_of, of_plan, run_name
from equilib.results import is_stored, read_results
from equilib.study import Run

# How many seeds, from 0 on, each network has in the floor: «Order», 1.
FLOOR = {"C12_fieldwise": 3, "conventional": 3, "grouped4": 3, "C4_fieldwise": 3, "grouped12": 2, "C4_strict": 2}
# The networks of the parts, which are not in the floor: «Order», 4.
PARTS = {"C4_fieldwise_pixels": 3, "C1_fieldwise": 3}


def lacking(runs: Sequence[Run], contrast: Contrast) -> list[str]:
    """The names of the runs of the floor, or of order 4, that a contrast waits for; none once its patches may be read.

    Args:
        runs: all of ``results/evidence/``.
    """
    there = {name_of(run) for run in of_plan(runs)}
    planned = FLOOR | PARTS
    names = [run_name(side, seed) for side in (contrast.network, contrast.baseline) for seed in range(planned[side])]
    return [name for name in names if name not in there]


def ready(runs: Sequence[Run]) -> list[Contrast]:
    """The contrasts whose runs of :data:`FLOOR` and :data:`PARTS` are all done."""
    return [contrast for contrast in CONTRASTS if not lacking(runs, contrast)]


def opened(runs: Sequence[Run], folder: str | Path) -> list[Run]:
    """The runs that the plan's contrasts compare; those of complete contrasts with their answers on the confirmation patches.

    Args:
        runs: all of ``results/evidence/``.
        folder: ``results/evidence/confirmation``; no file of a network is touched before a contrast of it is complete.

    Returns:
        Runs, of which some have ``figures["confirmation"]`` with ``label``, ``fp32`` and ``int8``, for
        :data:`equilib.contrasts.CONFIRMATION`.

    Raises:
        FileNotFoundError: the answers of a run are not in the folder.
        ValueError: a file holds something else, or the answers of the run's test patches.
    """
    complete = {NETWORKS[name] for contrast in ready(runs) for name in (contrast.network, contrast.baseline)}
    return [
        replace(run, figures=run.figures | {"confirmation": _answers(run, Path(folder))})
        if run.variant in complete
        else run
        for run in of_plan(runs)
    ]


def _answers(run: Run, folder: Path) -> dict[str, list]:
    path = folder / f"{name_of(run)}.json"
    if not is_stored(path):
        raise FileNotFoundError(
            f"{path} is missing: score that run's checkpoint on the confirmation patches, as `experiments/grid.py train` does"
        )
    answers = read_results(path)
    lists = [answers.get(name) for name in ("label", "fp32", "int8")]
    if not all(isinstance(found, list) and found for found in lists) or len(set(map(len, lists))) > 1:
        raise ValueError(f"{path} must hold a label and two answers (fp32, int8) for each patch")
    if lists[1] == run.figures["per_patch"]["fp32"]:
        raise ValueError(f"{path} holds the answers on the test patches, which confirm nothing")
    return answers
