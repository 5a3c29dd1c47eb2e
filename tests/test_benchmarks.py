"""The benchmarks run, and the README shows what they last gave.  No time is tested: that would test the machine."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import data_path  # noqa: E402
import fresh  # noqa: E402
import networks  # noqa: E402
import speed  # noqa: E402

from equilib import marks  # noqa: E402


def test_the_readmes_show_the_saved_tables():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert marks.shown("make bench", ROOT / "benchmarks" / "README.md") == speed.tables(saved)
    assert marks.shown("latency", ROOT / "README.md") == speed.latency_table(saved)


def test_each_part_keeps_the_machine_that_it_was_measured_on():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert set(saved["measured"]) == set(speed.PARTS)
    machines = {"training": "a", "deployment": "b", "redraw": "a"}
    saved["measured"] = {name: {"date": "today", "environment": {"processor": cpu}} for name, cpu in machines.items()}
    assert "Measured on: training, redraw: processor a; today; deployment: processor b; today." in speed.tables(saved)


def test_every_part_gives_figures():
    threads = torch.get_num_threads()
    rows = speed.training(True) + speed.inference(True)
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    assert all(row["ratio"]["conventional"] == 1 for row in rows)
    assert all(row["equilib"] > 0 for row in data_path.data_path(True, 0.3))
    assert torch.get_num_threads() == threads
    redrawn = speed.redraw(True)
    assert len(redrawn) == 6 and all(min(row["ms"].values()) > 0 for row in redrawn)


@pytest.mark.slow
def test_parts_in_a_process_of_their_own():
    assert fresh.in_fresh_process("memory", "equilib", 0.35, "C4")["mib"] > 10
    assert fresh.in_fresh_process("construction", "equivariant", 0.35, "C4")["build"] > 0
    with pytest.raises(RuntimeError, match="process failed"):
        fresh.in_fresh_process("nothing", "equilib", 0.35, "C4")


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
