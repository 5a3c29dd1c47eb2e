"""The tables of the READMEs, from results/; `python experiments/grid.py tables` prints them and renews the files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

import cards
import claims
import runs

from equilib import confirmation, contrasts, marks, plan_tables, study, study_tables
from equilib.experiment import table
from equilib.progress import bar
from equilib.results import markdown_table, read_results, results_files

README, ALL = runs.RESULTS.parent / "README.md", runs.RESULTS / "README.md"
# Read by equilib.confirmation alone, and by it only when the plan says so.
SEALED = runs.SEALED


# The files of the marks that are not in results/README.md.
PAGES = {
    "table 1": README,
    "model": README,
    "claims": runs.RESULTS / "claims.md",
    "rotations": runs.RESULTS / "claims.md",
    "files": runs.RESULTS / "model_card.md",
    "networks": runs.RESULTS / "model_card.md",
    "patches": runs.RESULTS / "data_card.md",
    "slides": runs.RESULTS / "data_card.md",
}


def page(name: str) -> Path:
    """The file that holds the marks of this name."""
    return PAGES.get(name, ALL)


def longer(evidence: Sequence[study.Run]) -> list[str]:
    """A sentence on the primary pair trained to the end, once both sides have a run; of how many seeds, it says."""
    words = by_welch(claims.to_the_end(evidence))
    return [f"{plan_tables.PRIMARY.title}, {plan_tables.END} epochs: {words}."] if words else []


def aimed(planned: Sequence[study.Run]) -> str:
    """What became of the plan's aim for the primary contrast."""
    return f"The aim for the first: {claims.aim(planned)}."


def by_welch(text: str) -> str:
    """A difference as :func:`equilib.contrasts.difference_text` writes it, with Welch's interval alone."""
    return re.sub(r"Welch |; bootstrap [^)]*", "", text)


def renew(*names: str) -> None:
    """Print the tables of these names, or all of them, and put them between their marks."""
    for name, text in tables(*names).items():
        print(text, end="\n\n")
        marks.write(name, text, page(name))


def tables(*names: str) -> dict[str, str]:
    """The tables by the name of their marks; those of these names, or all of them."""
    chosen = [(name, make) for name, make in makers().items() if not names or name in names]
    return {name: make() for name, make in bar(chosen, total=len(chosen), words="tables", unit="table")}


def makers() -> dict[str, Callable[[], str]]:
    """What makes each table, by the name of its marks."""
    grid, ablation, evidence = (study.read_runs(runs.RESULTS / name) for name in ("grid", "ablation", "evidence"))
    every = [*grid, *ablation, *evidence]
    few, most = (study.select(ablation, patches=size) for size in (runs.SIZES[0][0], runs.SIZES[-1][0]))
    chosen = [run for run in ablation if study.select(most, variant=run.variant)]

    # The conventional network of the grid is narrower than that of the ablation, and the better one.
    narrower = [
        {
            "patches": f"{size:,}",
            "seeds": f"{len(ours)} and {len(theirs)}",
            "C4, field-wise, minus conventional of multiples of 12 [points]": study_tables.difference(
                study.advantage(ours, theirs)
            ),
        }
        for size, _ in runs.SIZES
        if (ours := study.select(chosen, variant=runs.FIELDWISE, patches=size))
        and (theirs := study.select(grid, variant=runs.NETWORKS[0], patches=size))
    ]
    rotation = study_tables.rotation_rows(grid), study_tables.steadiness_rows(grid)
    planned = confirmation.opened(evidence, SEALED)
    third = contrasts.third_row(evidence)
    # The README is short; results/README.md has the networks of the parts, too.
    parts = [contrasts.NETWORKS[name] for name in confirmation.PARTS]
    floor = [run for run in planned if run.variant not in parts]
    return (
        {
            "table 1": lambda: (
                text(brief(study_tables.table_1(*filter(None, (floor, third)))))
                + "\n\n"
                + "\n\n".join([text(decided_rows(planned)), aimed(planned), *longer(evidence), *third_row(third)])
            ),
            "model": cards.chosen_model,
            "table 1, two recipes": lambda: text(study_tables.table_1(grid, most)),
            "differences": lambda: text(study_tables.advantage_rows(grid)),
            "differences, multiples of 24": lambda: text(study_tables.advantage_rows(chosen), narrower),
            "grid": lambda: text(study_tables.accuracy_rows(grid), study_tables.int8_rows(grid), *rotation),
            "ablation": lambda: text(study_tables.ablation_rows(few)),
            "ablation, most patches": lambda: text(
                study_tables.ablation_rows(most),
                study_tables.int8_rows(chosen),
                study_tables.rotation_rows(chosen),
                study_tables.steadiness_rows(chosen),
            ),
            "ladder": lambda: text(study_tables.ladder_rows(every)) + "\n\n" + claims.protects(every),
            "the paper's augmentation": lambda: text(
                table(read_results(runs.RESULTS / "pcam-subset-4k_C12_width1.json"))
            ),
            "evidence": lambda: text(study_tables.accuracy_rows(evidence), study_tables.rotation_rows(evidence)),
            "again": again_table,
            "ladder, run by run": lambda: text(study_tables.ladder_by_run(evidence)),
            "search": search_table,
        }
        | of_the_plan(ablation, evidence, planned)
        | ledger_and_cards(every)
    )


