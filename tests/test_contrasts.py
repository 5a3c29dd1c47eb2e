import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import run

from equilib import contrasts, results, study
from equilib.figures import steps_between

PLAN = (Path(__file__).parent.parent / "results" / "PLAN.md").read_text()


PRIMARY = contrasts.CONTRASTS[0]


def test_the_contrasts_are_those_of_the_plan():
    lines = [re.findall(r"(\w+) − (\w+)", line) for line in PLAN.splitlines() if line.startswith("* **")]
    planned = [pair for pairs in lines for pair in pairs]
    assert [(c.network, c.baseline) for c in contrasts.CONTRASTS] == planned
    named = {name for row in re.findall(r"^\| ([\w, ]+) \| [^|]+ \|$", PLAN, re.M) for name in row.split(", ")}
    assert named - {"name"} == set(contrasts.NETWORKS) - {"D4_fieldwise"}


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 60), rng.integers(0, 2, 60)  # few values, so many ties
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0]
    assert contrasts.area_under_curve(scores, labels) == pytest.approx(((ones > zeros) + (ones == zeros) / 2).mean())
    with pytest.raises(ValueError, match="both classes"):
        contrasts.area_under_curve([1, 2], [1, 1])


def test_no_threshold_is_better_than_the_best():
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, labels = rng.integers(0, 12, 40) / 3, rng.integers(0, 2, 40)
        threshold = contrasts.best_threshold(scores, labels)
        right = [((scores > t) == labels).mean() for t in np.linspace(-1, 5, 400)]
        assert ((scores > threshold) == labels).mean() == pytest.approx(max(right))


def test_a_difference_has_welchs_interval_in_closed_form():
    """Two seeds a side, the same spread: two degrees of freedom, where Student's quantile is 0.95 √(2 / (4·0.975·0.025))."""
    runs = [
        run("C12_fieldwise", 0.94),
        run("C12_fieldwise", 0.92, 1),
        run("conventional", 0.84),
        run("conventional", 0.82, 1),
    ]
    found = contrasts.compare(runs, PRIMARY)
    reach = 0.95 * (2 / (4 * 0.975 * 0.025)) ** 0.5 * 0.01 * 2**0.5
    assert found.mean == pytest.approx(0.1) and found.runs == (2, 2)
    assert found.interval == pytest.approx((0.1 - reach, 0.1 + reach))
    # The threshold lies at 0; a positive patch above all others is right, one below is wrong, the others are right.
    assert contrasts.compare(runs, PRIMARY, "accuracy, test").mean == pytest.approx(0.05)
    assert contrasts.compare(runs, PRIMARY, "AUC, unseen validation").mean == pytest.approx(0.1)


def test_the_bootstrap_stands_beside_welch_and_pairs_the_patches():
    """Networks that answer alike differ by nothing, whichever patches and seeds are drawn; and the text names both."""
    alike = [run(network, 0.9, seed) for network in ("C12_fieldwise", "conventional") for seed in (0, 1)]
    for measure in contrasts.MEASURES:
        assert contrasts.compare(alike, PRIMARY, measure).bootstrap == (0, 0), measure
    runs = [run("C12_fieldwise", 0.94, seed) for seed in (0, 1)] + [run("conventional", 0.8, seed) for seed in (0, 1)]
    found = contrasts.compare(runs, PRIMARY)
    # Seeds alike: the difference is the share of the 100 positive patches that one has right and the other wrong.
    reach = 1.96 * (0.14 * 0.86 / 100) ** 0.5
    assert found.interval == pytest.approx((0.14, 0.14))
    assert found.bootstrap == pytest.approx((0.14 - reach, 0.14 + reach), abs=0.01)
    text = contrasts.difference_text("AUC, test", found)
    assert re.fullmatch(r"\+0\.140 \(Welch \+0\.140 to \+0\.140; bootstrap \+0\.0\d\d to \+0\.2\d\d\)", text)


def test_each_side_draws_its_own_seeds():
    """Seeds 0.2 apart on either side: drawn alike, the sides would keep their distance of 0.05, whatever is drawn."""
    runs = [run(network, area) for network, area in (("C12_fieldwise", 0.95), ("conventional", 0.9))]
    runs += [run(network, area, 1) for network, area in (("C12_fieldwise", 0.75), ("conventional", 0.7))]
    low, high = contrasts.compare(runs, PRIMARY).bootstrap
    assert low < -0.1 and high > 0.2


