"""The search for a recipe: for each network the same list of variations, judged on validation patches alone.

    python experiments/search.py list                                    which runs are done and which are missing
    python experiments/search.py train --data DATA --folder RUNS [--only PART …] [--run NAME]

Writes one JSON a run to results/search/; `python experiments/grid.py tables` puts them in a table.  Start it again and it goes
on.  Test patches are never looked at here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from runs import BATCH_SIZE, RESULTS, VALID_PATCHES

from equilib.cli.options import count
from equilib.cli.process import until_closed
from equilib.fields import Group
from equilib.mobilenet import KINDS, MobileNetConfig
from equilib.results import environment, is_stored, read_results, write_json
from equilib.training import TrainConfig, train
from equilib.variant import Variant

FOLDER = RESULTS / "search"
PATCHES, EPOCHS = 1000, 30
# What each variation changes in the recipe; the same for both networks.
VARIATIONS = {
    "base": {},
    "no_augmentation": {"augmentation": False},
    "stain0.1": {"stain": 0.1},
    "stain0.1_any_angle": {"stain": 0.1, "any_angle": 1.0},
    "stain0.1_any_angle_lr1e-2": {"stain": 0.1, "any_angle": 1.0, "learning_rate": 1e-2},
    # Statistics of batch normalization from patches that were not turned (and so not blurred by interpolation).
    "stain0.1_any_angle_recalibrated": {"stain": 0.1, "any_angle": 1.0, "recalibrate": 512},
    "stain0.1_any_angle_recalibrated_lr1e-2": {
        "stain": 0.1,
        "any_angle": 1.0,
        "recalibrate": 512,
        "learning_rate": 1e-2,
    },
    "stain0.1_recalibrated_lr1e-2": {"stain": 0.1, "recalibrate": 512, "learning_rate": 1e-2},
    # Half of the patches are not turned, and stay sharp.
    "stain0.1_any_angle0.5_recalibrated": {"stain": 0.1, "any_angle": 0.5, "recalibrate": 512},
    # How much of a difference is chance: two of them again, with another seed.
    "base_seed1": {"seed": 1},
    "stain0.1_any_angle_seed1": {"stain": 0.1, "any_angle": 1.0, "seed": 1},
    "stain0.1_lr1e-3": {"stain": 0.1, "learning_rate": 1e-3},
    "stain0.1_lr1e-2": {"stain": 0.1, "learning_rate": 1e-2},
    "stain0.1_dropout0.5": {"stain": 0.1, "dropout": 0.5},
    "stain0.1_decay0.5": {"stain": 0.1, "weight_decay": 0.5},
    "stain0.3": {"stain": 0.3},
    "stain0.1_max": {"stain": 0.1, "group_pooling": "max"},
    "stain0.1_fieldwise": {"stain": 0.1, "depthwise": "fieldwise"},
}
# These mean nothing to a conventional network.
EQUIVARIANT_ONLY = {"stain0.1_max", "stain0.1_fieldwise"}
# What of a variation is the network's; the rest is the recipe's.
NETWORK = {"dropout", "group_pooling"}


def runs(group: str, width: float, divisor: int | None = None) -> dict[str, TrainConfig]:
    """Name to configuration (without its data), the variations in order, both networks in turn."""
    base = dict(
        train_limit=PATCHES, valid_limit=VALID_PATCHES, epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=3e-3
    )
    size = f"{group}_w{width:g}" + (f"_m{divisor}" if divisor else "")
    found = {}
    for name, changes in VARIATIONS.items():
        recipe = dict(changes)
        depthwise = recipe.pop("depthwise", "strict")
        options = {key: recipe.pop(key) for key in NETWORK & set(recipe)}
        for kind in KINDS:
            if kind == "conventional" and name in EQUIVARIANT_ONLY:
                continue
            variant = Variant(kind, group, depthwise, width=width, divisor=divisor or Group.parse(group).order)
            network = MobileNetConfig(**variant.architecture, **options)
            found[f"{kind}_{size}_{name}"] = TrainConfig(kind, network, **base | recipe)
    return found


def execute(name: str, config: TrainConfig, data: str, folder: Path) -> None:
    network = config.network
    divisor = f"--divisor {network.divisor} " if network.divisor != network.symmetry.order else ""
    result = train(replace(config, data=data), folder / name, print_epochs=True, accelerator="cpu", devices=1)
    write_json(
        FOLDER / f"{name}.json",
        {
            "config": config.to_dict() | {"data": Path(data).name},
            "command": (
                f"python experiments/search.py train --data DATA --folder RUNS --group {network.group} "
                f"--width {network.width:g} {divisor}--run {name}"
            ),
            "environment": environment(),
            "best_epoch": result.best_epoch,
            "history": list(result.history),
        },
    )


def train_missing(chosen: Mapping[str, TrainConfig], data: str, folder: Path) -> None:
    """Train the runs that have no JSON.

    Raises:
        ValueError: a JSON is there, of another configuration.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, config in chosen.items():
        done = FOLDER / f"{name}.json"
        if is_stored(done):
            earlier = TrainConfig.from_dict(read_results(done)["config"])
            if replace(earlier, data=config.data) != config:
                raise ValueError(f"{done} is of another configuration; move it away to train this one")
        else:
            print(name, flush=True)
            execute(name, config, data, folder)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("list", "say which runs are done and which are missing"),
        ("train", "train what is missing"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--group", default="C4")
        command.add_argument("--width", type=float, default=0.35)
        command.add_argument(
            "--divisor", type=count, help="channels are multiples of it, by default of the group's order"
        )
        command.add_argument("--only", nargs="+", default=[""], help="runs whose name contains one of these")
        command.add_argument("--run", help="the run of exactly this name")
        if name == "train":
            command.add_argument("--data", required=True, help="folder of the .h5 files")
            command.add_argument("--folder", type=Path, required=True, help="where the runs keep their checkpoints")
    return parser


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    chosen = {
        name: config
        for name, config in runs(options.group, options.width, options.divisor).items()
        if (name == options.run if options.run else any(part in name for part in options.only))
    }
    if not chosen:
        parser.error("no run has such a name; `list` shows them all")
    if options.command == "list":
        for name in chosen:
            print("done   " if is_stored(FOLDER / f"{name}.json") else "missing", name)
        return
    torch.set_num_threads(1)
    try:
        train_missing(chosen, options.data, options.folder)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(until_closed(main))
