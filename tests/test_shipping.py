"""`experiments/grid.py ship`: what a finished run leaves with the project, and what is refused."""

import hashlib
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "experiments"))
import grid  # noqa: E402
import runs as ordered  # noqa: E402

from equilib import results, self_test  # noqa: E402
from equilib.mobilenet import build, count_parameters  # noqa: E402
from equilib.runs import save_checkpoint, shipped_network  # noqa: E402

RUN = ordered.PlannedRun("C12_fieldwise", 1)


def without_self_test(source, target):
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, target)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder of results and one of runs: RUN has its JSON, its checkpoint and its INT8 model."""
    shipped, runs = tmp_path / "results", tmp_path / "runs"
    monkeypatch.setattr(ordered, "RESULTS", shipped)
    monkeypatch.setattr(grid, "RESULTS", shipped)
    monkeypatch.setattr(results, "shipped_folder", lambda name="": shipped / name)
    (shipped / "evidence").mkdir(parents=True), (runs / RUN.name).mkdir(parents=True)
    results.write_json(shipped / "checkpoints.json", {"another": {}})
    config = RUN.config("/somewhere/data")
    network = build(config.kind, config.network).eval()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint = {
        "equilib": config.to_dict(),
        "state_dict": state,
        "epoch": 5,
        "optimizer": {name: value.clone() for name, value in state.items()},
    }
    save_checkpoint(checkpoint, runs / RUN.name / "best.ckpt")
    measured = runs / f"{RUN.name}_int8.onnx"
    without_self_test(ROOT / "results" / "pcam_C4_w0.35_20000_seed0.onnx", measured)
    model = {"config": config.to_dict() | {"data": "data"}, "onnx_bytes": measured.stat().st_size, "best_epoch": 6}
    results.write_json(RUN.json, {"data": {"label": "made up"}, "command": "train it", "model": model})
    return shipped, runs


def test_a_run_ships_with_its_weights_its_file_and_how_it_was_made(folders):
    shipped, runs = folders
    grid.ship(RUN, runs)
    name = f"pcam_{RUN.name}"
    assert results.read_results(shipped / "checkpoints.json") == {
        "another": {},
        name: {
            "sha256": hashlib.sha256((shipped / f"{name}.pt").read_bytes()).hexdigest(),
            "int8 sha256": hashlib.sha256((shipped / f"{name}.onnx").read_bytes()).hexdigest(),
            "data": "made up, 20,000 training patches",
            "made by": "train it",
            "best epoch": 6,
        },
    }
    kept = onnx.load(results.shipped_int8(name))
    assert kept.graph == onnx.load(runs / f"{RUN.name}_int8.onnx").graph, "the measured file"
    assert [entry.key for entry in kept.metadata_props] == [self_test.KEY, self_test.DIGEST]
    network = shipped_network(name)
    assert network.config == RUN.config("").network and count_parameters(network) == 58_686
    assert (shipped / f"{name}.pt").stat().st_size < (runs / RUN.name / "best.ckpt").stat().st_size * 0.6
    assert b"somewhere" not in (shipped / f"{name}.pt").read_bytes(), "where the data lay is nobody's business"


def test_weights_can_stay_at_home(folders):
    shipped, runs = folders
    grid.ship(RUN, runs, int8_only=True)
    (name, entry) = list(results.read_results(shipped / "checkpoints.json").items())[-1]
    assert "int8 sha256" in entry and "sha256" not in entry
    assert (shipped / f"{name}.onnx").is_file() and not (shipped / f"{name}.pt").exists()


@pytest.mark.parametrize(
    "missing", ["{runs}/{name}/best.ckpt", "{runs}/{name}_int8.onnx", "{shipped}/evidence/{name}.json"]
)
def test_what_is_missing_is_named_and_nothing_ships(folders, missing):
    shipped, runs = folders
    path = Path(missing.format(shipped=shipped, runs=runs, name=RUN.name))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
        grid.ship(RUN, runs)
    assert set(results.read_results(shipped / "checkpoints.json")) == {"another"} and not list(shipped.glob("*.pt"))


def test_another_training_of_the_same_name_is_refused(folders):
    shipped, runs = folders
    record = results.read_results(RUN.json)
    for change in ({"onnx_bytes": 17}, {"config": record["model"]["config"] | {"learning_rate": 0.01}}):
        results.write_json(RUN.json, record | {"model": record["model"] | change})
        with pytest.raises(ValueError, match="holds another training than .*seed1.json"):
            grid.ship(RUN, runs)
    assert not list(shipped.glob("*.pt"))


def test_the_command_says_it_in_one_sentence(folders, monkeypatch, capsys):
    words = ["grid.py", "ship", "--plan", "--folder", str(folders[1]), "--only", "grouped12_20000_epochs6_seed1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        grid.main()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said and "grouped12_20000_epochs6_seed1.json is missing" in said


def test_packing_leaves_the_runs_readable(folders):
    before = results.read_results(RUN.json)
    grid.pack_all()
    assert not RUN.json.exists() and results.is_stored(RUN.json)
    assert results.read_results(RUN.json) == before
    assert (folders[0] / "checkpoints.json").is_file(), "only the records of runs are packed"
