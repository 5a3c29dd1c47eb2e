"""Tables of the later parts of ``results/PLAN.md``: to the end, each network at its best rate, few patches.

Runs of another length, learning rate or size never share a row with those of the floor; what is not run is said so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from equilib.confirmation import FLOOR
from equilib.contrasts import (
    CONTRASTS,
    DECIDES,
    EPOCHS,
    LEARNING_RATE,
    MEASURES,
    NETWORKS,
    PATCHES,
    STEPS,
    THIRD_ROW,
    UNKNOWN,
    Contrast,
    Difference,
    by_recipe,
    compare,
    difference_text,
    missing,
    of_plan,
    sided,
    values,
)
from equilib.study import Run, welch
from equilib.study_tables import steps_of

PRIMARY, AREA = CONTRASTS[0], MEASURES[DECIDES]
# «To the end»: these pairs, these seeds; the primary one for twice as long if its losses still fall.
END, LONGER, END_SEEDS = 24, 48, (0, 1)
END_CONTRASTS = (PRIMARY, CONTRASTS[2])
# «Each at its best rate»: the trials, all of one seed; a rate is better if its loss is lower by more than this.
RATES, CLEARLY, TRIAL_SEED = (1e-3, LEARNING_RATE, 1e-2), 0.01, 0
# «Where does sharing pay?»
FEW = (1_000, 4_000)
SHOWN = ("AUC, test", "accuracy, test", "AUC, unseen validation")


def _row(contrast: Contrast, runs: Sequence[Run]) -> dict[str, str]:
    """A contrast of runs of one recipe, in brief."""
    found = {measure: compare(runs, contrast, measure) for measure in SHOWN}
    row = {"contrast": f"{contrast.network} − {contrast.baseline}"}
    row |= {"seeds": "{} and {}".format(*found[SHOWN[0]].runs)}
    return row | {measure: difference_text(measure, difference) for measure, difference in found.items()}


# --- to the end ---


def end_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The pairs that the plan trains to the end, beside the same pairs at 6 epochs.

    Args:
        runs: all of ``results/evidence/``.
    """
    rows = []
    for contrast in END_CONTRASTS:
        for epochs in (EPOCHS, END, LONGER) if contrast is PRIMARY else (EPOCHS, END):
            group = of_plan(runs, epochs)
            sides = [run for name in (contrast.network, contrast.baseline) for run in sided(group, name)]
            waits = missing(group, contrast, END_SEEDS if epochs != EPOCHS else None)
            if epochs == LONGER and not sides:
                waits = f"{waits} ({_called_for(of_plan(runs, END))})"
            lowest = "; ".join(
                f"{name} {', '.join(str(run.figures['best_epoch']) for run in found)}"
                for name in (contrast.network, contrast.baseline)
                if (found := sided(group, name))
            )
            row = _row(contrast, group)
            rows.append(
                {"contrast": row.pop("contrast"), "epochs": str(epochs)}
                | row
                | {"by the rule": _by_the_rule(group, contrast) if epochs != EPOCHS else "see the first table"}
                | {"epoch of the lowest validation loss": lowest or "–", "seeds not run": waits or "none"}
            )
    return rows


def end_interval(runs: Sequence[Run]) -> str:
    """What the interval of the primary pair's area says after the longer training, in words; ``runs`` as in :func:`end_rows`."""
    found = compare(of_plan(runs, END), PRIMARY)
    if not found.has_interval:
        return "there is one seed on a side, so no interval"
    return f"the AUC's interval {found.beside_zero}"


def _called_for(ends: Sequence[Run]) -> str:
    """What the plan says of 48 epochs: called for if the lowest validation loss lies in the last two of 24."""
    pair = [run for name in (PRIMARY.network, PRIMARY.baseline) for run in sided(ends, name)]
    if not pair:
        return f"waits for {END} epochs"
    late = any(run.figures["best_epoch"] >= END - 1 for run in pair)
    return "called for" if late else f"not called for: the losses turned before epoch {END - 1}"


def _by_the_rule(runs: Sequence[Run], contrast: Contrast) -> str:
    """What the plan's rule can say of longer runs, whose answers on the confirmation patches the plan leaves sealed."""
    found = compare(runs, contrast)
    if not found.has_interval:
        return "–"
    low, high = found.interval
    if high < 0:
        return "no"
    return (
        "cannot be yes: the interval on test patches holds 0" if low <= 0 else "not decided: confirmation is not read"
    )


# --- each at its best rate ---


def _loss(run: Run) -> float:
    return min(epoch["valid_loss"] for epoch in run.figures["history"])


