"""The benchmarks run, and the README shows what they last gave.  No time is tested: that would test the machine."""

import json
import sys
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


def test_the_readmes_show_the_grid_and_the_search():
    from equilib.study import shipped_runs

    grid, search = pytest.importorskip("grid"), pytest.importorskip("search")
    assert readme.shown("grid") == grid.tables(shipped_runs())
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
        cells.setdefault((one.width, one.patches, one.seed), []).append((one.epochs, channels))
    sizes = {width: {len(cell) for (w, *_), cell in cells.items() if w == width} for width, *_ in cells}
    assert sizes == {0.35: {3}, 1.0: {3}, grid.NARROW: {1}} and all(len(set(cell)) == 1 for cell in cells.values())


def test_the_search_gives_both_networks_the_same_variations():
    search = pytest.importorskip("search")
    runs = search.runs("C4", 0.35)
    assert len({config.fingerprint for config in runs.values()}) == len(runs)
    for name, config in runs.items():
        twin = name.replace("conventional", "equivariant")
        assert config.kind == name.split("_")[0] and twin in runs
        if config.kind == "conventional":
            assert {**config.to_dict(), "kind": ""} == {**runs[twin].to_dict(), "kind": ""}
