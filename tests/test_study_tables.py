"""Tables of many runs: every cell once, and each number that of its runs."""

from dataclasses import replace

import numpy as np
import pytest
from test_study import coins, named, run

from equilib import study, study_tables
from equilib.results import read_results, results_files
from equilib.variant import Variant


def test_tables_name_every_cell_once():
    runs = [*coins(2, 100, 0.8), *[replace(r, variant=named("C4")) for r in coins(2, 100, 0.8, offset=5)]]
    runs.append(replace(runs[0], variant=named("C4"), patches=4000))  # with no conventional run beside it
    assert [row["network"] for row in study_tables.accuracy_rows(runs)] == ["conventional", "C4", "C4"]
    assert [(row["equivariant"], row["patches"]) for row in study_tables.advantage_rows(runs)] == [
        ("C4, width 0.35", "1,000")
    ]
    narrow = run(coins(1, 100, 0.7)[0].correct(), width=0.15)
    same = {row["conventional"] for row in study_tables.advantage_rows([*runs, narrow])}
    assert same == {"width 0.15: same parameters", "width 0.35: same channels"}
    narrow.figures["parameters"] = 200  # too many to be comparable
    assert len(study_tables.advantage_rows([*runs, narrow])) == 1
    grouped = replace(
        runs[0], variant=named("conventional, grouped")
    )  # one more to compare with, and no equivariant network
    assert [row["conventional"] for row in study_tables.advantage_rows([*runs, grouped])] == [
        "width 0.35: same channels",
        "grouped, width 0.35: same channels",
    ]
    turned = study_tables.rotation_rows(runs)
    assert len(turned) == 3
    assert (turned[0]["flips at quarter turns, FP32"], turned[0]["flips between, FP32"]) == ("0.0 %", "30.0 %")
    assert study_tables.accuracy_rows(runs)[0]["seeds"] == "2"


def test_table_1_takes_the_most_patches_and_ends_with_what_is_published():
    def rounded(runs, divisor):
        for one in runs:
            one.figures["config"] = {"network": {"divisor": divisor}}
        return runs

    few, many = (
        rounded(coins(1, 50, 0.9), 12),
        rounded([run([1, 1, 0, 0], patches=4000), run([1, 1, 1, 0], patches=4000, seed=1)], 12),
    )
    other = rounded([run([1, 1, 1, 1], network="C4")], 24)
    first, second, *published = study_tables.table_1([*few, *many], other)
    assert (first["seeds"], first["FP32 [%]"], first["channels, multiples of"]) == ("2", "62.5 ± 17.7", "12")
    assert first["trained on"] == "made up, 4,000 patches"
    assert (second["network"], second["INT8 [%]"], second["channels, multiples of"]) == ("C4", "100.0", "24")
    assert [row["FP32 [%]"] for row in published] == ["84.67 ± 1.91", "89.19 ± 0.79", "89.8"]
    assert all(list(row) == list(first) for row in published), "a table has one header"


def test_a_densenet_has_its_row_in_table_1():
    dense = replace(run([1, 1, 1, 0]), variant=Variant.densenet("equivariant", 64), patches=20_000)
    dense.figures["config"] = {"network": {"family": "densenet", "growth": 64, "group": "D4", "band_limit": False}}
    row, *_ = study_tables.table_1([dense])
    assert (row["network"], row["width"], row["channels, multiples of"]) == ("D4 DenseNet, growth 64", "", "")
    assert row["FP32 [%]"] == "75.0", "one seed, no spread"


def test_int8_is_pooled_over_sizes_and_seeds():
    runs = [
        run([1, 1, 0, 0], int8=[1, 0, 0, 0]),
        run([1, 1, 1, 0], int8=[1, 1, 1, 1], patches=4000),
        run([1, 1], network="C4"),
        run([1, 1], network="C4", seed=1),
        run([1, 1], network="D12"),
    ]
    first, second, third = study_tables.int8_rows(runs)
    assert third["95 % interval"] == "one seed: no interval"
    assert (first["network"], first["runs"], first["INT8 − FP32, all runs [points]"]) == (
        "conventional, width 0.35",
        "2",
        "+0.00",
    )
    assert (second["network"], second["95 % interval"]) == ("C4, width 0.35", "+0.00 to +0.00")


