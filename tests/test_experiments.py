"""The programs that make results: what they train, and that the READMEs show what they last gave."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "experiments"))
import angles  # noqa: E402
import grid  # noqa: E402
import readme  # noqa: E402
import search  # noqa: E402


def test_the_readmes_show_the_grid_and_the_search():
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


def test_the_grid_is_made_of_distinct_runs_that_can_be_built():
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

    chosen = (grid.ABLATION_DIVISOR, grid.SIZES[0][0], 0)
    configs = [one.config("data") for one in grid.runs() if (one.divisor, one.patches, one.seed) == chosen]
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
