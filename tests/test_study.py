import json
from dataclasses import replace

import numpy as np
import pytest

from equilib import study
from equilib.variant import ANY_ANGLE, Variant

VARIANTS = (
    Variant("conventional"),
    Variant("conventional", "C4", "grouped"),
    Variant("conventional", recipe=ANY_ANGLE),
    *(Variant("equivariant", group) for group in ("C1", "C4", "C12", "D12")),
)


def named(network, width=0.35):
    """The variant of this label."""
    (found,) = (variant for variant in VARIANTS if variant.label == network)
    return replace(found, width=width)


def run(correct, *, int8=None, network="conventional", seed=0, patches=1000, width=0.35):
    """A run whose every test patch is of class 1, so that its logit difference says whether it is right."""
    correct = np.asarray(correct, float)
    accuracy = {"fp32": {"auc": 0.9, "cross_entropy": 0.4, "calibration_error": 0.05}}
    figures = {
        "parameters": 100,
        "macs": 5_000_000,
        "accuracy": accuracy,
        "per_patch": {
            "label": [1] * len(correct),
            "fp32": (correct - 0.5).tolist(),
            "fp32, mean of four rotations": (correct - 0.5).tolist(),
            "int8": (np.asarray(correct if int8 is None else int8, float) - 0.5).tolist(),
        },
        "rotation_spread": {
            stage: {"flips": 0.1, "std": 0.2, "angles": [30, 90, 180], "flips_by_angle": [0.3, 0.0, 0.0]}
            for stage in ("fp32", "int8", "fp32, there and back")
        },
        "int8_identical_under_quarter_turns": 1.0,
    }
    return study.Run(named(network, width), patches, seed, "made up", "command", figures)


def coins(seeds, patches, share, offset=0):
    rng = np.random.default_rng(offset)
    return [run(rng.random(patches) < share, seed=seed) for seed in range(seeds)]


def test_accuracy_is_the_mean_and_its_spread_that_over_runs():
    runs = [run([1, 1, 1, 0]), run([1, 1, 0, 0], seed=1)]
    found = study.accuracy(runs)
    assert found.mean == pytest.approx(0.625)
    assert found.std == pytest.approx(0.25 / 2**0.5)
    assert found.standard_error == pytest.approx(0.125)
    assert np.isnan(study.accuracy(runs[:1]).std)


def test_the_interval_has_the_binomial_width():
    """One run: only patches are drawn, and the bootstrap must find the standard error of a share."""
    found = study.accuracy(coins(1, 2000, 0.8))
    expected = 2 * 1.96 * (found.mean * (1 - found.mean) / 2000) ** 0.5
    assert found.high - found.low == pytest.approx(expected, rel=0.06)
    assert found.low < found.mean < found.high


def test_a_network_is_no_better_than_itself():
    runs = coins(1, 500, 0.7)
    found = study.advantage(runs, runs)
    # One run and the same patches on both sides: nothing is left to chance.
    assert (found.mean, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_pairing_takes_the_difficulty_of_patches_out():
    """Networks that differ on few patches: the interval of the difference is that of these patches."""
    rng = np.random.default_rng(3)
    base = (rng.random(2000) < 0.7).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:40]] = 1
    found = study.advantage([run(better, network="C4")], [run(base)])
    assert found.mean == pytest.approx(0.02)
    assert 0 < found.low < found.high < 0.03
    unpaired = study.advantage([run(np.random.default_rng(1).permutation(better))], [run(base)])
    assert unpaired.high - unpaired.low > 3 * (found.high - found.low)


def test_the_standard_error_of_a_difference_is_that_of_two_independent_means():
    first, second = coins(3, 400, 0.8), coins(3, 400, 0.7, offset=1)
    expected = np.hypot(study.accuracy(first).standard_error, study.accuracy(second).standard_error)
    found = study.advantage(first, second)
    assert found.standard_error == pytest.approx(expected)
    assert found.low < found.mean < found.high


def test_runs_on_other_patches_are_not_compared():
    other = run([1, 0, 1])
    other.figures["per_patch"]["label"] = [1, 0, 1]
    with pytest.raises(ValueError, match="different test patches"):
        study.advantage([other], [run([1, 1, 1])])


def test_int8_is_paired_with_its_own_fp32():
    runs = [run([1, 1, 0, 0], int8=[1, 0, 0, 0]), run([1, 1, 1, 0], int8=[1, 1, 1, 0], seed=1)]
    found = study.int8_change(runs)
    assert found.mean == pytest.approx(-0.125)
    assert found.low <= found.mean <= found.high <= 0
    unchanged = study.int8_change(coins(2, 50, 0.6))
    assert (unchanged.mean, unchanged.low, unchanged.high) == (0, 0, 0)


def test_every_shipped_model_has_the_run_that_made_it():
    models = study.shipped_models()
    assert {path.stem for path in study.shipped_folder().glob("*.onnx")} == set(models)
    for name, run in models.items():
        assert ("conventional" in name) == run.variant.conventional
        assert study.validation_loss(run) == run.figures["history"][run.figures["best_epoch"] - 1]["valid_loss"]
    assert study.validation_loss(models[study.chosen_model()]) == min(map(study.validation_loss, models.values()))