def test_naive_rows_part_kinds_and_learning_rates_and_name_the_worst():
    def rounded(network, rate, naive, equalized, epochs=6):
        made = run([1, 0], network=network, patches=20_000)
        stages = {"fp32": 0.8, "int8 naive, simulated": naive, "int8 simulated": equalized}
        made.figures["accuracy"] = {stage: {"accuracy": value} for stage, value in stages.items()}
        made.figures["config"] = {"learning_rate": rate, "epochs": epochs, "batch_size": 32}
        return made

    runs = [
        rounded("C4", 0.003, 0.60, 0.80, epochs=24),
        rounded("C4", 0.003, 0.79, 0.80),
        rounded("conventional", 0.01, 0.60, 0.80),
        rounded("conventional", 0.01, 0.80, 0.79),
        rounded("conventional", 0.003, 0.81, 0.80),
        rounded("C1", 0.003, 0.40, 0.80),
    ]
    rows = study_tables.naive_rows(runs)
    assert [(row["networks"], row["learning rate"], row["training steps"], row["runs"]) for row in rows] == [
        ("conventional", "0.01", "3,750", "2"),
        ("conventional", "0.003", "3,750", "1"),
        ("equivariant", "0.003", "3,750", "1"),
        ("equivariant", "0.003", "15,000", "1"),
        ("band limit alone (C1)", "0.003", "3,750", "1"),
    ]
    assert list(rows[0].values())[4:] == ["+0.00 and -20.00", "-20.00", "+0.00 and -1.00", "-1.00"]
    assert list(rows[1].values())[4:6] == ["+1.00", "+1.00"]


def test_the_ladder_takes_every_rung_that_a_run_noted():
    def laddered(naive, absorbed, corrected=None):
        made = run([1, 0])
        stages = {"fp32": 0.8, "int8 naive, simulated": naive, "int8 simulated": absorbed}
        made.figures["accuracy"] = {stage: {"accuracy": value} for stage, value in stages.items()}
        made.figures["config"] = {"learning_rate": 0.01, "epochs": 1, "batch_size": 2}
        if corrected is not None:
            made.figures["ladder"] = {
                "naive": {"accuracy": naive},
                "+ equalization": {"accuracy": 0.79},
                "+ absorption": {"accuracy": absorbed},
                "+ bias correction": {"accuracy": corrected},
            }
        return made

    (row,) = study_tables.ladder_rows([laddered(0.7, 0.8), laddered(0.6, 0.82, 0.85)])
    assert list(row.values())[3:] == (
        [
            "2",
            "-10.00 and -20.00",
            "-20.00",
            "-1.00 (1 run)",
            "-1.00",
            "+2.00 and +0.00",
            "+0.00",
            "+5.00 (1 run)",
            "+5.00",
        ]
        + ["not measured", ""]
    )


