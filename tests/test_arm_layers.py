"""Where Arm's kernels round otherwise: the graphs that ask for it, and what was found.  The emulator itself is not needed."""

import platform
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import arm_layers  # noqa: E402

from equilib import marks, results  # noqa: E402

NAME = "pcam_C4_w0.35_20000_seed0"


@pytest.fixture(scope="module")
def model():
    return onnx.load(results.shipped_int8(NAME))


def answers(graph, inputs):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def test_layers_follow_one_another_from_the_image_to_the_logits(model):
    layers = arm_layers.layers(model)
    known = {model.graph.input[0].name}
    for layer in layers:
        assert layer.inputs and set(layer.inputs) <= known, layer
        known.add(layer.output)
    assert layers[0].operators == "Mul" and layers[-1].operators == "Gemm", "the mask, and the classifier"
    assert sum(layer.operators == "Add" and len(layer.inputs) == 2 for layer in layers) == 11
    assert all(layer.inputs.count(name) == 1 for layer in layers for name in layer.inputs)


def test_further_outputs_leave_the_logits_as_they_are(model):
    images = np.random.default_rng(0).normal(size=(2, 3, 95, 95)).astype(np.float32)
    inputs = {model.graph.input[0].name: images}
    every = answers(arm_layers.with_all_outputs(model), inputs)
    assert set(every) == {layer.output for layer in arm_layers.layers(model)}
    assert np.array_equal(every["logits"], answers(model, inputs)["logits"])


def test_sums_are_the_networks_own_and_integers_foretell_those_of_arm(model):
    """Each answer lies within half a level of the exact sum; on an Arm processor it is that of the integers."""
    sums, pairs = arm_layers.additions(model), arm_layers.all_pairs()
    assert len(set(zip(pairs["a"], pairs["b"]))) == 2**16
    here, integers = answers(sums, pairs), arm_layers.in_integers(sums, pairs)
    assert len(here) == 11
    for node, (ratio_a, zero_a), (ratio_b, zero_b), zero in arm_layers._scales(sums):
        exact = float(ratio_a) * (pairs["a"].astype(float) - zero_a) + float(ratio_b) * (
            pairs["b"].astype(float) - zero_b
        )
        for found in (here[node.output[0]], integers[node.output[0]]):
            assert np.abs(found - np.clip(exact + zero, 0, 255)).max() < 0.5 + 1e-4
        if platform.machine() in ("aarch64", "arm64"):
            assert np.array_equal(here[node.output[0]], integers[node.output[0]])


def test_integers_round_ties_away_from_zero_and_ties_are_found():
    """(a - 100) / 2 + (b - 100) / 2 with all scales powers of two: every odd sum is a tie."""
    constants = {"one": np.float32(1), "two": np.float32(2), "zero": np.uint8(100)}
    node = helper.make_node("QLinearAdd", ["a", "one", "zero", "b", "one", "zero", "two", "zero"], ["c"])
    graph = helper.make_graph(
        [node], "g", [], [], [numpy_helper.from_array(np.array(v), n) for n, v in constants.items()]
    )
    sums, pairs = helper.make_model(graph), {"a": np.uint8([101, 99, 103, 97]), "b": np.uint8([100, 100, 100, 100])}
    assert arm_layers.in_integers(sums, pairs)["c"].tolist() == [101, 99, 102, 98]
    assert arm_layers.from_a_tie(sums, pairs, {"c": np.array([True, True, False, False])}) == 0
    assert arm_layers.from_a_tie(sums, {"a": np.uint8([102]), "b": np.uint8([100])}, {"c": [True]}) == Fraction(1, 2)


def test_the_readme_shows_what_was_found_and_what_was_found_is_what_it_says():
    saved = results.read_results(arm_layers.SAVED)
    assert marks.shown("arm", arm_layers.README) == arm_layers.table(saved)
    for name, row in saved["networks"].items():
        assert set(row["begins"]) <= {"Add"}, f"{name}: a difference begins elsewhere than in a residual sum"
        assert row["unexplained"] == 0 and row["levels"] == 1 and row["from a tie"] < 1e-4
    assert saved["networks"][NAME]["differing"] > 0, "strict networks differ, too"
