"""The ledger of the paper's claims: results/claims.json, its figures filled in, as a table; figures of the shipped networks.

A claim has a number, its words, its place in the paper, a verdict, one sentence of ours and the artefacts that bear it out.
A sentence holds no figures: it names those of :func:`figures`, which come from results/ or from a shipped network.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import runs
import torch
from torch import nn

from equilib import confirmation, contrasts, plan_tables, study, study_tables
from equilib.filters import spread_within_fields
from equilib.mobilenet import exported
from equilib.plain import facts
from equilib.results import markdown_table, read_results, results_files
from equilib.runs import shipped_network
from equilib.variant import ANY_ANGLE, Variant

CLAIMS = runs.RESULTS / "claims.json"
VERDICTS = ("reproduced", "partly", "contradicted", "not decided yet", "not tested")
# The shipped networks whose filters are measured, by the group.
MEASURED = {"C4": "pcam_C4_w0.35_20000_seed0", "C12": "pcam_C12_w0.35_20000_seed0"}
# Points of accuracy from which on naive rounding is said to harm.
HARM = 2
# The primary contrast of results/PLAN.md.
PAPER = Variant("equivariant", "C12", "fieldwise", divisor=runs.ABLATION_DIVISOR)
PLAIN = Variant("conventional", divisor=runs.ABLATION_DIVISOR, recipe=ANY_ANGLE)


def table() -> str:
    """The ledger as a table in Markdown."""
    known = figures()
    return markdown_table(
        [
            {
                "claim": f"{claim['number']}. {claim['claim']} ({claim['where']})",
                "verdict": f"**{claim['verdict']}**",
                "what was found": claim["sentence"].format(**known),
                "where": "<br>".join(map(_link, claim["artefacts"])),
            }
            for claim in read()
        ]
    )


def read() -> list[dict]:
    """The claims, as they stand in the file."""
    return json.loads(CLAIMS.read_text())


def _link(artefact: str) -> str:
    """An artefact, ``path``, ``tests/file.py::test`` or ``path#section``, as a link from results/ to its file."""
    path, _, section = artefact.partition("#")
    path, _, test = path.partition("::")
    words = f"`{test}`" if test else f"{path.removeprefix('notebooks/')}, «{section}»" if section else f"`{path}`"
    return f"[{words}](../{path})"


def spread(name: str) -> torch.Tensor:
    """The spread of ranges within each field of all depthwise layers of a shipped network, (fields,)."""
    layers = [
        layer
        for layer in exported(shipped_network(name)).modules()
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and facts(layer).field_size
    ]
    return torch.cat([spread_within_fields(layer.weight, facts(layer).field_size) for layer in layers])


def figures() -> dict[str, object]:
    """What the sentences name: numbers, and differences with their intervals as text."""
    grid, ablation, evidence = map(study.shipped_runs, ("grid", "ablation", "evidence"))
    every = [*grid, *ablation, *evidence]
    conventional = [run for run in every if run.variant.conventional]
    turning = [run for run in every if run.variant.symmetric]
    twelve = [run for run in turning if run.variant.group == "C12"]
    ours, theirs = (study.select(contrasts.of_plan(evidence), variant=variant) for variant in (PAPER, PLAIN))
    most = runs.SIZES[-1][0]
    found = {
        "conventional_runs": len(conventional),
        "equivariant_runs": len(turning),
        "c12_runs": len(twelve),
        "int8_conventional": change(study.int8_change(conventional)),
        "int8_equivariant": change(study.int8_change(turning)),
        "identical": min(map(_identical, turning)),
        "error_before": error(twelve, "trained", 30),
        "error_equalized": error(twelve, "equalized", 30),
        "error_after": error(twelve, "int8", 30),
        "exact_before": max(errors(turning, "trained", 90)),
        "flips_between": fmean(_flips_between(run) for run in turning),
        "patches": most,
        "seeds_ours": len(ours),
        "seeds_theirs": len(theirs),
        "parameters_ours": ours[0].figures["parameters"],
        "parameters_theirs": theirs[0].figures["parameters"],
        "macs_ours": ours[0].figures["macs"] / 1e6,
        "macs_theirs": theirs[0].figures["macs"] / 1e6,
    }
    few = runs.SIZES[0][0]
    strict = [study.select(grid, network=network, width=0.35, patches=most) for network in ("C12", "conventional")]
    wider, narrower = (study.select(group, network="C12", width=0.35, patches=few) for group in (ablation, grid))
    found |= {
        "few": few,
        "strict": study_tables.difference(study.advantage(*strict)),
        "more_fields": study_tables.difference(study.advantage(wider, narrower)),
    }
    found |= planned(evidence) | third_row(evidence)
    found |= {"protects": protects(every), "to_the_end": to_the_end(evidence), "by_rate": plan_tables.by_rate(evidence)}
    best = (
        plan_tables.best_rate(plan_tables.trials(evidence, name))
        for name in (plan_tables.PRIMARY.network, plan_tables.PRIMARY.baseline)
    )
    found["best_rates"] = " and ".join(f"{rate:g}" for rate in dict.fromkeys(best))
    for group, name in MEASURED.items():
        values = spread(name)
        found |= {f"spread_{group}": values.median().item(), f"spread_{group}_most": values.max().item()}
    return found