def test_the_ladder_of_the_shipped_runs_is_that_of_their_files():
    runs = [run for name in ("grid", "ablation", "evidence") for run in study.shipped_runs(name)]
    for row in study_tables.ladder_rows(runs):
        changes = []
        low, high = (int(row["training steps"].split(" to ")[end].replace(",", "")) for end in (0, -1))
        folders = [study.shipped_folder() / name for name in ("grid", "ablation", "evidence")]
        for path in (path for folder in folders for path in results_files(folder)):
            contents = read_results(path)
            model = contents["model"]
            steps = model["config"]["epochs"] * (contents["data"]["train"] // model["config"]["batch_size"])
            kind, rate = model["config"]["kind"], model["config"]["learning_rate"]
            alone = kind == "equivariant" and model["config"]["network"]["group"] == "C1"
            here = (
                row["networks"] == ("band limit alone (C1)" if alone else kind) and f"{rate:g}" == row["learning rate"]
            )
            if here and low <= steps <= high:
                accuracy = model["accuracy"]
                naive = accuracy["int8 naive, simulated"]["accuracy"] - accuracy["fp32"]["accuracy"]
                changes.append(100 * naive)
        assert row["runs"] == str(len(changes))
        shown = sorted(changes)[::-1] if len(changes) == 2 else [np.mean(changes)]
        assert row["naive − FP32 [points]"] == " and ".join(f"{change:+.2f}" for change in shown)
        assert row["naive, worst"] == f"{min(changes):+.2f}"


def test_a_run_that_noted_every_rung_has_a_row_of_its_own():
    runs = study.shipped_runs("evidence")
    rows = study_tables.ladder_by_run(runs)
    assert len(rows) == len(runs) and len({tuple(row.values()) for row in rows}) == len(rows)
    assert study_tables.ladder_by_run(study.shipped_runs("grid")) == [], "older runs noted two rungs"
    broken = min(rows, key=lambda row: float(row["naive"]))
    assert float(broken["naive"]) < -10 and abs(float(broken["equalized"])) < 1


def test_steadiness_is_a_share_of_the_conventional_networks():
    runs = [run([1, 0]), run([1, 0], network="C12"), run([1, 0], network="C12", seed=1)]
    for turned, flips in zip(runs, (0.1, 0.02, 0.04)):
        turned.figures["rotation_spread"] = {
            stage: spread | {"flips": 0.0 if stage == "int8" else flips}
            for stage, spread in turned.figures["rotation_spread"].items()
        }
    (row,) = study_tables.steadiness_rows(runs)
    assert (row["equivariant"], row["patches"], row["flips, FP32"], row["logit moves, INT8"]) == (
        "C12, width 0.35",
        "1,000",
        "×0.30",
        "×1.00",
    )
    assert row["flips, INT8"] == "none to compare with"


def test_the_ablation_compares_with_the_conventional_network():
    def trained(correct, network):
        made = run(correct, network=network)
        made.figures["history"] = [{"valid_loss": loss} for loss in (0.7, 0.4, 0.5)]
        return made

    once = [trained([1, 1, 0, 0], "conventional"), trained([1, 1, 1, 0], "C1"), trained([1, 0, 0, 0], "D12")]
    runs = [*once, *(replace(one, seed=1) for one in once)]
    rows = {row["network"]: row for row in study_tables.ablation_rows(runs)}
    assert rows["conventional"]["minus conventional [points]"] == ""
    assert rows["C1"]["minus conventional [points]"].startswith("+25.0 (Welch +25.0 to +25.0; bootstrap +0.0 to")
    assert rows["D12"]["minus conventional [points]"].startswith("-25.0 (")
    assert rows["C1"]["validation loss"] == "0.400"
    control = "minus conventional, any angle [points]"
    assert control not in rows["C1"], "nothing to compare with"
    turned = trained([1, 1, 1, 1], "conventional, any angle")
    rows = {row["network"]: row for row in study_tables.ablation_rows([*runs, turned, replace(turned, seed=1)])}
    assert rows["C1"][control].startswith("-25.0 (") and rows["conventional"][control].startswith("-50.0 (")
    assert rows["conventional, any angle"][control] == ""
    with pytest.raises(ValueError, match="one width and one number of patches"):
        study_tables.ablation_rows([*runs, replace(runs[0], patches=4000)])
    with pytest.raises(ValueError, match="a conventional network"):
        study_tables.ablation_rows(once[1:])


def test_runs_of_another_recipe_are_a_cell_of_their_own():
    """…and its tables show what sets the rows apart; how the oldest records write an option does not."""
    made = {"epochs": 6, "learning_rate": 0.003, "any_angle": True, "seed": 0, "data": "here"}
    changes = ({}, {"seed": 1, "data": "there", "any_angle": 1.0}, {"epochs": 24}, {"learning_rate": 0.01})
    runs = [run([1, 1, 0], seed=seed) for seed in range(4)]
    for one, change in zip(runs, changes):
        one.figures["config"] = made | change
    assert [group for _, group in study.cells(runs)] == [runs[:2], runs[2:3], runs[3:]]
    assert study.siblings(runs, runs[1]) == runs[:2]
    for rows in (study_tables.accuracy_rows(runs), study_tables.rotation_rows(runs)):
        shown = [(row["epochs"], row["learning rate"]) for row in rows]
        assert shown == [("6", "0.003"), ("24", "0.003"), ("6", "0.01")]


def test_one_seed_has_no_interval():
    """Patches are drawn anew, but what another seed would give nobody knows; the cell says so."""
    several, one = coins(3, 200, 0.8), [run(r.correct(), network="C4") for r in coins(1, 200, 0.8, offset=9)]
    assert np.isnan(study.advantage(one, several).between_seeds).all()
    text = study_tables.difference(study.advantage(one, several))
    assert text.endswith("(one seed: no interval)") and float(text.split()[0]) == pytest.approx(
        100 * study.advantage(one, several).mean, abs=0.051
    )
    (row,) = study_tables.advantage_rows([*several, *one])
    assert {row[name] for name in row if "interval" in name} == {"one seed: no interval"}
    assert study_tables.accuracy_rows([one[0]])[0]["INT8 − FP32 [points]"].endswith("(one seed: no interval)")
    two = study_tables.difference(study.advantage(several, several[:2]))
    assert "(Welch " in two and "; bootstrap " in two


def test_the_area_under_the_curve_stands_beside_the_accuracy():
    ours, theirs = (
        [run([1, 0], network="C4", seed=seed) for seed in (0, 1)],
        [run([1, 0], seed=seed) for seed in (0, 1)],
    )
    for one, area in zip(ours, (0.92, 0.94)):
        one.figures["accuracy"] = {"fp32": one.figures["accuracy"]["fp32"] | {"auc": area}}
    (row,) = study_tables.advantage_rows([*ours, *theirs])
    assert row["AUC, difference"] == "+0.030"
    low, high = study.welch([0.92, 0.94], [0.9, 0.9])
    assert row["AUC, 95 % interval, Welch"] == f"{low:+.3f} to {high:+.3f}"


def test_comparable_networks_differ_by_30_percent_of_parameters_at_most():
    ours = run([1, 0], network="C4")
    for parameters, expected in ((50, 0), (76, 0), (78, 1), (100, 1), (129, 1), (131, 0), (200, 0)):
        other = run([1, 0], width=0.5)
        other.figures["parameters"] = parameters
        assert len(study_tables.advantage_rows([ours, other])) == expected, parameters


def test_rows_show_millions_and_means_over_runs():
    runs = [run([1, 0]), run([1, 0], seed=1)]
    runs[1].figures["int8_identical_under_quarter_turns"] = 0.5
    (row,) = study_tables.rotation_rows(runs)
    assert row["INT8 identical at quarter turns"] == "75.0 %"
    (row,) = study_tables.accuracy_rows(runs)
    assert (row["MACs [millions]"], row["parameters"], row["AUC"]) == ("5", "100", "0.900")