def test_fields_dropped_whole_are_another_recipe_where_there_are_fields():
    for network, apart in (("C4", True), ("conventional", False)):
        one, other = run([1, 0], network=network), run([1, 0], network=network, seed=1)
        one.figures["config"], other.figures["config"] = ({"network": {"field_dropout": way}} for way in (True, False))
        assert len(study.cells([one, other])) == 1 + apart


def test_welchs_interval_is_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    for sizes in ((2, 2), (3, 5), (4, 2)):
        first, second = (rng.normal(0, spread, size) for spread, size in zip((1, 3), sizes))
        expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
        assert study.welch(first, second) == pytest.approx((expected.low, expected.high))
        assert study.welch(first) == pytest.approx(stats.ttest_1samp(first, 0).confidence_interval())
    assert study.welch([2, 2], [1, 1]) == (1, 1)
    assert np.isnan(study.welch([2], [1, 1])).all()


def test_a_difference_carries_welchs_interval_of_its_seeds():
    first, second = coins(3, 400, 0.8), coins(3, 400, 0.7, offset=1)
    found = study.advantage(first, second)
    means = [[one.correct().mean() for one in side] for side in (first, second)]
    assert found.between_seeds == study.welch(*means)
    assert sum(found.between_seeds) / 2 == pytest.approx(found.mean)


def test_files_that_are_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no results"):
        study.read_runs(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(ValueError, match="x.json is no run"):
        study.read_runs(tmp_path)


def test_runs_are_read_in_order(tmp_path):
    def write(name, kind, patches, seed, depthwise="strict", **training):
        network = {"group": "C4", "width": 0.35, "depthwise": depthwise, "divisor": 12}
        figures = run([1, 0]).figures | {"config": {"kind": kind, "network": network, **training}}
        contents = {"data": {"label": "x", "train": patches}, "seed": seed, "command": "c", "model": figures}
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))

    write("a", "equivariant", 1000, 0)
    write("b", "conventional", 4000, 1)
    write("c", "conventional", 4000, 0)
    runs = study.read_runs(tmp_path)
    assert [(r.network, r.patches, r.seed) for r in runs] == [
        ("conventional", 4000, 0),
        ("conventional", 4000, 1),
        ("C4", 1000, 0),
    ]
    assert study.select(runs, network="C4")[0].correct().tolist() == [1, 0]
    write("d", "equivariant", 1000, 0, "fieldwise")
    write("e", "conventional", 1000, 0, "grouped")
    write("f", "conventional", 1000, 0, any_angle=1.0)
    write("g", "equivariant", 1000, 1, any_angle=1.0)  # as is usual for it
    names = [*["conventional"] * 2, "conventional, any angle", "conventional, grouped", "C4", "C4", "C4, field-wise"]
    assert [r.network for r in study.read_runs(tmp_path)] == names


def test_equal_logits_count_as_class_0():
    """As argmax has it, which metrics and `equilib predict` follow."""
    tied = run([1, 1])
    tied.figures["per_patch"] |= {"label": [0, 1], "fp32": [0.0, 0.0]}
    assert tied.correct().tolist() == [1, 0]


def test_logit_differences_that_were_rounded_to_0_are_on_the_side_of_the_recorded_accuracy(tmp_path):
    """Of two patches at 0 both, none, or one that the accuracy does not tell from the other; and what is not at 0 stays."""
    for labels, right, answered in (([1, 1], 2, [1, 1]), ([1, 1], 0, [0, 0]), ([0, 0], 0, [1, 1]), ([1, 1], 1, [0, 0])):
        one = run([1, 0])
        one.figures["per_patch"] |= {"label": [1, 0, *labels], "fp32": [0.3, 0.2, 0.0, 0.0]}
        one.figures["accuracy"]["fp32"]["accuracy"] = (1 + right) / 4
        found = study._on_their_side(one.figures)["per_patch"]["fp32"]
        assert found[:2] == [0.3, 0.2] and [int(value > 0) for value in found[2:]] == answered, (labels, right)
        assert max(abs(value) for value in found[2:]) < 1e-4


def test_every_record_has_as_many_patches_right_as_its_accuracy_says():
    for name in ("grid", "ablation", "naive", "evidence"):
        for one in study.shipped_runs(name):
            for stage in set(one.figures["per_patch"]) - {"label"}:
                recorded = one.figures["accuracy"][stage]["accuracy"]
                assert one.correct(stage).mean() == pytest.approx(recorded, abs=1e-9), (
                    name,
                    one.network,
                    one.seed,
                    stage,
                )


def test_seeds_of_two_networks_are_drawn_independently():
    """Runs that differ from seed to seed by far more than patches do: their difference is as uncertain as both means."""
    uneven = [run([share] * 200, seed=seed) for seed, share in enumerate((0, 1, 0, 1))]
    found, alone = study.advantage(uneven, uneven), study.accuracy(uneven)
    assert found.mean == 0 and found.low < -0.3 and found.high > 0.3
    assert found.high - found.low == pytest.approx(2**0.5 * (alone.high - alone.low), rel=0.25)


def test_runs_are_selected_by_all_values_at_once():
    runs = [run([1], network="C4"), run([1], network="C4", patches=4000), run([1], patches=4000)]
    assert study.select(runs, network="C4", patches=4000) == [runs[1]]
    assert study.select(runs, network="C4", width=0.5) == [] and study.select(runs) == runs
