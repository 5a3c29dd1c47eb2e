"""The profile of a training step: every operator has one kind, and the page shows what was saved."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import step_profile  # noqa: E402

from equilib import marks  # noqa: E402


@pytest.mark.parametrize(
    "operator, kind",
    [
        ("aten::convolution_backward", "convolutions"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::native_batch_norm_backward", "normalization"),
        ("NormalizeFieldsBackward", "normalization"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::threshold_backward", "ReLU, residual sums"),
        ("aten::copy_", "layouts, copies"),
        ("aten::bmm", "products of matrices, gathering"),
        ("aten::view", step_profile.OTHER),
    ],
)
def test_operators_have_their_kind(operator, kind):
    assert step_profile.kind_of(operator) == kind


def test_the_kinds_of_a_step_add_up_to_it():
    found = step_profile.shares(lambda: sum(range(1000)))
    assert set(found) <= {*step_profile.KINDS, step_profile.OTHER}


def test_the_page_shows_the_saved_profile_of_the_compared_networks():
    saved = json.loads(step_profile.SAVED.read_text(encoding="utf-8"))
    assert marks.shown("step profile", step_profile.README) == step_profile.table(saved)
    assert set(saved["networks"]) == {name for pair in step_profile.PAIRS for name in pair}
    for ours, theirs in step_profile.PAIRS:  # the sentence below the table
        more = {kind: ms - saved["networks"][theirs][kind] for kind, ms in saved["networks"][ours].items()}
        assert more["normalization"] > sum(more.values()) / 2 and more["convolutions"] <= 0
    assert "dirty" not in saved["environment"]["revision"]
