"""Tables of the plan's later parts: runs of another length, rate or size stay apart, and what is missing is named."""

import re
from dataclasses import replace

import pytest
from made_up import run

from equilib import contrasts, figures, plan_tables
from equilib.plan_tables import best_rate, best_rate_rows, end_rows, few_rows, rate_pair_rows, rate_rows
from equilib.results import shipped_results

PAIR = ("C12_fieldwise", "conventional")


def pair(areas, seeds=(0,), **options):
    return [run(network, area, seed, **options) for network, area in zip(PAIR, areas) for seed in seeds]


def test_nothing_is_run_and_it_says_what_is_missing():
    rows = end_rows([])
    assert [(row["contrast"], row["epochs"]) for row in rows] == [
        ("C12_fieldwise − conventional", "6"),
        ("C12_fieldwise − conventional", "24"),
        ("C12_fieldwise − conventional", "48"),
        ("C4_fieldwise − grouped4", "6"),
        ("C4_fieldwise − grouped4", "24"),
    ]
    assert {row["AUC, test"] for row in rows} == {"not run"}
    assert rows[1]["seeds not run"] == "C12_fieldwise 0, 1; conventional 0, 1"
    assert rows[2]["seeds not run"].endswith("(waits for 24 epochs)")
    assert {row["rate by the plan's rule"] for row in rate_rows([])} == {"not decided yet"}
    assert {row["AUC, test"] for row in best_rate_rows([])} == {"not run"}
    assert [(row["patches"], row["AUC, test"]) for row in few_rows([])] == [("1,000", "not run"), ("4,000", "not run")]


def test_lengths_share_no_run():
    runs = pair((0.9, 0.8)) + pair((0.95, 0.94), epochs=24) + pair((0.5, 0.9), epochs=24, rate=1e-2)
    short, long, longest = end_rows(runs)[:3]
    assert short["AUC, test"].startswith("+0.100 (one seed") and long["AUC, test"].startswith("+0.010 (one seed")
    assert long["seeds not run"] == "C12_fieldwise 1; conventional 1" and longest["AUC, test"] == "not run"
    (row,) = [row for row in contrasts.contrast_rows(contrasts.of_plan(runs)) if row["level"] == "primary"]
    assert row["AUC, test"] == short["AUC, test"], "a run of 24 epochs never enters a contrast of 6"


@pytest.mark.parametrize(
    "areas, said",
    [
        ((0.90, 0.90), "cannot be yes: the interval on test patches holds 0"),
        ((0.80, 0.95), "no"),
        ((0.95, 0.80), "not decided: confirmation is not read"),
    ],
)
def test_longer_runs_are_never_a_yes_by_test_patches_alone(areas, said):
    runs = [run(name, area + seed / 100, seed, epochs=24) for name, area in zip(PAIR, areas) for seed in (0, 1)]
    short, long, longest = end_rows(runs)[:3]
    assert (short["by the rule"], long["by the rule"], longest["by the rule"]) == ("see the first table", said, "–")


def old(area, seed):
    """A conventional network of the older runs: another recipe, so no run of the plan."""
    made = run("conventional", area, seed, augmentation="other")
    return replace(made, variant=replace(made.variant, recipe=""))


def test_the_steps_of_the_old_lead_add_up_to_it():
    areas = {"conventional": 0.83, "grouped4": 0.84, "C4_fieldwise_pixels": 0.87, "C4_fieldwise": 0.88}
    planned = [run(name, area, seed) for name, area in areas.items() for seed in (0, 1)]
    chain = plan_tables.made_of([old(0.80, seed) for seed in (0, 1)], planned)
    words = plan_tables.made_of_words(chain)
    points = plan_tables.made_of_words(chain, "accuracy, test")
    steps = [float(number) for number in re.findall(r"([+-]0\.\d{3}) \(Welch", words)]
    assert sum(steps) == pytest.approx(0.88 - 0.80, abs=2e-3)
    assert [word.split(" +")[0] for word in words.split(", ")] == ["recipe", "layers", "sharing", "smooth filters"]
    assert points.startswith("recipe +3.0 (Welch "), "the same numbers, as points"
    single = plan_tables.made_of_words(chain | {"C4_fieldwise_pixels": chain["C4_fieldwise_pixels"][:1]})
    assert single.count("Welch") == 3
    assert re.search(
        r"sharing with smooth filters \+0\.04\d \(.*\) \[by one run: sharing \+0\.0\d+, smooth filters ", single
    )
    del chain["C4_fieldwise_pixels"]
    joined = plan_tables.made_of_words(chain | {"C4_fieldwise_pixels": [], "C4_fieldwise": chain.pop("C4_fieldwise")})
    assert "sharing with smooth filters +0.04" in joined, "a network without a run joins two steps"


@pytest.mark.parametrize("best, word", [(22, "not called for: "), (23, "called for"), (24, "called for")])
def test_48_epochs_are_called_for_where_losses_still_fall(best, word):
    runs = [run("C12_fieldwise", 0.9, epochs=24, best=12), run("conventional", 0.8, epochs=24, best=best)]
    rows = end_rows(runs)
    assert f"({word}" in rows[2]["seeds not run"]
    assert rows[1]["epoch of the lowest validation loss"] == f"C12_fieldwise 12; conventional {best}"


def test_a_rate_must_be_clearly_better():
    assert best_rate({1e-3: 0.40, 3e-3: 0.40, 1e-2: 0.3901}) == 3e-3
    assert best_rate({1e-3: 0.40, 3e-3: 0.40, 1e-2: 0.3899}) == 1e-2
    assert best_rate({1e-3: 0.37, 3e-3: 0.40, 1e-2: 0.38}) == 1e-3
    assert best_rate({3e-3: 0.40, 1e-2: 0.30}) is None, "a trial is missing"


