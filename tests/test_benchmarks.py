"""The benchmarks run, and the README shows what they last gave.  No time is tested: that would test the machine."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
readme = pytest.importorskip("readme")
run = pytest.importorskip("run")
networks = pytest.importorskip("networks")


def test_the_readme_shows_the_saved_tables():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert readme.shown("make bench") == run.tables(saved)


def test_each_part_keeps_the_machine_that_it_was_measured_on():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert set(saved["measured"]) == set(run.PARTS)
    machines = {"training": "a", "deployment": "b", "redraw": "a"}
    saved["measured"] = {name: {"date": "today", "environment": {"processor": cpu}} for name, cpu in machines.items()}
    assert "Measured on: training, redraw: processor a; today; deployment: processor b; today." in run.tables(saved)


def test_the_readmes_show_the_grid_and_the_search():
    grid, search = pytest.importorskip("grid"), pytest.importorskip("search")
    for path, tables in grid.tables().items():
        for name, text in tables.items():
            assert readme.shown(name, path) == text
    assert readme.shown("search", readme.RESULTS) == search.table()


def test_tables_are_put_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a: begin -->\nold\n<!-- a: end -->\ntail\n")
    readme.write("a", "new\nrows", page)
    assert page.read_text() == "head\n<!-- a: begin -->\nnew\nrows\n<!-- a: end -->\ntail\n"
    assert readme.shown("a", page) == "new\nrows"
    with pytest.raises(ValueError, match="page.md must hold <!-- b: begin -->"):
        readme.shown("b", page)


def test_every_part_gives_figures():
    threads = torch.get_num_threads()
    rows = run.training(True) + run.inference(True)
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    assert all(row["ratio"]["conventional"] == 1 for row in rows)
    assert all(row["equilib"] > 0 for row in run.data_path(True, 0.3))
    assert torch.get_num_threads() == threads
    redrawn = run.redraw(True)
    assert len(redrawn) == 6 and all(min(row["ms"].values()) > 0 for row in redrawn)


@pytest.mark.parametrize("variant", ["e2cnn, strict", "e2cnn, field-wise"])
def test_the_yardstick_is_equivariant_and_has_our_parameters(variant):
    """…so that it is the same network, by other layers."""
    from equilib.equivariance import assert_equivariant
    from equilib.mobilenet import MobileNetConfig, build, count_parameters, estimate_statistics

    net = networks.network(variant, 0.35, "C4")
    depthwise = "fieldwise" if variant == "e2cnn, field-wise" else "strict"
    ours = build("equivariant", MobileNetConfig(width=0.35, group="C4", depthwise=depthwise))
    assert count_parameters(net) == count_parameters(ours)
    assert not any(type(module).__name__ == "FieldBatchNorm" for module in net.modules())
    images = torch.randn(8, 3, 95, 95)
    estimate_statistics(net, images)
    assert_equivariant(net, images, tolerance=1e-4)  # single precision, and e2cnn does not tie its copies


def test_the_grid_is_made_of_distinct_runs_that_can_be_built():
    grid = pytest.importorskip("grid")
    runs = grid.runs()
    assert len({one.name for one in runs}) == len(runs)
    configs = {one.config("data").fingerprint for one in runs}
    assert len(configs) == len(runs)
    cells = {}
    for one in runs:  # all networks of a cell see the same patches in the same order, and have the same channels
        network = one.config("data").network
        channels = tuple(block.outputs for block in network.blocks)
        cells.setdefault((one.divisor, one.width, one.patches, one.seed), []).append((one.epochs, channels))
    sizes = {}
    for (divisor, width, patches, _), cell in cells.items():
        sizes.setdefault((divisor, width, patches), set()).add(len(cell))
    few, *_, most = (patches for patches, _ in grid.SIZES)
    expected = {(grid.DIVISOR, 0.35): 3, (grid.DIVISOR, 1.0): 3, (grid.DIVISOR, grid.NARROW): 1}
    assert sizes == {(*key, patches): {count} for key, count in expected.items() for patches, _ in grid.SIZES} | {
        (grid.ABLATION_DIVISOR, 0.35, few): {len(grid.ABLATION_NETWORKS) + 1},  # and the control
        (grid.ABLATION_DIVISOR, 0.35, most): {len(grid.ABLATION_CHOSEN)},
    }
    assert set(grid.ABLATION_CHOSEN) < set(grid.ABLATION_NETWORKS)
    assert all(len(set(cell)) == 1 for cell in cells.values())


def test_the_control_differs_from_the_conventional_network_in_its_recipe_alone():
    grid = pytest.importorskip("grid")
    configs = {one.name: one.config("data") for one in grid.runs() if one.divisor == grid.ABLATION_DIVISOR}
    for seed in grid.SEEDS:
        control = configs[f"conventional_any_angle_w0.35_m24_1000_seed{seed}"]
        plain = configs[f"conventional_w0.35_m24_1000_seed{seed}"]
        trained_alike = configs[f"C4_w0.35_m24_1000_seed{seed}"]
        assert replace(control, **grid.RECIPES["conventional"], any_angle=0.0) == plain
        assert replace(control, kind="equivariant") == trained_alike


def test_networks_of_the_ablation_can_be_built():
    """…with the same channels, whatever the group; fewer parameters the larger it is, as weights are shared."""
    from equilib.mobilenet import build, count_parameters

    grid = pytest.importorskip("grid")
    chosen = (grid.ABLATION_DIVISOR, grid.SIZES[0][0], 0)
    configs = [one.config("data") for one in grid.runs() if (one.divisor, one.patches, one.seed) == chosen]
    counts = {
        (config.kind, config.network.group, config.network.depthwise): count_parameters(build(config.kind, config.network))
        for config in configs
    }
    strict = [counts["equivariant", group, "strict"] for group in ("C1", "C4", "C12", "D12")]
    assert strict == sorted(strict, reverse=True)
    # The band limit alone takes a third of the filters of 3x3, and nothing else, from the conventional network.
    assert 0.9 < strict[0] / counts["conventional", "C4", "strict"] < 1
    assert all(counts["equivariant", group, "fieldwise"] > counts["equivariant", group, "strict"] for group in ("C4", "C12"))
    assert counts["conventional", "C4", "grouped"] > counts["conventional", "C4", "strict"]


def test_the_sweep_turns_patches_and_the_control_turns_them_back():
    angles = pytest.importorskip("angles")
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
    search = pytest.importorskip("search")
    runs = search.runs("C4", 0.35)
    assert len({config.fingerprint for config in runs.values()}) == len(runs)
    for name, config in runs.items():
        twin = name.replace("conventional", "equivariant")
        assert config.kind == name.split("_")[0] and twin in runs
        if config.kind == "conventional":
            assert {**config.to_dict(), "kind": ""} == {**runs[twin].to_dict(), "kind": ""}
