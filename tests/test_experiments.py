"""The programs that make results: what they train, and that the READMEs show what they last gave."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "experiments"))
import angles  # noqa: E402
import grid  # noqa: E402
import runs as ordered  # noqa: E402
import search  # noqa: E402
import tables  # noqa: E402

from equilib import marks  # noqa: E402
from equilib.results import is_stored, read_results  # noqa: E402
from equilib.variant import ANY_ANGLE  # noqa: E402


def test_the_readmes_show_the_grid_and_the_search():
    shown = tables.tables()
    assert {"table 1", "grid", "ablation", "search"} < set(shown)
    for name, text in shown.items():
        assert marks.shown(name, tables.page(name)) == text, name


def test_tables_are_put_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a: begin -->\nold\n<!-- a: end -->\ntail\n")
    marks.write("a", "new\nrows", page)
    assert page.read_text() == "head\n<!-- a: begin -->\nnew\nrows\n<!-- a: end -->\ntail\n"
    assert marks.shown("a", page) == "new\nrows"
    with pytest.raises(ValueError, match="page.md must hold <!-- b: begin -->"):
        marks.shown("b", page)


def test_the_grid_is_made_of_distinct_runs_that_can_be_built():
    runs = ordered.grid_runs()
    assert len({one.name for one in runs}) == len(runs)
    configs = {one.config("data").fingerprint for one in runs}
    assert len(configs) == len(runs)
    cells = {}
    for one in runs:  # all networks of a cell see the same patches in the same order, and have the same channels
        network = one.config("data").network
        channels = tuple(block.outputs for block in network.blocks)
        cells.setdefault((one.variant.divisor, one.variant.width, one.patches, one.seed), []).append(
            (one.epochs, channels)
        )
    sizes = {}
    for (divisor, width, patches, _), cell in cells.items():
        sizes.setdefault((divisor, width, patches), set()).add(len(cell))
    few, *_, most = (patches for patches, _ in ordered.SIZES)
    expected = {(ordered.DIVISOR, 0.35): 3, (ordered.DIVISOR, 1.0): 3, (ordered.DIVISOR, ordered.NARROW): 1}
    assert sizes == {(*key, patches): {count} for key, count in expected.items() for patches, _ in ordered.SIZES} | {
        (ordered.ABLATION_DIVISOR, 0.35, few): {len(ordered.ABLATION_NETWORKS) + 1},  # and the control
        (ordered.ABLATION_DIVISOR, 0.35, most): {len(ordered.ABLATION_CHOSEN)},
    }
    assert set(ordered.ABLATION_CHOSEN) < set(ordered.ABLATION_NETWORKS)
    assert all(len(set(cell)) == 1 for cell in cells.values())


def test_the_control_differs_from_the_conventional_network_in_its_recipe_alone():
    configs = {
        one.name: one.config("data") for one in ordered.grid_runs() if one.variant.divisor == ordered.ABLATION_DIVISOR
    }
    for seed in ordered.SEEDS:
        control = configs[f"conventional_any_angle_w0.35_m24_1000_seed{seed}"]
        plain = configs[f"conventional_w0.35_m24_1000_seed{seed}"]
        trained_alike = configs[f"C4_w0.35_m24_1000_seed{seed}"]
        assert replace(control, **ordered.RECIPES["conventional"], any_angle=0.0) == plain
        assert replace(control, kind="equivariant") == trained_alike


def test_networks_of_the_ablation_can_be_built():
    """…with the same channels, whatever the group; fewer parameters the larger it is, as weights are shared."""
    from equilib.mobilenet import build, count_parameters

    chosen = (ordered.ABLATION_DIVISOR, ordered.SIZES[0][0], 0)
    configs = [
        one.config("data") for one in ordered.grid_runs() if (one.variant.divisor, one.patches, one.seed) == chosen
    ]
    counts = {
        (config.kind, config.network.group, config.network.depthwise): count_parameters(
            build(config.kind, config.network)
        )
        for config in configs
    }
    strict = [counts["equivariant", group, "strict"] for group in ("C1", "C4", "C12", "D12")]
    assert strict == sorted(strict, reverse=True)
    # The band limit alone takes a third of the filters of 3x3, and nothing else, from the conventional network.
    assert 0.9 < strict[0] / counts["conventional", "C4", "strict"] < 1
    assert all(
        counts["equivariant", group, "fieldwise"] > counts["equivariant", group, "strict"] for group in ("C4", "C12")
    )
    assert counts["conventional", "C4", "grouped"] > counts["conventional", "C4", "strict"]


def test_the_sweep_turns_patches_and_the_control_turns_them_back():
    torch.manual_seed(0)
    images, labels = torch.randn(40, 3, 95, 95), torch.arange(40) % 2

    def brighter_half(x):  # which half of the picture is brighter, the upper or the lower
        return torch.stack([x[:, :, :47].mean((1, 2, 3)), x[:, :, 48:].mean((1, 2, 3))], 1)

    upright = (brighter_half(images).argmax(1) == labels).double().mean().item()
    found = angles.sweep({"half": brighter_half, "mean": lambda x: x[:, :2].mean((2, 3))}, images, labels, (0, 90, 180))
    assert found["half"]["turned"][0] == upright and found["half"]["turned"][2] == pytest.approx(1 - upright)
    assert found["half"]["there and back"] == [upright] * 3
    assert len(set(found["mean"]["turned"])) == 1, "it does not see how a picture lies"


def test_the_search_gives_both_networks_the_same_variations():
    runs = search.runs("C4", 0.35)
    assert len({config.fingerprint for config in runs.values()}) == len(runs)
    for name, config in runs.items():
        twin = name.replace("conventional", "equivariant")
        assert config.kind == name.split("_")[0] and twin in runs
        if config.kind == "conventional":
            assert {**config.to_dict(), "kind": ""} == {**runs[twin].to_dict(), "kind": ""}


def test_the_plan_is_made_of_distinct_runs_of_one_recipe():
    runs = ordered.planned_runs()
    assert len({one.name for one in runs}) == len({one.config("data").fingerprint for one in runs}) == len(runs)
    assert len(set(ordered.PLAN_NETWORKS.values())) == len(ordered.PLAN_NETWORKS)
    for one in runs:
        config = one.config("data")
        assert (config.any_angle, config.stain, config.recalibrate, config.train_limit) == (1.0, 0.1, 512, 20_000)
        assert one.variant.of(config.to_dict()) == one.variant
        assert one.variant.conventional == (one.variant.recipe == ANY_ANGLE), "the usual recipe of equivariant networks"


def test_the_third_row_stands_behind_the_floor():
    """…whose order an addition to the plan must not change; both DenseNets have about the same parameters."""
    from equilib.mobilenet import build, count_parameters

    runs = ordered.planned_runs()
    first = [one.name for one in runs].index("D4_densenet_20000_epochs6_seed0")
    assert all(one.epochs == 6 and "densenet" not in one.network for one in runs[:first])
    floor = {network: {one.seed for one in runs[:first] if one.network == network} for network in ordered.PLAN_NETWORKS}
    three, two = ("C12_fieldwise", "conventional", "grouped4", "C4_fieldwise"), ("grouped12", "C4_strict")
    assert all(floor[name] == {0, 1, 2} for name in three) and all(floor[name] == {0, 1} for name in two)
    ours, theirs = (one.config("data") for one in runs[first : first + 2])
    assert (ours.family, theirs.family) == ("densenet", "densenet")
    assert (ours.network.symmetry.name, ours.network.input_size) == ("D4", 96)
    counts = [count_parameters(build(config.kind, config.network)) for config in (ours, theirs)]
    assert 0.85 < counts[0] / counts[1] < 1


def test_a_whole_name_means_this_run_alone_and_a_part_all_that_contain_it():
    runs = ordered.planned_runs()
    assert [one.name for one in grid.named(runs, ["densenet_20000_epochs6_seed0"])] == ["densenet_20000_epochs6_seed0"]
    assert len(grid.named(runs, ["densenet"])) == 2 and grid.named(runs, [""]) == runs
    assert grid.named(runs, ["nobody"]) == []


def test_a_planned_run_without_confirmation_patches_stays_out_of_results(tmp_path, monkeypatch, capsys):
    """In results/ the tables would ask for its answers on them, and none could be made."""
    planned, older = ordered.planned_runs()[-1], ordered.grid_runs()[0]
    assert grid.home(planned, str(tmp_path), tmp_path) == tmp_path / f"{planned.name}.json"
    assert grid.home(older, str(tmp_path), tmp_path) == older.json
    (tmp_path / "confirm").mkdir()
    assert grid.home(planned, str(tmp_path), tmp_path) == planned.json
    (tmp_path / "confirm").rmdir()
    executed = []
    monkeypatch.setattr(grid, "execute", lambda run, data, folder, label: executed.append(run.name))
    for _ in range(2):
        grid.train_missing([planned], str(tmp_path), tmp_path, "made up")
        (tmp_path / f"{planned.name}.json").write_text("{}")
    told = capsys.readouterr().out
    assert executed == [planned.name] and "confirm is missing" in told and "is there; move it away" in told


@pytest.mark.parametrize("which", [[], ["--plan"]])
def test_a_run_is_repeated_beside_its_record(which, tmp_path, monkeypatch, capsys):
    """`again` trains by the record's options, leaves the record alone, and puts both curves side by side."""
    run = next(one for one in (ordered.planned_runs() if which else ordered.grid_runs()) if is_stored(one.json))
    before = {path: path.read_bytes() for path in run.json.parent.glob(f"{run.name}.*")}
    recorded = read_results(run.json)["model"]["history"]
    trained = []

    def train(config, folder, **options):
        trained.append(config)
        return SimpleNamespace(history=recorded, best_epoch=1)

    monkeypatch.setattr(grid, "train", train)
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    folder = run.json.parent
    monkeypatch.setattr(ordered, "RESULTS", tmp_path)  # of the table that is printed; the record stays where it is
    (tmp_path / folder.name).symlink_to(folder)
    words = ["again", *which, "--data", "DATA", "--folder", str(tmp_path / "runs"), "--only", run.name]
    monkeypatch.setattr(sys, "argv", ["grid.py", *words])
    grid.main()
    assert trained == [run.config("DATA")] and f"| {run.name} | 0 | 0 | 0 |" in capsys.readouterr().out
    written = read_results(tmp_path / "again" / f"{run.name}.json")
    assert written["curves"]["valid_loss"]["then"] == written["curves"]["valid_loss"]["now"]
    assert grid.arguments().parse_args(written["command"].split()[2:]).plan == bool(which)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("program", [grid, search])
def test_the_command_that_a_run_notes_is_understood(program):
    """What stands in a JSON as «command» starts the same run again."""
    if program is grid:
        words = ["train", "--plan", "--data", "DATA", "--folder", "RUNS", "--only", "C4_strict_20000_epochs6_seed0"]
        assert program.arguments().parse_args(words).plan
    else:
        words = [
            "train",
            "--data",
            "DATA",
            "--folder",
            "RUNS",
            "--group",
            "C4",
            "--width",
            "0.35",
            "--run",
            "equivariant_C4_w0.35_base",
        ]
    options = program.arguments().parse_args(words)
    assert (options.command, str(options.folder)) == ("train", "RUNS")
    with pytest.raises(SystemExit):
        program.arguments().parse_args(["train", "--folder", "RUNS"])
