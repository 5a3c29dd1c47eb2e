"""The confirmation patches: a contrast's are closed while one of its planned runs is missing, then read."""

import re
import sys
from pathlib import Path

import pytest
from made_up import answers, run

from equilib import confirmation, contrasts, results

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "experiments"))
import grid  # noqa: E402
import runs as ordered  # noqa: E402
import tables  # noqa: E402

# So good that seeds hardly matter, but for the baseline that is best of all.
AREAS = {"C12_fieldwise": 0.95, "conventional": 0.85, "grouped4": 0.9, "C4_fieldwise": 0.9, "grouped12": 0.97}


def floor():
    return [
        run(network, AREAS.get(network, 0.8) + seed / 100, seed)
        for network, seeds in confirmation.FLOOR.items()
        for seed in range(seeds)
    ]


def pairs(found):
    return [(contrast.network, contrast.baseline) for contrast in found]


@pytest.fixture
def folder(tmp_path):
    """A folder of confirmation: each run of the floor is as good there as on the test patches, but for two positive ones."""
    for one in floor():
        area = contrasts.MEASURES["AUC, test"](one)
        results.write_json(tmp_path / f"{contrasts.name_of(one)}.json", answers(area - 0.02))
    return tmp_path


def test_the_floor_is_that_of_the_plan_and_of_the_list_of_runs():
    planned = ordered.planned_runs()
    names = [
        contrasts.run_name(network, seed) for network, seeds in confirmation.FLOOR.items() for seed in range(seeds)
    ]
    assert len(names) == 16 and {one.name for one in planned[:16]} == set(names)
    plan = (ROOT / "results" / "PLAN.md").read_text()
    words = re.search(r"^1\. Floor, 6 epochs: (.*)$", plan, re.M)[1]
    found = {}
    for seeds, networks in re.findall(r"seeds? (0|1 and 2|1) of ([\w, ]+(?: and [\w]+)?)", words):
        for network in re.findall(r"\w+_\w+|conventional|grouped\d+", networks):
            found.setdefault(network, set()).update(map(int, re.findall(r"\d", seeds)))
    assert found == {network: set(range(seeds)) for network, seeds in confirmation.FLOOR.items()}
    parts = {network: 3 for network in re.search(r"^4\. (\w+) and (\w+) with three seeds", plan, re.M).groups()}
    assert parts == confirmation.PARTS
    for network, seeds in (confirmation.FLOOR | parts).items():
        assert {contrasts.run_name(network, seed) for seed in range(seeds)} <= {one.name for one in planned}


@pytest.mark.parametrize("lacks", range(16))
def test_one_missing_run_keeps_the_contrasts_of_its_network_closed(lacks, monkeypatch):
    runs = floor()
    left_out = runs.pop(lacks)
    name, network = contrasts.name_of(left_out), contrasts.name_of(left_out).split("_20000")[0]
    touched = set()
    monkeypatch.setattr(confirmation, "is_stored", lambda path: touched.add(path.name.split("_20000")[0]) or True)
    monkeypatch.setattr(confirmation, "read_results", lambda path: answers(0.5))
    found = confirmation.opened(runs, "evidence/confirmation")
    closed = {contrast for contrast in contrasts.CONTRASTS[:4] if network in (contrast.network, contrast.baseline)}
    complete = [contrast for contrast in contrasts.CONTRASTS[:4] if contrast not in closed]
    assert closed and confirmation.ready(runs) == complete
    assert touched == {side for pair in pairs(complete) for side in pair} and network not in touched
    for contrast, row in zip(contrasts.CONTRASTS, contrasts.contrast_rows(found), strict=True):
        assert (row["AUC, confirmation"] == "sealed") == (contrast not in complete)
        assert contrast in complete or (row["verdict"] not in ("yes", "not shown"))
        waits = confirmation.lacking(runs, contrast)
        assert (name in waits) == (network in (contrast.network, contrast.baseline))
        assert contrast in complete or waits


def test_a_run_of_another_recipe_does_not_stand_in_for_one_of_the_floor():
    runs = floor()
    one = runs.pop()
    network = contrasts.name_of(one).split("_20000")[0]
    for change in ({"epochs": 24}, {"rate": 1e-2}, {"patches": 1000}, {"stain": 0.0}, {"batch_size": 64}):
        others = [*runs, run(network, 0.9, one.seed, **change)]
        assert confirmation.ready(others) == confirmation.ready(runs) != confirmation.ready(floor())


def test_once_open_each_contrast_has_its_verdict(folder):
    (folder / "C12_fieldwise_20000_epochs24_seed0.json").write_text("not asked for")
    runs = confirmation.opened([*floor(), run("C12_fieldwise", 0.5, epochs=24)], folder)
    assert len(runs) == 16
    rows = contrasts.contrast_rows(runs)
    primary = rows[0]
    assert primary["AUC, test"].startswith("+0.100 (Welch +0.0") and "; bootstrap +0.0" in primary["AUC, test"]
    assert primary["AUC, confirmation"].startswith("+0.100 (Welch ")
    assert primary["accuracy, confirmation"].startswith("+5.0 ")
    assert [row["verdict"] for row in rows] == ["yes", "not shown", "not shown", "no", "not run", "not run", "not run"]
    # Seed for seed the same answers on test patches, but the other way round on those that confirm.
    for seed in range(3):
        results.write_json(folder / f"{contrasts.run_name('conventional', seed)}.json", answers(0.97 + seed / 100))
    again = contrasts.contrast_rows(confirmation.opened(floor(), folder))
    assert again[0]["AUC, test"] == primary["AUC, test"] and again[0]["verdict"] == "no"