def trial(network, losses, seeds=(0,)):
    return [
        run(network, 1 - loss, seed, rate=rate, loss=loss)
        for rate, loss in zip(plan_tables.RATES, losses)
        for seed in seeds
    ]


def test_each_network_is_taken_at_its_best_rate():
    runs = trial("C12_fieldwise", (0.3, 0.2, 0.1)) + trial("conventional", (0.4, 0.4, 0.4))
    row, *others = best_rate_rows(runs)
    assert {one["seeds"] for one in rate_pair_rows(runs)} <= {"1 and 1", "1 and 0", "0 and 1", "0 and 0"}, (
        "seed 0 alone"
    )
    assert [one["rate of both"] for one in rate_pair_rows(runs)] == ["0.001", "0.003", "0.01"]
    assert row["rates"] == "0.01 and 0.003" and row["AUC, test"].startswith("+0.300")
    assert {other["AUC, test"] for other in others} == {"not run"}
    rows = {row["network"]: row for row in rate_rows(runs)}
    assert list(rows["C12_fieldwise"].values()) == ["C12_fieldwise", "0.300", "0.200", "0.100", "0.01"]
    assert rows["grouped4"]["loss at 0.01"] == "not run"
    # Seed 1 is no trial: its losses choose nothing.
    assert (
        best_rate(plan_tables.trials(runs + trial("conventional", (0.4, 0.4, 0.1), seeds=(1,)), "conventional")) == 3e-3
    )


def test_sizes_and_lengths_are_rows_of_their_own():
    runs = pair((0.9, 0.8), patches=1000, epochs=120) + pair((0.7, 0.75), patches=1000, epochs=24)
    runs += [run("grouped12", 0.6, patches=1000, epochs=24)]
    rows = few_rows(runs)
    assert [
        (row["patches"], row["epochs"], row["steps"], row["contrast"], row["AUC, test"].split()[0]) for row in rows
    ] == [
        ("1,000", "24", "744", "C12_fieldwise − conventional", "-0.050"),
        ("1,000", "24", "744", "C12_fieldwise − grouped12", "+0.100"),
        ("1,000", "24", "744", "C4_strict − conventional", "not"),
        ("1,000", "24", "744", "C1_fieldwise − conventional", "not"),
        ("1,000", "120", "3,720", "C12_fieldwise − conventional", "+0.100"),
        ("1,000", "120", "3,720", "C12_fieldwise − grouped12", "not"),
        ("1,000", "120", "3,720", "C4_strict − conventional", "not"),
        ("1,000", "120", "3,720", "C1_fieldwise − conventional", "not"),
        ("4,000", "–", "–", "C12_fieldwise − conventional", "not"),
    ]
    assert few_rows(runs + [run("conventional", 0.8, seed=1, patches=1000, epochs=24, stain=0.0)]) == rows


def test_the_third_row_is_no_network_of_the_contrasts():
    dense = run("D4_densenet", 0.9)
    assert contrasts.third_row([dense, run("C4_strict", 0.8), run("densenet", 0.8, epochs=24)]) == [dense]
    assert contrasts.of_plan([dense]) == []
    assert contrasts.name_of(dense) == "D4_densenet_20000_epochs6_seed0"


def costed(network, area, seed=0):
    one = run(network, area, seed)
    one.figures.update(parameters=1000 + len(network), macs=10**7)
    return one


def test_a_network_is_drawn_at_its_cost_as_soon_as_it_has_a_run():
    """…by its areas; until then, and where no time was measured, the figure's note says which and why."""
    runs = [costed("conventional", 0.8), costed("conventional", 0.82, 1), costed("grouped4", 0.85)]
    times = shipped_results("families")
    times["networks"].pop(contrasts.NETWORKS["grouped4"].timed_as)
    found = plan_tables.costs(runs, times)
    assert found.areas == {"conventional": pytest.approx([0.8, 0.82]), "grouped4": pytest.approx([0.85])}
    assert found.note == "not trained yet: D4_densenet, densenet; no time measured: grouped4"
    ms = [row for cost, row in found.costs.items() if cost.startswith("ms")]
    assert ms == [{"conventional": times["networks"]["conventional MobileNetV2, width 0.35"]["ms"]["INT8"]["1"]}]
    both = plan_tables.costs([*runs, costed("D4_densenet", 0.9), costed("densenet", 0.7)], times)
    assert both.note == "no time measured: grouped4" and both.conventional == {"conventional", "grouped4", "densenet"}
    assert all("D4_densenet" in row for row in both.costs.values())
    figure = figures.against_cost(both.costs, both.areas, both.conventional, "area", both.note)
    drawn = [{line.get_label(): line.get_marker() for line in ax.lines} for ax in figure.axes]
    assert drawn[0] == drawn[1] and list(drawn[0]) == ["conventional", "grouped4", "D4_densenet", "densenet"]
    assert len(set(drawn[0].values())) == 4 and set(drawn[2]) == set(drawn[0]) - {"grouped4"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(drawn[0])
    assert both.note in figure.get_suptitle() and len(figure.axes) == 3


def test_the_later_parts_in_brief_are_those_of_the_primary_contrast():
    runs = pair((0.95, 0.94), epochs=24) + pair((0.9, 0.8), patches=1000, epochs=120)
    rows = plan_tables.later_rows(runs)
    assert {row["part"]: row["AUC, test"].split()[0] for row in rows} == {
        "24 epochs": "+0.010",
        "48 epochs (called for)": "not",
        "each at its rate by the plan's rule (not decided yet)": "not",
        "1,000 patches, 120 epochs": "+0.100",
        "4,000 patches": "not",
    }