def text(*tables: list[dict[str, str]]) -> str:
    """Tables, one below the other."""
    return "\n\n".join(map(markdown_table, tables))


def of_the_plan(
    ablation: list[study.Run], evidence: list[study.Run], planned: list[study.Run]
) -> dict[str, Callable[[], str]]:
    """What makes the tables of the plan's runs; ``planned`` as :func:`equilib.confirmation.opened` gives them."""
    return {
        "made of": lambda: "\n".join(
            f"* In {words}: {plan_tables.made_of_words(plan_tables.made_of(ablation, planned, measure), measure)}."
            for measure, words in (("AUC, test", "area"), ("accuracy, test", "points"))
        ),
        "contrasts": lambda: text(contrasts.contrast_rows(planned)),
        "confirmation": lambda: sealed(evidence),
        "not run": lambda: not_run(runs.planned_runs(), evidence),
        "to the end": lambda: text(plan_tables.end_rows(evidence)),
        "learning rates": lambda: text(
            plan_tables.rate_rows(evidence), plan_tables.best_rate_rows(evidence), plan_tables.rate_pair_rows(evidence)
        ),
        "few patches": lambda: text(plan_tables.few_rows(evidence)),
        "repeat": repeatable,
    }


def ledger_and_cards(every: list[study.Run]) -> dict[str, Callable[[], str]]:
    """What makes the tables of the ledger, the model card and the data card."""
    return {
        "claims": claims.table,
        "rotations": lambda: claims.rotation_table(every),
        "files": cards.files_table,
        "networks": lambda: cards.networks_table(every),
        "patches": cards.tissue_table,
        "slides": cards.slides_table,
    }


