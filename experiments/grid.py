"""Train the networks of the grid and the ablation (results/grid/, results/ablation/), and those of results/PLAN.md.

    python experiments/grid.py list [--plan]                                       what there is, what is missing
    python experiments/grid.py train [--plan] --data DATA --folder RUNS [--only 1000]    train and measure what is missing
    python experiments/grid.py again [--plan] --data DATA --folder RUNS --only C4_w0.35_1000_seed0    does it come out the same?
    python experiments/grid.py ship [--plan] --folder RUNS --only C4_w0.35_20000_seed0   keep weights and INT8 model in results/
    python experiments/grid.py pack                                                the JSONs of runs, compressed
    python experiments/grid.py confirm                                             complete contrasts on the sealed patches
    python experiments/grid.py tables                                              print all tables, renew the READMEs

`--plan` means the runs of results/PLAN.md, in its order.  One JSON a run.  Start it again and it goes on: runs that have
their JSON are skipped, the one that was interrupted continues after its last finished epoch.  Several processes with the
same folder share the work.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from runs import RECORDS, RESULTS, PlannedRun, Run, grid_runs, planned_runs
from tables import again_table, confirmation_table, renew

from equilib import device
from equilib.cli.process import until_closed
from equilib.experiment import data_label, measure, score
from equilib.mobilenet import exported
from equilib.pcam import Patches
from equilib.results import environment, is_stored, pack, read_results, write_json, written_whole
from equilib.runs import read_checkpoint, save_weights
from equilib.training import train


def home(run: Run | PlannedRun, data: str, folder: Path) -> Path:
    """Where a run's JSON goes: into results/, or beside the run if it is the plan's and there are no confirmation patches.

    In results/ the tables would ask for its answers on these.
    """
    complete = run.confirmation is None or (Path(data) / "confirm").is_dir()
    return run.json if complete else folder / f"{run.name}.json"


def execute(run: Run | PlannedRun, data: str, folder: Path, label: str) -> None:
    """Train (or continue), measure, and write the JSON."""
    config = run.config(data)
    result = train(config, folder / run.name, print_epochs=True, accelerator="cpu", devices=1)
    model = measure(
        result,
        config,
        folder / f"{run.name}_int8.onnx",
        angles=(30, 90),
        measured=200,
        further={"valid": Patches(data, "valid")},
    )
    confirmation = Path(data) / "confirm"
    if run.confirmation and confirmation.is_dir():
        run.confirmation.parent.mkdir(parents=True, exist_ok=True)
        session = device.session(folder / f"{run.name}_int8.onnx")
        answers = score(exported(result.network), session, Patches(confirmation, "test"), config.network.input_size)
        write_json(run.confirmation, answers)
    write_json(
        home(run, data, folder),
        {
            "data": {"label": label, "train": run.patches},
            "seed": run.seed,
            "command": f"python experiments/grid.py train {run.options}--data DATA --folder RUNS --only {run.name}",
            "environment": environment(),
            "model": model,
        },
    )


def repeat(run: Run | PlannedRun, data: str, folder: Path) -> None:
    """Train a run that has its JSON once more, and keep both validation curves in results/again/; the JSON stays."""
    before = read_results(run.json)
    result = train(run.config(data), folder / "again" / run.name, print_epochs=True, accelerator="cpu", devices=1)
    curves = {
        name: {
            "then": [epoch[name] for epoch in before["model"]["history"]],
            "now": [epoch[name] for epoch in result.history],
        }
        for name in ("train_loss", "valid_loss", "valid_accuracy")
    }
    (RESULTS / "again").mkdir(exist_ok=True)
    write_json(
        RESULTS / "again" / f"{run.name}.json",
        {
            "command": f"python experiments/grid.py again {run.options}--data DATA --folder RUNS --only {run.name}",
            "environment": {"then": before["environment"], "now": environment()},
            "best_epoch": {"then": before["model"]["best_epoch"], "now": result.best_epoch},
            "curves": curves,
        },
    )


def ship(run: Run | PlannedRun, folder: Path, *, int8_only: bool = False) -> None:
    """Keep the weights and the INT8 model of a finished run with the project; checkpoints.json and the model card follow.

    The INT8 file is the one that was measured: made anew on another processor, weights may round the other way.  Where
    it was written before files carried a self-test, it gets one.

    Args:
        run: has its JSON.
        folder: of the runs, with ``<name>/best.ckpt`` and ``<name>_int8.onnx``.
        int8_only: leave out the trained weights, which of a conventional network are most of the bytes.

    Raises:
        FileNotFoundError: the run has no JSON, or the folder lacks one of its files.
        ValueError: the files are of another run than the JSON.
    """
    contents = read_results(run.json)
    checkpoint, model = folder / run.name / "best.ckpt", folder / f"{run.name}_int8.onnx"
    for path in (checkpoint, model):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: --folder must be where {run.name} was trained")
    config, figures = read_checkpoint(checkpoint)["equilib"], contents["model"]
    # Records of before an option existed lack it; what they have must be the checkpoint's.
    known = {name: value for name, value in figures["config"].items() if name not in ("data", "network")}
    if any(config[name] != value for name, value in known.items()) or model.stat().st_size != figures["onnx_bytes"]:
        raise ValueError(f"{folder} holds another training than {run.json}: its options or the size of its file differ")
    name = f"pcam_{run.name}"
    with written_whole(RESULTS / f"{name}.onnx") as temporary:
        temporary.write_bytes(model.read_bytes())
        device.add_self_test(temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    entry = {
        "int8 sha256": digest,
        "data": f"{contents['data']['label']}, {run.patches:,} training patches",
        "made by": contents["command"],
        "best epoch": figures["best_epoch"],
    }
    if not int8_only:
        entry = {"sha256": save_weights(checkpoint, RESULTS / f"{name}.pt")} | entry
    write_json(RESULTS / "checkpoints.json", read_results(RESULTS / "checkpoints.json") | {name: entry})


def pack_all() -> None:
    """Compress the JSONs of runs, so that results/ stays small; what is packed already stays as it is.  None is read."""
    for name in RECORDS:
        for path in sorted((RESULTS / name).glob("*.json")):
            print(pack(path).relative_to(RESULTS))


def named(runs: Sequence[Run | PlannedRun], parts: Sequence[str]) -> list[Run | PlannedRun]:
    """The runs of these names.  What is no whole name is a part of some, and means all of these."""
    whole = {run.name for run in runs}
    return [run for run in runs if any(run.name == part or (part not in whole and part in run.name) for part in parts)]


def show(chosen: Sequence[Run | PlannedRun]) -> None:
    """Say of each run whether its JSON is there."""
    for run in chosen:
        print("done   " if is_stored(run.json) else "missing", run.name)


def train_missing(chosen: Sequence[Run | PlannedRun], data: str, folder: Path, label: str) -> None:
    """Train the runs that have no JSON and that no other process is at."""
    for run in chosen:
        with open(folder / f"{run.name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when the process ends, however
            except BlockingIOError:
                continue
            target = home(run, data, folder)
            there = [path for path in (run.json, target) if is_stored(path)]
            if not there:
                target.parent.mkdir(parents=True, exist_ok=True)
                why = "" if target == run.json else f", for {Path(data) / 'confirm'} is missing"
                print(f"{run.name}: its results go to {target}{why}", flush=True)
                execute(run, data, folder, label)
            else:
                print(f"{run.name}: {there[0]} is there; move it away to train the run again", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables", help="print the tables of all results, renew the READMEs")
    commands.add_parser("pack", help="compress the JSONs of runs in results/")
    commands.add_parser("confirm", help="the plan's complete contrasts on the confirmation patches")
    for name, summary in (
        ("list", "which runs are done and which are missing"),
        ("train", "train and measure what is missing"),
        ("again", "train runs that have their JSON once more, and compare; the JSON stays"),
        ("ship", "put weights and INT8 models of finished runs into results/"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "--only", nargs="+", default=[""], help="runs of these names; of a part of a name, all that contain it"
        )
        command.add_argument("--plan", action="store_true", help="the runs of results/PLAN.md instead of the grid's")
        if name in ("train", "again"):
            command.add_argument("--data", required=True, help="folder of the .h5 files")
        if name == "train":
            command.add_argument(
                "--label", help="what the data is, such as 'PCam subset, 20k JPEG'; else its sizes or folder say it"
            )
        if name == "ship":
            command.add_argument("--int8-only", action="store_true", help="leave out the trained weights")
        if name != "list":
            command.add_argument("--folder", type=Path, required=True, help="where the runs keep their checkpoints")
    return parser


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    if options.command == "tables":
        renew()
        return
    if options.command == "pack":
        pack_all()
        return
    if options.command == "confirm":
        try:
            told = confirmation_table()
        except (OSError, ValueError) as error:
            sys.exit(f"grid.py: {error}")
        print(told)
        return
    chosen = named(planned_runs() if options.plan else grid_runs(), options.only)
    if not chosen:
        parser.error("no run has such a name; `list` shows those of the grid, `list --plan` those of the plan")
    if options.command == "list":
        show(chosen)
    elif options.command == "ship":
        try:
            for run in chosen:
                ship(run, options.folder, int8_only=options.int8_only)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        renew("files", "networks")
    else:
        torch.set_num_threads(1)
        options.folder.mkdir(parents=True, exist_ok=True)
        if options.command == "train":
            train_missing(chosen, options.data, options.folder, options.label or data_label(options.data))
        else:
            for run in chosen:
                repeat(run, options.data, options.folder)
            print(again_table())


if __name__ == "__main__":
    sys.exit(until_closed(main))
