"""Figures of many runs: every run is drawn, where it belongs."""

import numpy as np
import pytest


def test_the_learning_curve_shows_mean_spread_and_every_run():
    from equilib import figures

    figure = figures.learning_curve({"conventional": {1000: [0.7, 0.8], 4000: [0.9]}, "C4": {1000: [0.6, 0.7, 0.8]}})
    (ax,) = figure.axes
    means = {container.get_label(): container.lines[0].get_ydata() for container in ax.containers}
    assert means["conventional"] == pytest.approx([75, 90]) and means["C4"] == pytest.approx([70])
    bars = {c.get_label(): [s[:, 1] for s in c.lines[2][0].get_segments()] for c in ax.containers}
    assert np.diff(bars["conventional"][0]) == pytest.approx(2 * 100 * 0.1 / 2**0.5)
    assert np.diff(bars["conventional"][1]) == pytest.approx(0), "one run has no spread"
    dots = sorted(y for line in ax.lines if line.get_marker() == "." for y in line.get_ydata())
    assert dots == pytest.approx([60, 70, 70, 80, 80, 90])
    assert "training patches" in repr(figure)


def test_accuracy_by_parameters_puts_each_network_at_its_sizes():
    from equilib import figures

    figure = figures.accuracy_by_parameters(
        {"conventional": {95_000: [0.8], 326_000: [0.7, 0.9]}, "C12": {26_000: [0.6]}}
    )
    (ax,) = figure.axes
    bars = {container.get_label(): container.lines[0] for container in ax.containers}
    assert bars["conventional"].get_xdata() == pytest.approx([95_000, 326_000]) and bars[
        "C12"
    ].get_xdata() == pytest.approx([26_000])
    assert bars["conventional"].get_ydata() == pytest.approx([80, 80])
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "trainable parameters"


def test_accuracy_by_angle_closes_the_circle_and_keeps_styles():
    from equilib import figures

    turned = {"conventional": [0.8, 0.7, 0.75, 0.7], "C4": [0.9] * 4, "C12": [0.6] * 4}
    figure = figures.accuracy_by_angle([0, 90, 180, 270], turned, {name: [0.5] * 4 for name in turned}, title="t")
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.lines if not line.get_label().startswith("_")}
    assert list(lines) == list(turned)
    assert lines["conventional"].get_xdata().tolist() == [0, 90, 180, 270, 360]
    assert lines["conventional"].get_ydata() == pytest.approx([80, 70, 75, 70, 80])
    colors = {name: line.get_color() for name, line in lines.items()}
    assert len(set(colors.values())) == 3
    assert {line.get_label(): line.get_color() for line in right.lines if line.get_label() in turned} == colors
    with pytest.raises(ValueError, match="at most 2 conventional"):
        names = [f"conventional {index}" for index in range(3)]
        figures.learning_curve({name: {1000: [0.5]} for name in names}, names)