def planned(evidence: Sequence[study.Run]) -> dict[str, str]:
    """The contrasts of the plan that the sentences name, as text, and what its rule says of them."""
    opened = confirmation.opened(evidence, runs.SEALED)
    rows = {(one.network, one.baseline): row for one, row in zip(contrasts.CONTRASTS, contrasts.contrast_rows(opened))}
    primary, layers = (rows["C12_fieldwise", baseline] for baseline in ("conventional", "grouped12"))
    strict = rows["C4_strict", "conventional"]
    sharing, smooth = rows["C4_fieldwise_pixels", "grouped4"], rows["C4_fieldwise", "C4_fieldwise_pixels"]
    (four,) = (one for one in contrasts.CONTRASTS if one.network == "C4_strict")
    return {
        "one_recipe": primary["accuracy, test"],
        "one_recipe_int8": primary["accuracy in INT8, test"],
        "one_recipe_auc": primary[contrasts.DECIDES],
        "confirmed": primary["accuracy, confirmation"],
        "confirmed_int8": primary["accuracy in INT8, confirmation"],
        "confirmed_int8_auc": primary["AUC in INT8, confirmation"],
        "one_recipe_int8_auc": primary["AUC in INT8, test"],
        "aim": aim(opened),
        "confirmed_auc": primary[contrasts.CONFIRMS],
        "plan_says": primary["verdict"],
        "same_layers": layers[contrasts.DECIDES],
        "same_layers_says": layers["verdict"],
        "pixel_seeds": str(len(contrasts.sided(opened, "C4_fieldwise_pixels"))),
        "sharing_alone": sharing[contrasts.DECIDES],
        "smooth_alone": smooth[contrasts.DECIDES],
        "sharing_points": sharing["accuracy, test"],
        "smooth_points": smooth["accuracy, test"],
        "strict_four": strict[contrasts.DECIDES],
        "strict_four_int8": strict["accuracy in INT8, test"],
        "strict_four_int8_auc": strict["AUC in INT8, test"],
        "strict_four_confirmed_int8_auc": strict["AUC in INT8, confirmation"],
        "strict_four_interval": contrasts.compare(opened, four, "AUC in INT8, confirmation").beside_zero,
        "strict_four_says": strict["verdict"],
    }


