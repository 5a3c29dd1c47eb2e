"""What precision and allocator gain in a training step: every choice of a machine is measured, and the page shows it."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import step_options  # noqa: E402

from equilib import doctor, marks  # noqa: E402
from equilib.cli.allocator import TUNABLES, VARIABLE  # noqa: E402

SAVED = json.loads(step_options.SAVED.read_text(encoding="utf-8"))


def test_the_page_shows_what_was_saved():
    assert marks.shown("step options", step_options.README) == step_options.page(SAVED)
    for one in SAVED.values():
        assert "dirty" not in one["environment"]["revision"]
        assert list(one["seconds"]) == [step_options.title(case) for case in step_options.CASES]


@pytest.mark.parametrize(
    "instructions, libc, expected",
    [("", "", 1), ("AMX", "", 2), ("", "glibc", 2), ("AVX512_BF16", "glibc", 4)],
)
def test_a_machine_is_asked_what_it_has(monkeypatch, instructions, libc, expected):
    monkeypatch.setattr(step_options, "bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr(step_options.platform, "libc_ver", lambda: (libc, ""))
    asked = []

    def step(part, variant, width, group, precision, *, environment):
        asked.append((precision, environment[VARIABLE]))
        return {"seconds": 1 + len(asked)}

    monkeypatch.setattr(step_options, "in_fresh_process", step)
    found = step_options.measure(3, step_options.CASES[:1])
    assert len(asked) == 3 * expected and len(set(asked)) == expected
    assert {allocator for _, allocator in asked} == {"", TUNABLES} if libc else {""}
    (precisions,) = found.values()
    # The median of the rounds, which follow one another.
    assert precisions["float32"]["as the system sets it"] == 1 + expected + 1
    where = {"processor": "A 1", "instructions": "x", "revision": "1", "date": "today"}
    shown = step_options.table({"environment": where, "bfloat16": instructions, "seconds": found})
    assert shown.count("×1.00") == 1 and ("no instructions for bfloat16" in shown) == (not instructions)


def test_the_doctor_says_what_was_measured():
    """With the allocator as `equilib train` sets it, what bfloat16 is to float32."""
    (amx,) = [one["seconds"] for one in SAVED.values() if one["bfloat16"] == "AMX"]
    tuned = list(step_options.ALLOCATORS)[1]
    ratios = {name: row["bfloat16"][tuned] / row["float32"][tuned] for name, row in amx.items()}
    assert "up to a third of a step" in doctor._bfloat16("AMX") and 0.62 < min(ratios.values()) < 0.72
    assert ratios["strict, C4, width 0.35"] > 1, "of small strict networks nothing"


def test_what_is_gained_is_said_in_words():
    usual, tuned = step_options.ALLOCATORS
    seconds = {
        "a": {"float32": {usual: 2.0, tuned: 1.0}, "bfloat16": {usual: 2.0, tuned: 1.1}},
        "b": {"float32": {usual: 1.0, tuned: 0.9}, "bfloat16": {usual: 2.0, tuned: 0.6}},
    }
    said = step_options.gains(seconds)
    assert (
        "in float32 by 10 % (b) to 50 % (a)." in said
        and "With it, bfloat16 shortens it by -10 % (a) to 33 % (b)" in said
    )
    plain = {name: {"float32": {usual: 1.0}} for name in "ab"}
    assert step_options.gains(plain) == ""
