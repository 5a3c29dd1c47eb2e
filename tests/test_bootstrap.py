"""Intervals from what is drawn anew: against brute force, and against closed forms."""

import numpy as np
import pytest

from equilib import bootstrap


def test_a_resampled_area_is_that_of_the_patches_written_out():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 7, 40) / 2, rng.integers(0, 2, 40)  # few values, so many ties
    counts = rng.multinomial(40, np.full(40, 1 / 40), 60)
    counts = np.concatenate([counts, np.ones((1, 40), int)])
    found = bootstrap.resampled_areas(scores, labels, counts)
    written = [bootstrap.area_under_curve(np.repeat(scores, row), np.repeat(labels, row)) for row in counts]
    assert found == pytest.approx(written)
    assert found[-1] == pytest.approx(bootstrap.area_under_curve(scores, labels))


def test_an_interval_holds_the_middle_95_percent():
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert bootstrap.interval(samples) == pytest.approx((25, 975))


def test_counts_of_all_of_pcam_do_not_overflow():
    """Small numbers are kept in two bytes; their sums over 80,000 patches need more."""
    rng = np.random.default_rng(0)
    scores, labels = rng.random(80_000), rng.integers(0, 2, 80_000)
    counts = np.ones((1, 80_000), np.int16)
    assert bootstrap.resampled_areas(scores, labels, counts)[0] == pytest.approx(
        bootstrap.area_under_curve(scores, labels), rel=1e-12
    )
    assert bootstrap.resampled_means(labels, counts)[0] == pytest.approx(labels.mean(), rel=1e-12)


def test_a_resample_of_one_class_has_no_area_and_does_not_count():
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    found = bootstrap.resampled_areas([1.0, 0.0], [1, 0], counts)
    assert np.isnan(found[[0, 2]]).all() and found[1] == 1
    assert bootstrap.interval(found) == (1, 1)


def test_the_area_of_scores_that_know_nothing_has_the_spread_of_mann_and_whitney():
    """(P + N + 1) / (12 P N), the variance of the area under the null hypothesis (Mann and Whitney 1947)."""
    ones, zeros = 220, 180
    labels = [1] * ones + [0] * zeros
    expected = ((ones + zeros + 1) / (12 * ones * zeros)) ** 0.5
    spreads = []
    for seed in range(6):
        scores = np.random.default_rng(seed).random(ones + zeros)
        spreads.append(bootstrap.resampled_areas(scores, labels, bootstrap.patch_counts(ones + zeros)).std())
    assert np.mean(spreads) == pytest.approx(expected, rel=0.05)


def test_means_are_those_of_drawn_patches():
    values = np.array([[1.0, 0, 0], [0, 1, 1]])
    assert bootstrap.resampled_means(values, np.array([[3, 0, 0], [1, 1, 1], [0, 2, 1]])) == pytest.approx(
        np.array([[1, 1 / 3, 0], [0, 2 / 3, 1]])
    )


def test_of_two_runs_both_are_drawn_in_half_of_the_resamples():
    values = np.stack([np.zeros(bootstrap.REPEATS), np.ones(bootstrap.REPEATS)])
    found = bootstrap.over_runs(values)
    shares = {value: np.mean(found == value) for value in (0, 0.5, 1)}
    assert sum(shares.values()) == 1 and shares[0.5] == pytest.approx(0.5, abs=0.03)
    assert shares[0] == pytest.approx(0.25, abs=0.03)
    assert (found == bootstrap.over_runs(values)).all(), "the same figures, the same interval"
    assert (found != bootstrap.over_runs(values, draw=1)).any(), "the other side draws its own"


def test_patches_of_a_slide_are_drawn_together():
    """What a resample of slides gives is what its patches give, written out."""
    rng = np.random.default_rng(4)
    slide, labels = rng.integers(0, 5, 80), rng.integers(0, 2, 80)
    scores = rng.integers(0, 9, 80) / 3  # ties, within a slide and between slides
    drawn = bootstrap.drawn_slides(5)[:50]
    assert (drawn.sum(1) == 5).all()
    counts = drawn[:, slide]
    expected = bootstrap.resampled_areas(scores, labels, counts)
    assert bootstrap.slide_areas(scores, labels, slide, drawn) == pytest.approx(expected)
    assert bootstrap.slide_means(scores, slide, drawn) == pytest.approx(bootstrap.resampled_means(scores, counts))
    with pytest.raises(ValueError, match="patches of two slides at least, got 1"):
        bootstrap.drawn_slides(1)


def test_slides_of_one_class_have_no_area():
    slide = np.array([0, 0, 1])
    found = bootstrap.slide_areas([1.0, 0.5, 0.2], [1, 1, 0], slide, np.array([[2, 0], [1, 1]]))
    assert np.isnan(found[0]) and found[1] == 1


def test_by_slide_an_interval_is_that_of_as_many_slides_as_there_are():
    """All patches of a slide alike: the spread of the mean is that of 40 slides, not of 2,000 patches."""
    rng = np.random.default_rng(3)
    right = rng.random(40) < 0.7
    slide = np.repeat(np.arange(40), 50)
    values, share = right[slide], right.mean()
    by_slide = bootstrap.slide_means(values, slide, bootstrap.drawn_slides(40)).std()
    by_patch = bootstrap.resampled_means(values, bootstrap.patch_counts(2000)).std()
    assert by_slide == pytest.approx((share * (1 - share) / 40) ** 0.5, rel=0.05)
    assert by_patch == pytest.approx((share * (1 - share) / 2000) ** 0.5, rel=0.05)
