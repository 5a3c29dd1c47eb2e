"""The search for a recipe: for each network the same list of variations, judged on validation patches alone.

    python experiments/search.py --data DATA --folder RUNS [--only PART …] [--run NAME] [--list] [--table]

Writes one JSON a run to results/search/.  Start it again and it goes on.  Test patches are never looked at here.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import readme
import torch

from equilib.mobilenet import KINDS, MobileNetConfig
from equilib.results import environment, read_results, write_json
from equilib.training import TrainConfig, train

RESULTS = Path(__file__).parent.parent / "results" / "search"
PATCHES, EPOCHS, VALID = 1000, 30, 1500
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
ARCHITECTURE = {"dropout", "group_pooling", "depthwise"}


def runs(group: str, width: float, divisor: int | None = None) -> dict[str, TrainConfig]:
    """Name to configuration (without its data), the variations in order, both networks in turn."""
    base = dict(train_limit=PATCHES, valid_limit=VALID, epochs=EPOCHS, batch_size=32, learning_rate=3e-3)
    size = f"{group}_w{width:g}" + (f"_m{divisor}" if divisor else "")
    found = {}
    for name, changes in VARIATIONS.items():
        network = MobileNetConfig(
            width=width,
            group=group,
            divisor=divisor,
            **{key: value for key, value in changes.items() if key in ARCHITECTURE},
        )
        recipe = {key: value for key, value in changes.items() if key not in ARCHITECTURE}
        for kind in KINDS:
            if kind == "equivariant" or name not in EQUIVARIANT_ONLY:
                found[f"{kind}_{size}_{name}"] = TrainConfig(kind, network, **base | recipe)
    return found


def execute(name: str, config: TrainConfig, data: str, folder: Path) -> None:
    network = config.network
    divisor = f"--divisor {network.divisor} " if network.divisor != network.symmetry.order else ""
    result = train(replace(config, data=data), folder / name, print_epochs=True, accelerator="cpu", devices=1)
    write_json(
        RESULTS / f"{name}.json",
        {
            "config": config.to_dict() | {"data": Path(data).name},
            "command": (
                f"python experiments/search.py --data DATA --folder RUNS --group {network.group} "
                f"--width {network.width:g} {divisor}--run {name}"
            ),
            "environment": environment(),
            "best_epoch": result.best_epoch,
            "history": list(result.history),
        },
    )


def table() -> str:
    """The runs that there are, in Markdown: the lowest validation loss, and the accuracy there."""
    lines = ["| run | epoch | validation loss | validation accuracy | training loss |", "|---|---:|---:|---:|---:|"]
    for path in sorted(RESULTS.glob("*.json")):
        contents = read_results(path)
        best = contents["history"][contents["best_epoch"] - 1]
        lines.append(
            f"| {path.stem} | {best['epoch']} of {len(contents['history'])} | {best['valid_loss']:.3f} "
            f"| {100 * best['valid_accuracy']:.1f} % | {best['train_loss']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the .h5 files")
    parser.add_argument("--folder", type=Path, help="where the runs keep their checkpoints")
    parser.add_argument("--group", default="C4")
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--divisor", type=int, help="channels are multiples of it, by default of the group's order")
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name contains one of these")
    parser.add_argument("--run", help="the run of exactly this name")
    parser.add_argument("--list", action="store_true", help="say which runs are done and which are missing")
    parser.add_argument("--table", action="store_true", help="print the results, renew results/README.md")
    options = parser.parse_args()
    if options.table:
        print(table())
        readme.write("search", table(), readme.RESULTS)
        return
    chosen = {
        name: config
        for name, config in runs(options.group, options.width, options.divisor).items()
        if (name == options.run if options.run else any(part in name for part in options.only))
    }
    if not chosen:
        parser.error("no run has such a name; --list shows them all")
    if options.list:
        for name in chosen:
            print("done   " if (RESULTS / f"{name}.json").exists() else "missing", name)
        return
    if not (options.data and options.folder):
        parser.error("--data and --folder are needed")
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, config in chosen.items():
        done = RESULTS / f"{name}.json"
        if done.exists():
            earlier = TrainConfig.from_dict(read_results(done)["config"])
            if replace(earlier, data=config.data) != config:
                parser.error(f"{done} is of another configuration; move it away to train this one")
        else:
            print(name, flush=True)
            execute(name, config, options.data, options.folder)


if __name__ == "__main__":
    main()