def third_row(evidence: Sequence[study.Run]) -> dict[str, object]:
    """The DenseNets beside the paper's network, by the plan's recipe but for dropout: one seed each, so no interval."""
    times = read_results(runs.RESULTS / "families.json")["networks"]
    ours = study.select(contrasts.of_plan(evidence), variant=PAPER)
    ended = study.select(contrasts.of_plan(evidence, plan_tables.END), variant=PAPER)
    # The same network at the rate that the plan's trials gave the lowest loss; the DenseNets were trained at one rate.
    trials = plan_tables.trials(evidence, plan_tables.PRIMARY.network)
    rate = min(trials, key=trials.get)
    (best,) = (
        run
        for run in study.select(contrasts.of_plan(evidence, learning_rate=rate), variant=PAPER)
        if run.seed == plan_tables.TRIAL_SEED
    )
    found = {
        "ours": 100 * study.accuracy(ours).mean,
        "ours_auc": study.areas(ours).mean(),
        "short_epochs": contrasts.EPOCHS,
        "end_epochs": plan_tables.END,
        "ended_seeds": len(ended),
        "ended": 100 * study.accuracy(ended).mean,
        "ended_auc": study.areas(ended).mean(),
        "lowest_rate": f"{rate:g}",
        "at_lowest_rate": 100 * best.correct().mean(),
        "at_lowest_rate_auc": study.areas([best])[0],
    }
    for key, name in (("dense", "D4_densenet"), ("plain_dense", "densenet")):
        variant = contrasts.THIRD_ROW[name]
        (run,) = study.select(contrasts.third_row(evidence), variant=variant)
        ms = [times[one.timed_as]["ms"]["INT8"]["1"] for one in (variant, PAPER)]
        found |= {
            key: 100 * run.correct().mean(),
            f"{key}_auc": study.areas([run])[0],
            f"{key}_work": run.figures["macs"] / ours[0].figures["macs"],
            f"{key}_time": ms[0] / ms[1],
            f"{key}_minutes": run.figures["seconds"]["processor"] / 60,
        }
    return found | {"behind": found["dense"] - found["ours"]}


def aim(opened: Sequence[study.Run]) -> str:
    """Whether the primary contrast reached the plan's aim, on test and on confirmation patches, in words."""
    told = []
    for split in ("test", "confirmation"):
        found = contrasts.compare(opened, plan_tables.PRIMARY, f"accuracy, {split}")
        reached = "reached" if 100 * found.mean >= contrasts.AIM else "missed"
        told.append(f"{reached} on {split}")
    return f"{contrasts.AIM} points, by the mean {' and '.join(told)} patches"


def to_the_end(evidence: Sequence[study.Run]) -> str:
    """The primary pair after the longer training, in words: what lies between the two, and of how many seeds.

    Empty where a side has no run yet.
    """
    row = next(row for row in plan_tables.end_rows(evidence) if row["epochs"] == str(plan_tables.END))
    if "not run" in (row["AUC, test"], row["accuracy, test"]):
        return ""
    test, points, valid = (row[key].replace(f" ({study_tables.ONE_SEED})", "") for key in plan_tables.SHOWN)
    told = f"{test} in AUC and {points} points on test patches, {valid} in AUC on unseen validation patches"
    return f"{told} (seeds: {row['seeds']}; {plan_tables.end_interval(evidence)})"