def trials(runs: Sequence[Run], network: str) -> dict[float, float]:
    """The lowest validation loss of the trial at each learning rate that was run."""
    found = {}
    for rate in RATES:
        for run in sided(of_plan(runs, learning_rate=rate), network):
            if run.seed == TRIAL_SEED:
                found[rate] = _loss(run)
    return found


def best_rate(losses: dict[float, float]) -> float | None:
    """The plan's choice: 0.003, unless the lowest loss of another rate is lower by more than 0.01; None before all are run."""
    if set(losses) != set(RATES):
        return None
    best = min(RATES, key=lambda rate: losses[rate])
    return best if losses[LEARNING_RATE] - losses[best] > CLEARLY else LEARNING_RATE


def rate_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The trials of learning rates: the lowest validation loss of seed 0 at each, and what the plan's rule makes of it."""
    rows = []
    for network in FLOOR:
        losses = trials(runs, network)
        best = best_rate(losses)
        row = {"network": network}
        row |= {f"loss at {rate:g}": f"{losses[rate]:.3f}" if rate in losses else "not run" for rate in RATES}
        rows.append(row | {"rate by the plan's rule": "not decided yet" if best is None else f"{best:g}"})
    return rows


def rate_pair_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The primary contrast at each of the three rates, seed 0 of both sides: whether it hangs on the rate; no interval."""
    rows = []
    for rate in RATES:
        trial = [run for run in of_plan(runs, learning_rate=rate) if run.seed == TRIAL_SEED]
        row = _row(PRIMARY, trial)
        rows.append({"contrast": row.pop("contrast"), "rate of both": f"{rate:g}"} | row)
    return rows


def by_rate(runs: Sequence[Run]) -> str:
    """The primary contrast's area on test patches at each rate that both sides were trained at, in words; one seed a side."""
    rows = [row for row in rate_pair_rows(runs) if row["AUC, test"] != "not run"]
    return ", ".join(f"{row['AUC, test'].split()[0]} at {row['rate of both']}" for row in rows)


def best_rate_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The primary and secondary contrasts, each network at its best rate; «not run» before the trials of both are done."""
    rows = []
    for contrast in (contrast for contrast in CONTRASTS if contrast.level != "part"):
        names = (contrast.network, contrast.baseline)
        rates = {name: best_rate(trials(runs, name)) for name in names}
        known = all(rate is not None for rate in rates.values())
        group = [run for name in names if known for run in sided(of_plan(runs, learning_rate=rates[name]), name)]
        row = _row(contrast, group)
        shown = " and ".join(f"{rates[name]:g}" for name in names) if known else "not decided yet"
        rows.append({"contrast": row.pop("contrast"), "rates": shown} | row)
    return rows


# --- what the older lead was made of ---

OLD = "conventional, old recipe"


def made_of(ablation: Sequence[Run], planned: Sequence[Run], measure: str = DECIDES) -> dict[str, list[float]]:
    """A measure of each run from the older runs' conventional network to the plan's field-wise C4, one step at a time.

    The older field-wise C4, whose lead over the first this explains, was trained as the plan's but for its dropout.

    Args:
        ablation: the older runs, in multiples of 24; their conventional network had another recipe than the plan's.
        planned: as :func:`equilib.contrasts.of_plan` gives them.
        measure: on test patches.

    Returns:
        A number for each run, by network; between two neighbours one thing changes.  Empty where a network has no run.
    """
    old = [run for run in ablation if run.network == "conventional" and run.patches == PATCHES]
    first = {OLD: [MEASURES[measure](run) for run in old]}
    return first | {name: values(planned, name, measure) for name in STEPS["4 rotations"]}


def made_of_words(chain: Mapping[str, Sequence[float]], measure: str = DECIDES) -> str:
    """The steps of :func:`made_of` in words, with Welch's intervals.

    A network without a run joins two steps to one; so does one with a single run, which then says how it would part them.
    """
    steps = dict(zip(chain, ("", "recipe", "layers", "sharing", "smooth filters"), strict=True))
    ends = (next(iter(chain)), next(reversed(chain)))
    return ", ".join(
        f"{words} {difference_text(measure, found)}{_parted(chain, steps, inside, measure)}"
        for words, found, inside in _between(
            chain, steps, [name for name in chain if len(chain[name]) > (name not in ends)]
        )
    )


def _between(chain: Mapping, steps: Mapping, kept: Sequence[str]) -> Iterator[tuple[str, Difference, list[str]]]:
    """For two neighbours among the kept networks: the steps between them in words, the difference, the chain between."""
    order = list(chain)
    for first, last in pairwise(kept):
        inside = order[order.index(first) : order.index(last) + 1]
        gap = float(np.mean(chain[last]) - np.mean(chain[first]))
        found = Difference(gap, welch(chain[last], chain[first]), (len(chain[last]), len(chain[first])))
        yield " with ".join(steps[name] for name in inside[1:]), found, inside


def _parted(chain: Mapping, steps: Mapping, inside: list[str], measure: str) -> str:
    """How networks of one run inside a step would part it; nothing where there are none."""
    kept = [name for name in inside if len(chain[name])]
    if len(kept) < 3:
        return ""
    parts = [
        f"{words} {difference_text(measure, replace(found, interval=UNKNOWN)).partition(' ')[0]}"
        for words, found, _ in _between(chain, steps, kept)
    ]
    return f" [by one run: {', '.join(parts)}]"


# --- few patches ---


def few_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Contrasts with fewer patches than the floor's, a row for each size and length that was run.

    «Equal steps» and «equal epochs» are rows of their own: steps and patches do not vary together within one of them.
    """
    rows = []
    networks = set(NETWORKS.values())
    for patches in FEW:
        here = [run for run in runs if run.patches == patches and run.variant in networks and by_recipe(run)]
        lengths = sorted({run.figures["config"]["epochs"] for run in here})
        for epochs in lengths or [None]:
            group = of_plan(here, epochs, patches=patches) if epochs else []
            for contrast in CONTRASTS:
                sides = [sided(group, name) for name in (contrast.network, contrast.baseline)]
                if any(sides) or contrast is PRIMARY:
                    size = {"patches": f"{patches:,}", "epochs": str(epochs or "–"), "steps": _steps(group)}
                    rows.append(size | _row(contrast, group))
    return rows