def test_packed_answers_are_read_too(folder):
    before = confirmation.opened(floor(), folder)
    for path in folder.glob("*.json"):
        results.pack(path)
    assert confirmation.opened(floor(), folder) == before


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "conventional_20000_epochs6_seed2.json is missing: score that run"),
        ({"label": [1, 0]}, "must hold a label and two answers"),
        ({"label": [1, 0], "fp32": [0.5]}, "must hold a label and two answers"),
        ({"label": [1, 0], "fp32": [0.5, 1], "int8": [0.5]}, "must hold a label and two answers"),
        (answers(0.87), "holds the answers on the test patches"),
    ],
)
def test_a_bad_file_is_named(folder, content, words):
    path = folder / "conventional_20000_epochs6_seed2.json"
    path.unlink()
    if content is not None:
        results.write_json(path, content)
    with pytest.raises((FileNotFoundError, ValueError), match=f"conventional_20000_epochs6_seed2.json.*{words[-20:]}"):
        confirmation.opened(floor(), folder)


def test_the_command_says_what_is_sealed_then_gives_the_table(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grid.py", "confirm"])
    monkeypatch.setattr(tables, "SEALED", folder)
    monkeypatch.setattr(tables.study, "read_runs", lambda path: [])
    grid.main()
    told = capsys.readouterr().out
    assert "|" not in told and told.count("sealed, `") == 7
    monkeypatch.setattr(tables.study, "read_runs", lambda path: floor()[:-1])
    grid.main()
    told = capsys.readouterr().out
    assert "| C12_fieldwise − conventional | primary | 3 and 3 | +0.100 (" in told and told.count("| yes |") == 1
    assert (
        "| C4_strict" not in told
        and "* C4_strict − conventional: sealed, `C4_strict_20000_epochs6_seed1` missing." in told
    )
    (folder / "conventional_20000_epochs6_seed2.json").unlink()
    with pytest.raises(SystemExit, match=r"^grid.py: .*conventional_20000_epochs6_seed2.json is missing[^\n]*$"):
        grid.main()


def test_the_page_says_what_each_contrast_waits_for():
    told = tables.sealed(floor()[2:]).splitlines()
    first, second = (f"`C12_fieldwise_20000_epochs6_seed{seed}`" for seed in (0, 1))
    assert told[0] == f"* C12_fieldwise − conventional: sealed, {first}, {second} missing."
    assert told[3] == "* C4_strict − conventional: read." and len(told) == 7


def test_what_is_not_run_says_how_long_it_would_take():
    """Ten minutes an epoch; of networks that were never trained no time is known."""
    evidence = floor()
    for one in evidence:
        one.figures["seconds"] = {"processor": 3600.0}
    told = tables.not_run(ordered.planned_runs(), evidence)
    parts = re.findall(r"^\* (\d+) ([^(:]+) \(([\d.]+|no time)", told, re.MULTILINE)
    assert told.startswith("Not run are 30 of the 46 runs") and parts == [
        ("2", "of the third row", "no time"),
        ("8", "of 24 epochs", "32.0"),
        ("12", "trials of learning rates", "12.0"),
        ("6", "of the networks that part sharing from smooth filters", "no time"),
        ("2", "third seeds", "2.0"),
    ]
    named = re.findall("`([^`]+)`", told)
    assert sorted(named[:-1]) == sorted(run.name for run in ordered.planned_runs()[16:])
    assert told.endswith("Next in the plan's order: `D4_densenet_20000_epochs6_seed0`.")
    assert tables.not_run(ordered.planned_runs()[:16], evidence) == "All of the 16 runs that the plan names are done."


def test_the_readme_says_what_was_found_on_either_patches():
    rows = tables.decided_rows(confirmation_of(floor()))
    assert [row["difference (95 %)"] for row in rows] == [
        "C12, field-wise − conventional",
        "C12, field-wise − conventional, grouped as C12",
        "C4, field-wise − conventional, grouped",
        "C4, strict − conventional",
    ]
    assert [row["by the plan"] for row in rows] == ["yes", "not shown", "not shown", "no"]
    number = r"[+-]\d\.\d{3} \([+-]\d\.\d{3} to [+-]\d\.\d{3}\)"
    assert all(re.fullmatch(number, row[head]) for row in rows for head in ("AUC, test", "AUC, confirmation"))
    assert rows[0]["AUC, test"].startswith("+0.100 (+0.0") and rows[0]["points, test"].startswith("+5.0 (+3.")
    sealed = tables.decided_rows(floor())
    assert sealed[0]["AUC, confirmation"] == "sealed" and sealed[0]["by the plan"].startswith(
        "not decided: above 0 on test"
    )
    assert [row["by the plan"] for row in sealed[1:]] == ["no"]
    assert tables.third_row([]) == ["The paper's third row: not run (`D4_densenet`, `densenet`)."]
    assert tables.third_row([run("D4_densenet", 0.9), run("densenet", 0.9)]) == []


def test_sentences_say_what_was_found_on_either_patches():
    told = contrasts.sentences(confirmation_of(floor()))
    assert told[0].startswith(
        "C12, field-wise − conventional (the paper's network against its counterpart): +0.100 in AUC (Welch"
    )
    assert "; on confirmation patches +0.100 in AUC (Welch +0.0" in told[0] and told[0].endswith("; yes.")
    assert contrasts.sentences(floor())[2].startswith("C4, field-wise − conventional, grouped (")


def confirmation_of(runs):
    """The runs with their test answers as confirming ones."""
    for one in runs:
        one.figures["confirmation"] = one.figures["per_patch"]
    return runs


def test_the_brief_table_keeps_one_recipe_out_of_its_names():
    row = {"network": "conventional, grouped, any angle", "width": "0.35", "AUC": "0.9", "trained on": "x"}
    assert tables.brief([row]) == [{"network": "conventional, grouped", "AUC": "0.9"}]