def brief(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of one recipe without what they share, or what other columns say; the README, which has them, is short."""
    left_out = ("width", "channels, multiples of", "trained on", "INT8 − FP32 [points]")
    left_out += ("classes that flip at quarter turns, INT8",)
    return [
        {name: text for name, text in row.items() if name not in left_out}
        | {"network": contrasts.short(row["network"])}
        for row in rows
    ]


def decided_rows(planned: list[study.Run]) -> list[dict[str, str]]:
    """The README's rows of the primary contrast, and of the others that the plan's rule decides; Welch's intervals alone."""
    shown = {name: name for name in (contrasts.DECIDES, contrasts.CONFIRMS)}
    shown |= {"accuracy, test": "points, test", "accuracy, confirmation": "points, confirmation"}
    rows = []
    for contrast, row in zip(contrasts.CONTRASTS, contrasts.contrast_rows(planned), strict=True):
        if contrast.level != "primary" and re.match("not (run|decided)", row["verdict"]):
            continue
        brief = {head: by_welch(row[measure]) for measure, head in shown.items()}
        rows.append({"difference (95 %)": contrast.title} | brief | {"by the plan": row["verdict"]})
    return rows


def third_row(runs: list[study.Run]) -> list[str]:
    """A sentence that says which networks of the paper's third row have no run yet; none where the table has both."""
    there = {run.variant for run in runs}
    lacking = [f"`{name}`" for name, variant in contrasts.THIRD_ROW.items() if variant not in there]
    return [f"The paper's third row: not run ({', '.join(lacking)})."] if lacking else []


def part_of(run: runs.PlannedRun) -> str:
    """Which part of the plan a run belongs to, in words."""
    if run.epochs != contrasts.EPOCHS:
        return f"of {run.epochs} epochs"
    if run.learning_rate != contrasts.LEARNING_RATE:
        return "trials of learning rates"
    if run.network in contrasts.THIRD_ROW:
        return "of the third row"
    if run.network in confirmation.PARTS:
        return "of the networks that part sharing from smooth filters"
    return "third seeds" if run.seed == contrasts.SEEDS[-1] else "of the floor"


def not_run(planned: Sequence[runs.PlannedRun], evidence: Sequence[study.Run]) -> str:
    """How many of the plan's named runs are missing, part by part, and what they would take: the reason why."""
    done = {contrasts.name_of(run) for run in evidence}
    left = [run for run in planned if run.name not in done]
    if not left:
        return f"All of the {len(planned)} runs that the plan names are done."
    epochs = defaultdict(list)  # of each network, the seconds of one
    for run in evidence:
        if seconds := run.figures.get("seconds", {}).get("processor"):
            epochs[run.variant].append(seconds / run.figures["config"]["epochs"])
    parts: dict[str, list[runs.PlannedRun]] = {}
    for run in left:
        parts.setdefault(part_of(run), []).append(run)
    lines = []
    for part, group in parts.items():
        timed = [run.epochs * mean(epochs[run.variant]) / 3600 for run in group if run.variant in epochs]
        hours = f"{sum(timed):.1f} hours of one core" if timed else "no time of such a run is on record"
        if 0 < len(timed) < len(group):
            hours += f" for {len(timed)}; of the others no time is on record"
        lines.append(f"* {len(group)} {part} ({hours}): {', '.join(f'`{run.name}`' for run in group)}.")
    return (
        f"Not run are {len(left)} of the {len(planned)} runs that the plan names, and all of its order 5. The hours below are of "
        "the processor, by those of an epoch on record. The machines at hand had two cores for three hours at a time. A run of "
        f"{plan_tables.END} epochs takes about as long, and was passed over where it would not have ended (the plan's additions); "
        f"one of {contrasts.EPOCHS} epochs fits, and those that are missing stood later in the order when the hours ended.\n\n"
        + "\n".join(lines)
        + "\n* All of order 5: 1,000 and 4,000 patches; width 1.0; D4 with field-wise layers; dropout by channel.\n\n"
        f"Next in the plan's order: `{left[0].name}`."
    )


def repeatable() -> str:
    """What a stranger who repeats one run should see: the validation losses of seed 0 of the primary pair, and the minutes."""
    rows = []
    for network in (plan_tables.PRIMARY.network, plan_tables.PRIMARY.baseline):
        name = contrasts.run_name(network, 0)
        contents = read_results(runs.RESULTS / "evidence" / f"{name}.json")
        where, model = contents["environment"], contents["model"]
        rows.append(
            {"run": f"`{name}`"}
            | {f"loss {epoch}": f"{row['valid_loss']:.3f}" for epoch, row in enumerate(model["history"], start=1)}
            | {
                "minutes of one core": f"{model['seconds']['processor'] / 60:.0f}",
                "processor": f"{where['processor']} ({where['instructions']})",
            }
        )
    return markdown_table(rows)


def sealed(evidence: list[study.Run]) -> str:
    """Which contrasts are read on the confirmation patches, and what the others wait for."""
    ready, lines = confirmation.ready(evidence), []
    for contrast in contrasts.CONTRASTS:
        names = ", ".join(f"`{name}`" for name in confirmation.lacking(evidence, contrast))
        told = "read" if contrast in ready else f"sealed, {names} missing"
        lines.append(f"* {contrast.network} − {contrast.baseline}: {told}.")
    return "\n".join(lines)


def confirmation_table() -> str:
    """The plan's complete contrasts with the confirmation patches, and what the others wait for."""
    evidence = study.read_runs(runs.RESULTS / "evidence")
    shown = ("contrast", "level", "seeds", contrasts.DECIDES, *contrasts.CONFIRMATION, "verdict")
    rows = contrasts.contrast_rows(confirmation.opened(evidence, SEALED))
    ready = confirmation.ready(evidence)
    read = [
        {name: row[name] for name in shown}
        for contrast, row in zip(contrasts.CONTRASTS, rows, strict=True)
        if contrast in ready
    ]
    return f"{markdown_table(read)}\n\n{sealed(evidence)}" if read else sealed(evidence)


def again_table() -> str:
    """The runs that were trained twice: how far apart the validation losses are, epoch by epoch and at their lowest."""
    rows = []
    for path in sorted((runs.RESULTS / "again").glob("*.json")):
        contents = read_results(path)
        loss = contents["curves"]["valid_loss"]
        changes = [abs(then - now) for then, now in zip(loss["then"], loss["now"], strict=True)]
        rows.append(
            {
                "run": path.stem,
                "first epoch, change": f"{changes[0]:.1g}",
                "all epochs, median change": f"{median(changes):.1g}",
                "largest change": f"{max(changes):.1g}",
                "lowest loss, then and now": f"{min(loss['then']):.3f} and {min(loss['now']):.3f}",
                "its epoch": f"{contents['best_epoch']['then']} and {contents['best_epoch']['now']}",
            }
        )
    return markdown_table(rows)


def search_table() -> str:
    """The runs of the search: the lowest validation loss, and the accuracy there."""
    lines = ["| run | epoch | validation loss | validation accuracy | training loss |", "|---|---:|---:|---:|---:|"]
    for path in results_files(runs.RESULTS / "search"):
        contents = read_results(path)
        best = contents["history"][contents["best_epoch"] - 1]
        lines.append(
            f"| {path.stem} | {best['epoch']} of {len(contents['history'])} | {best['valid_loss']:.3f} "
            f"| {100 * best['valid_accuracy']:.1f} % | {best['train_loss']:.3f} |"
        )
    return "\n".join(lines)