def _steps(group: Sequence[Run]) -> str:
    """How many steps of the optimizer these runs took."""
    counts = sorted(set(map(steps_of, group)))
    return ", ".join(f"{count:,}" for count in counts) or "–"


def later_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The primary contrast in each of the later parts, in brief; of a part that has no run, what is known of it."""
    primary = f"{PRIMARY.network} − {PRIMARY.baseline}"
    waits = "" if of_plan(runs, LONGER) else f" ({_called_for(of_plan(runs, END))})"
    parts = [
        (f"{row['epochs']} epochs{waits if row['epochs'] == str(LONGER) else ''}", row)
        for row in end_rows(runs)
        if row["epochs"] != str(EPOCHS)
    ]
    parts += [(f"each at its rate by the plan's rule ({row['rates']})", row) for row in best_rate_rows(runs)]
    parts += [
        (f"{row['patches']} patches" + (f", {row['epochs']} epochs" if row["epochs"] != "–" else ""), row)
        for row in few_rows(runs)
    ]
    kept = ("contrast", "seeds", *SHOWN)
    return [{"part": part} | {key: row[key] for key in kept} for part, row in parts if row["contrast"] == primary]


# --- what it costs ---


@dataclass(frozen=True)
class Costs:
    """What :func:`equilib.figures.against_cost` draws.

    Attributes:
        costs: for each cost (with its unit), for each network, a number, where it is known.
        areas: the area under the curve of each run on test patches, by network.
        conventional: which of them are.
        note: by which names networks are missing, and why.
    """

    costs: dict[str, dict[str, float]]
    areas: dict[str, list[float]]
    conventional: set[str]
    note: str


def costs(runs: Sequence[Run], times: Mapping) -> Costs:
    """The plan's networks, the third row's among them, against what they cost; without a run there is no mark.

    Args:
        runs: as :func:`equilib.contrasts.of_plan` and :func:`equilib.contrasts.third_row` give them.
        times: ``results/families.json``.
    """
    variants = NETWORKS | THIRD_ROW
    found = {name: [run for run in runs if run.variant == variant] for name, variant in variants.items()}
    trained = {name: group for name, group in found.items() if group}
    timed = {
        name: times["networks"][variants[name].timed_as]["ms"]["INT8"]["1"]
        for name in trained
        if variants[name].timed_as in times["networks"]
    }
    notes = {
        "not trained yet": [name for name in THIRD_ROW if name not in trained],
        "no time measured": [name for name in trained if name not in timed],
    }
    return Costs(
        {
            "trainable parameters": {name: group[0].figures["parameters"] for name, group in trained.items()},
            "multiply-accumulates [millions]": {
                name: group[0].figures["macs"] / 1e6 for name, group in trained.items()
            },
            f"ms a patch, INT8, {times['environment']['processor']}": timed,
        },
        {name: [AREA(run) for run in group] for name, group in trained.items()},
        {name for name in trained if variants[name].conventional},
        "; ".join(f"{why}: {', '.join(names)}" for why, names in notes.items() if names),
    )