def test_runs_that_answered_other_patches_are_not_compared():
    other = run("conventional", 0.8)
    other.figures["per_patch"]["label"].reverse()
    with pytest.raises(ValueError, match="answered different patches"):
        contrasts.compare([run("C12_fieldwise", 0.9), other], PRIMARY)


def test_one_seed_a_side_has_no_interval_and_says_so():
    runs = [run("C12_fieldwise", 0.94), run("C12_fieldwise", 0.93, 1), run("conventional", 0.84)]
    (row,) = [row for row in contrasts.contrast_rows(runs) if row["level"] == "primary"]
    assert row["seeds"] == "2 and 1" and row["AUC, test"] == "+0.095 (one seed: no interval)"
    assert row["verdict"].startswith("not decided: one seed")


def test_a_contrast_without_a_run_is_not_run():
    rows = contrasts.contrast_rows([run("C12_fieldwise", 0.9), run("conventional", 0.8)])
    assert [row["verdict"] for row in rows[1:]] == ["not run"] * 6
    assert {row["AUC, test"] for row in rows[1:]} == {"not run"}


def test_a_sentence_says_the_difference_the_seeds_and_the_verdict_or_that_nothing_was_run():
    first, *others = contrasts.sentences([run("C12_fieldwise", 0.9), run("conventional", 0.8)])
    assert first == (
        "C12, field-wise − conventional (the paper's network against its counterpart): +0.100 in AUC, "
        "+5.0 points, 1 and 1 seed(s); not decided: one seed on a side, so no interval."
    )
    assert len(others) == 3 and all(sentence.endswith("): not run.") for sentence in others)
    seeds = [
        run(name, area, seed) for name in ("C12_fieldwise", "conventional") for seed, area in enumerate((0.8, 0.9))
    ]
    low, high = contrasts.compare(seeds, PRIMARY).interval
    assert f"): +0.000 in AUC (Welch {low:+.3f} to {high:+.3f})," in contrasts.sentences(seeds)[0]


@pytest.mark.parametrize(
    "test, confirmation, word",
    [
        ((0.01, 0.02), (0.01, 0.02), "yes"),
        ((0.01, 0.02), (-0.01, 0.02), "not shown"),
        ((-0.01, 0.02), (0.01, 0.02), "not shown"),
        ((-0.02, -0.01), None, "no"),
        ((0.01, 0.02), (-0.02, -0.01), "no"),
        ((0.01, 0.02), None, "not decided: above 0"),
        ((-0.01, 0.02), None, "not decided: the interval"),
    ],
)
def test_the_verdict_follows_the_plan(test, confirmation, word):
    test, confirmation = (
        interval and contrasts.Difference(np.mean(interval), interval, (3, 3)) for interval in (test, confirmation)
    )
    assert contrasts.verdict(test, confirmation).startswith(word)


def test_only_runs_of_one_recipe_are_compared():
    kept = run("conventional", 0.8)
    others = [
        run("conventional", 0.8, epochs=24),
        run("conventional", 0.8, rate=1e-2),
        run("conventional", 0.8, patches=1000),
    ]
    others += [run("conventional", 0.8, **{name: "other"}) for name in contrasts.RECIPE]
    others.append(replace(kept, variant=replace(kept.variant, divisor=12)))
    assert contrasts.of_plan([kept, *others]) == [kept]
    assert contrasts.of_plan([kept, *others], epochs=24) == others[:1]
    by_channel = run("C4_fieldwise", 0.8)
    by_channel.figures["config"]["network"] = {"field_dropout": False}
    assert contrasts.of_plan([by_channel]) == [], "dropout by channel is another recipe"


def test_shipped_runs_leave_the_sealed_folder_closed(monkeypatch):
    opened = []
    original = results.read_results
    monkeypatch.setattr(study, "read_results", lambda path: opened.append(Path(path)) or original(path))
    runs = contrasts.of_plan(study.shipped_runs("evidence"))
    assert opened and {path.parent.name for path in opened} == {"evidence"}
    for one in runs:  # ours by ranks, the file's by torchmetrics in single precision
        area = contrasts.MEASURES["AUC, test"](one)
        assert area == pytest.approx(one.figures["accuracy"]["fp32"]["auc"], abs=1e-5)


def test_a_missing_step_is_drawn_as_missing():
    figure = steps_between({"one": {"a": [0.9], "b": [], "c": [0.95, 0.93]}}, title="t", label="l")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["not run", "+0.040\nboth steps"]
    figure = steps_between({"one": {"a": [0.9], "c": [0.95, 0.93]}}, title="t", label="l")
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0.040"]
