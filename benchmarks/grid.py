"""The learning curve: both networks at several numbers of training patches and seeds, one JSON a run in results/grid/.

    python benchmarks/grid.py --data DATA --folder RUNS [--only 1000]

Start it again and it goes on: runs that have their JSON are skipped, the one that was interrupted continues after its
last finished epoch.  `--list` shows what there is and what is missing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from equilib.experiment import environment, measure
from equilib.mobilenet import KINDS, MobileNetConfig
from equilib.training import TrainConfig, train, write_json

RESULTS = Path(__file__).parent.parent / "results" / "grid"
# Patches, epochs: about as many steps as the validation loss needs to stop falling.
SIZES = ((1000, 30), (4000, 20), (20000, 12))
SEEDS = (0, 1, 2)
WIDTHS = (("C4", 0.35), ("C12", 0.35), ("C12", 1.0))


@dataclass(frozen=True)
class Run:
    """One training of the grid."""

    kind: str
    group: str
    width: float
    patches: int
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.group}_w{self.width:g}_{self.patches}_seed{self.seed}"

    def config(self, data: str) -> TrainConfig:
        return TrainConfig(
            self.kind,
            MobileNetConfig(width=self.width, group=self.group),
            data=data,
            train_limit=self.patches,
            epochs=self.epochs,
            batch_size=32,
            learning_rate=3e-3,
            seed=self.seed,
        )


def runs() -> list[Run]:
    """All of them, cheap ones first."""
    return [
        Run(kind, group, width, patches, epochs, seed)
        for group, width in WIDTHS
        for patches, epochs in SIZES
        for seed in SEEDS
        for kind in KINDS
    ]


def execute(run: Run, data: str, folder: Path, label: str) -> None:
    """Train (or continue), measure, and write the JSON."""
    config = run.config(data)
    result = train(config, folder / run.name, print_epochs=True, accelerator="cpu", devices=1)
    write_json(
        RESULTS / f"{run.name}.json",
        {
            "data": {"label": label, "train": run.patches},
            "seed": run.seed,
            "command": f"python benchmarks/grid.py --only {run.name}",
            "environment": environment(),
            "model": measure(result, config, folder / f"{run.name}_int8.onnx"),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the .h5 files")
    parser.add_argument("--folder", type=Path, help="where the runs keep their checkpoints")
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose name contains one of these")
    parser.add_argument("--label", default="PCam subset, 20k JPEG", help="what the data is")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [run for run in runs() if any(part in run.name for part in options.only)]
    if options.list:
        for run in chosen:
            print("done   " if (RESULTS / f"{run.name}.json").exists() else "missing", run.name)
        return
    if not (options.data and options.folder):
        parser.error("--data and --folder are needed")
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in chosen:
        if not (RESULTS / f"{run.name}.json").exists():
            print(run.name, flush=True)
            execute(run, options.data, options.folder, options.label)


if __name__ == "__main__":
    main()