def protects(every: Sequence[study.Run]) -> str:
    """What keeps naive INT8 from harm: whom it harmed, and what of symmetry, rate and length the runs can tell apart.

    Beside these runs, which have their INT8 on record, those of the search are counted, which have none.
    """

    def rate(run: study.Run) -> float:
        return run.figures["config"]["learning_rate"]

    def naive(run: study.Run) -> float:
        return study_tables.rounding_change(run.figures, "naive")

    harmed = [run for run in every if naive(run) < -HARM]
    groups = Counter((study_tables.kind_of(run), rate(run), study_tables.steps_of(run)) for run in harmed)
    told = (
        f"Naive rounding, without equalization, cost {len(harmed)} of {len(every)} networks more than {HARM} points: "
    )
    told += ", ".join(
        f"{count} {kind} trained at a rate of {rate:g} for {steps:,} steps"
        for (kind, rate, steps), count in sorted(groups.items())
    )
    others = [run for run in every if run.variant.symmetric and run not in harmed]
    # As long as one that was harmed, and whole: the length alone is not what harms.
    least = min((study_tables.steps_of(run) for run in harmed if run.variant.symmetric), default=math.inf)
    as_long = [run for run in others if study_tables.steps_of(run) >= least]
    shorter = [run for run in others if run not in as_long]
    if shorter:
        told += f". Of the other equivariant ones {len(shorter)} had at most {max(map(study_tables.steps_of, shorter)):,} steps, "
        told += f"and the worst of them changed by {min(map(naive, shorter)):+.2f} points"
    if as_long:
        told += f"; {len(as_long)} had as many steps as a harmed one, and changed by {' and '.join(f'{naive(run):+.2f}' for run in as_long)}"
    fast = max(map(rate, harmed))
    at_it = {
        kind: [run for run in every if study_tables.kind_of(run) == kind and rate(run) >= fast]
        for kind in study_tables.ROUNDED[:2]
    }
    if at_it["equivariant"]:
        counts = (f"{sum(run in harmed for run in group)} of {len(group)} {kind}" for kind, group in at_it.items())
        told += f". At {fast:g} it harmed {' and '.join(counts)} ones"
        few = len(at_it["equivariant"]) < 5
        return told + (": too few to tell apart what symmetry, rate and length do." if few else ".")
    configs = [read_results(path)["config"] for path in results_files(runs.RESULTS / "search")]
    searched = [one for one in configs if one["kind"] == "equivariant" and one["learning_rate"] >= fast]
    return (
        f"{told}. No equivariant network trained at {fast:g} has its INT8 on record ({len(searched)} in `search/` have "
        "their validation losses alone), so what symmetry, rate and length do cannot be told apart; of the plan's trials, "
        f"`{contrasts.run_name('C12_fieldwise', 0, learning_rate=fast)}` is the first that will say more."
    )


def rotation_table(every: Sequence[study.Run]) -> str:
    """What the claims on rotations count: these runs' record of equivariance, by group."""
    rows = []
    for group in sorted(set(map(_group, every)) - {""}, key=lambda name: (not name.startswith("conventional"), name)):
        chosen = [run for run in every if _group(run) == group]
        rows.append(
            {
                "networks": group,
                "runs": str(len(chosen)),
                "largest error at 90°, FP32": f"{max(errors(chosen, 'trained', 90)):.0e}",
                "INT8 identical under quarter turns, least": f"{min(map(_identical, chosen)):.1%}",
                "classes that flip between quarter turns": f"{fmean(map(_flips_between, chosen)):.1%}",
                "error at 30°, FP32": f"{error(chosen, 'trained', 30):.3f}",
                "equalized": f"{error(chosen, 'equalized', 30):.3f}",
                "INT8": f"{error(chosen, 'int8', 30):.3f}",
            }
        )
    return markdown_table(rows)


def _group(run: study.Run) -> str:
    """Its group, of an equivariant network of more than the identity; «conventional»; else nothing.  DenseNets stand apart."""
    name = run.variant.group if run.variant.symmetric else "conventional" if run.variant.conventional else ""
    return f"{name} DenseNet" if name and run.variant.family == "densenet" else name


def _identical(run: study.Run) -> float:
    return run.figures["int8_identical_under_quarter_turns"]


def change(estimate: study.Estimate) -> str:
    """A small difference as text in points: mean (interval of 95 %)."""
    return f"{100 * estimate.mean:+.2f} ({100 * estimate.low:+.2f} to {100 * estimate.high:+.2f})"


def errors(group: Sequence[study.Run], stage: str, degrees: int) -> list[float]:
    """The root-mean-square equivariance error of each run's logits at a stage and an angle, in standard deviations."""
    return [
        measured["rms"]
        for run in group
        for measured in run.figures["equivariance"][stage]
        if measured["degrees"] == degrees
    ]


def error(group: Sequence[study.Run], stage: str, degrees: int) -> float:
    """The mean of :func:`errors`."""
    return fmean(errors(group, stage, degrees))


def _flips_between(run: study.Run) -> float:
    """The share of classes that flip at the multiples of 30 degrees between the quarter turns."""
    spread = run.figures["rotation_spread"]["fp32"]
    return fmean(flips for angle, flips in zip(spread["angles"], spread["flips_by_angle"], strict=True) if angle % 90)
