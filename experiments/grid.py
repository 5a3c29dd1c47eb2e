"""The learning curve: both networks at several numbers of training patches and seeds, one JSON a run in results/grid/;
and the ablation, networks for several groups with the same channels, in results/ablation/.

    python experiments/grid.py --data DATA --folder RUNS [--only 1000]     train what is missing
    python experiments/grid.py --data DATA --folder RUNS --plan            the runs of results/PLAN.md, in its order
    python experiments/grid.py --tables                                    print the tables, renew both READMEs
    python experiments/grid.py --data DATA --folder RUNS --again --only C4_w0.35_1000_seed0    does it come out the same?

Start it again and it goes on: runs that have their JSON are skipped, the one that was interrupted continues after its
last finished epoch.  Several processes with the same folder share the work.  `--list` shows what there is and what is missing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import readme
import torch

from equilib import device, study
from equilib.experiment import data_label, measure, score, table
from equilib.mobilenet import MobileNetConfig, exported
from equilib.pcam import Patches
from equilib.results import environment, markdown_table, read_results, write_json
from equilib.training import TrainConfig, save_weights, train

RESULTS = Path(__file__).parent.parent / "results"
# Training patches, epochs.  At 1,000 and 4,000 the lowest validation loss comes before the last epoch.
SIZES = ((1000, 30), (4000, 12), (20000, 6))
SEEDS = (0, 1, 2)
# Every network has channels in multiples of 12, so that one conventional network compares with both groups.
DIVISOR = 12
# A conventional network with about the parameters of the one for C4 at width 0.35 (94,898 and 79,508).
NARROW = 0.15
# Of the ablation: 24 is the least multiple of all orders, so that all networks have the same channels.
ABLATION_DIVISOR = 24
ABLATION_NETWORKS = (
    ("conventional", "C4", "strict"),
    ("equivariant", "C1", "strict"),  # the control: no symmetry, only e2cnn's band limit (6 filters of 9)
    ("equivariant", "C4", "strict"),
    ("equivariant", "C12", "strict"),
    ("equivariant", "D4", "strict"),
    ("equivariant", "D12", "strict"),
    ("equivariant", "C4", "fieldwise"),
    ("equivariant", "C12", "fieldwise"),
    ("conventional", "C4", "grouped"),  # the control of the field-wise C4: the same layers, nothing shared
)
# The equivariant one of the ablation with the lowest validation loss at 1,000 patches, and the conventional ones of the same
# channels: also with the most patches.  Does what is gained by more filters stay when there are more patches?
ABLATION_CHOSEN = (
    ("conventional", "C4", "strict"),
    ("conventional", "C4", "grouped"),
    ("equivariant", "C4", "fieldwise"),
)
# What the search on validation patches picked for each network (experiments/search.py).
RECIPES = {
    "conventional": {"stain": 0.1, "learning_rate": 1e-2, "recalibrate": 512},
    "equivariant": {"stain": 0.1, "any_angle": 1.0, "learning_rate": 3e-3, "recalibrate": 512},
}


@dataclass(frozen=True)
class Run:
    """One training of the grid."""

    kind: str
    group: str
    width: float
    patches: int
    epochs: int
    seed: int
    divisor: int = DIVISOR
    depthwise: str = "strict"
    recipe: str = ""  # whose training it gets; by default that of its kind

    @property
    def name(self) -> str:
        network = self.kind if self.kind == "conventional" else self.group
        if self.recipe:
            network += "_any_angle"
        depthwise = f"_{self.depthwise}" if self.depthwise != "strict" else ""
        divisor = f"_m{self.divisor}" if self.divisor != DIVISOR else ""
        return f"{network}{depthwise}_w{self.width:g}{divisor}_{self.patches}_seed{self.seed}"

    @property
    def json(self) -> Path:
        """Where its figures are kept."""
        return RESULTS / ("grid" if self.divisor == DIVISOR else "ablation") / f"{self.name}.json"

    def config(self, data: str) -> TrainConfig:
        return TrainConfig(
            self.kind,
            MobileNetConfig(width=self.width, group=self.group, divisor=self.divisor, depthwise=self.depthwise),
            data=data,
            train_limit=self.patches,
            valid_limit=1500,
            epochs=self.epochs,
            batch_size=32,
            seed=self.seed,
            **RECIPES[self.recipe or self.kind],
        )


NETWORKS = (("conventional", "C4"), ("equivariant", "C4"), ("equivariant", "C12"))

# --- results/PLAN.md ---

PLAN_RECIPE = {"stain": 0.1, "any_angle": 1.0, "recalibrate": 512}
PLAN_LEARNING_RATE = 3e-3
PLAN_EPOCHS, END_EPOCHS = 6, 24
# Name, and what of MobileNetConfig makes it.
PLAN_NETWORKS = {
    "conventional": ("conventional", {"group": "C4", "depthwise": "strict"}),
    "grouped4": ("conventional", {"group": "C4", "depthwise": "grouped"}),
    "grouped12": ("conventional", {"group": "C12", "depthwise": "grouped"}),
    "C1_fieldwise": ("equivariant", {"group": "C1", "depthwise": "fieldwise"}),
    "C4_strict": ("equivariant", {"group": "C4", "depthwise": "strict"}),
    "C4_fieldwise": ("equivariant", {"group": "C4", "depthwise": "fieldwise"}),
    "C4_fieldwise_pixels": ("equivariant", {"group": "C4", "depthwise": "fieldwise", "band_limit": False}),
    "C12_fieldwise": ("equivariant", {"group": "C12", "depthwise": "fieldwise"}),
    "D4_fieldwise": ("equivariant", {"group": "D4", "depthwise": "fieldwise"}),
}


@dataclass(frozen=True)
class PlannedRun:
    """One training of results/PLAN.md: 20,000 patches, width 0.35, channels in multiples of 24, one recipe for all."""

    network: str
    seed: int
    epochs: int = PLAN_EPOCHS
    learning_rate: float = PLAN_LEARNING_RATE
    patches: int = 20_000

    @property
    def name(self) -> str:
        rate = f"_lr{self.learning_rate:g}" if self.learning_rate != PLAN_LEARNING_RATE else ""
        return f"{self.network}_{self.patches}_epochs{self.epochs}{rate}_seed{self.seed}"

    @property
    def json(self) -> Path:
        return RESULTS / "evidence" / f"{self.name}.json"

    @property
    def confirmation(self) -> Path:
        """Its answers on the confirmation patches; no table reads them before the floor of the plan is done."""
        return RESULTS / "evidence" / "confirmation" / f"{self.name}.json"

    def config(self, data: str) -> TrainConfig:
        kind, options = PLAN_NETWORKS[self.network]
        return TrainConfig(
            kind,
            MobileNetConfig(width=0.35, divisor=ABLATION_DIVISOR, **options),
            data=data,
            train_limit=self.patches,
            valid_limit=1500,
            epochs=self.epochs,
            batch_size=32,
            learning_rate=self.learning_rate,
            seed=self.seed,
            **PLAN_RECIPE,
        )


def planned_runs() -> list[PlannedRun]:
    """The plan's runs in its order: what is worth most comes first."""
    four = ("C12_fieldwise", "conventional", "grouped4", "C4_fieldwise")
    pair = four[:2]
    floor = [PlannedRun(network, 0) for network in (*four, "grouped12", "C4_strict")]
    floor += [PlannedRun(network, 1) for network in pair]
    floor += [PlannedRun(network, 2) for network in pair]
    floor += [PlannedRun(network, seed) for seed in (1, 2) for network in four[2:]]
    floor += [PlannedRun(network, 1) for network in ("grouped12", "C4_strict")]
    ends = [
        PlannedRun(network, seed, END_EPOCHS)
        for networks in (pair, four[2:])
        for seed in (0, 1)
        for network in networks
    ]
    rates = [
        PlannedRun(network, 0, learning_rate=rate)
        for rate in (1e-3, 1e-2)
        for network in (*four, "grouped12", "C4_strict")
    ]
    rest = [PlannedRun(network, seed) for seed in (0, 1, 2) for network in ("C4_fieldwise_pixels", "C1_fieldwise")]
    rest += [PlannedRun(network, 2) for network in ("grouped12", "C4_strict")]
    return floor + ends + rates + rest


def runs() -> list[Run]:
    """All of them, in an order in which a part of the list is worth most: cheap sizes first, then seed by seed."""
    narrow = [Run("conventional", "C4", NARROW, patches, epochs, seed) for patches, epochs in SIZES for seed in SEEDS]
    wide = [
        Run(kind, group, width, patches, epochs, seed)
        for width in (0.35, 1.0)
        for patches, epochs in SIZES
        for seed in SEEDS
        for kind, group in NETWORKS
    ]
    ablation = [
        Run(kind, group, 0.35, size, length, seed, ABLATION_DIVISOR, depthwise)
        for (size, length), networks in ((SIZES[0], ABLATION_NETWORKS), (SIZES[-1], ABLATION_CHOSEN))
        for seed in SEEDS
        for kind, group, depthwise in networks
    ]
    # The conventional network trained as the equivariant ones are: what remains between them is the network alone.
    patches, epochs = SIZES[0]
    control = [
        Run("conventional", "C4", 0.35, patches, epochs, seed, ABLATION_DIVISOR, recipe="equivariant") for seed in SEEDS
    ]
    return narrow + wide + ablation + control


def tables() -> dict[Path, dict[str, str]]:
    """For both READMEs the tables by the name of their marks."""
    grid, ablation = (study.read_runs(RESULTS / name) for name in ("grid", "ablation"))
    few, most = (study.select(ablation, patches=size) for size in (SIZES[0][0], SIZES[-1][0]))
    chosen = [run for run in ablation if study.select(most, network=run.network)]

    def text(*tables):
        return "\n\n".join(map(markdown_table, tables))

    # The conventional network of the grid is narrower than that of the ablation, and the better one.
    narrower = [
        {
            "patches": f"{size:,}",
            "seeds": f"{len(ours)} and {len(theirs)}",
            "C4, field-wise, minus conventional of multiples of 12 [points]": study.difference(
                study.advantage(ours, theirs)
            ),
        }
        for size, _ in SIZES
        if (ours := study.select(chosen, network="C4, field-wise", patches=size))
        and (theirs := study.select(grid, network="conventional", width=0.35, patches=size))
    ]
    rotation = study.rotation_rows(grid), study.steadiness_rows(grid)
    return {
        readme.README: {
            "table 1": text(study.table_1(grid, most)),
            "differences": text(study.advantage_rows(grid)),
            "differences, multiples of 24": text(study.advantage_rows(chosen), narrower),
        },
        readme.RESULTS: {
            "grid": text(study.accuracy_rows(grid), study.int8_rows(grid), *rotation),
            "ablation": text(study.ablation_rows(few)),
            "ablation, most patches": text(
                study.ablation_rows(most),
                study.int8_rows(chosen),
                study.rotation_rows(chosen),
                study.steadiness_rows(chosen),
            ),
            "the paper's augmentation": text(table(read_results(RESULTS / "pcam-subset-4k_C12_width1.json"))),
            "again": again_table(),
        },
    }


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
    if isinstance(run, PlannedRun) and confirmation.is_dir():
        run.confirmation.parent.mkdir(parents=True, exist_ok=True)
        session = device.session(folder / f"{run.name}_int8.onnx")
        answers = score(exported(result.network), session, Patches(confirmation, "test"), config.network.input_size)
        write_json(run.confirmation, answers)
    write_json(
        run.json,
        {
            "data": {"label": label, "train": run.patches},
            "seed": run.seed,
            "command": f"python experiments/grid.py --data DATA --folder RUNS"
            f"{' --plan' if isinstance(run, PlannedRun) else ''} --only {run.name}",
            "environment": environment(),
            "model": model,
        },
    )


def repeat(run: Run, data: str, folder: Path) -> None:
    """Train a run of the grid once more from nothing, and keep both validation curves in results/again/."""
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
            "command": f"python experiments/grid.py --data DATA --folder RUNS --again --only {run.name}",
            "environment": {"then": before["environment"], "now": environment()},
            "best_epoch": {"then": before["model"]["best_epoch"], "now": result.best_epoch},
            "curves": curves,
        },
    )


def again_table() -> str:
    """The runs that were trained twice: how far apart the validation losses are, epoch by epoch and at their lowest."""
    rows = []
    for path in sorted((RESULTS / "again").glob("*.json")):
        contents = read_results(path)
        loss = contents["curves"]["valid_loss"]
        changes = [abs(then - now) for then, now in zip(loss["then"], loss["now"], strict=True)]
        rows.append(
            {
                "run": path.stem,
                "first epoch, change": f"{changes[0]:.1g}",
                "all epochs, median change": f"{median(changes):.1g}",
                "largest change": f"{max(changes):.1g}",
                "lowest loss, then and now": f"{min(loss['then']):.3f} and {min(loss['now']):.3f}",
                "its epoch": f"{contents['best_epoch']['then']} and {contents['best_epoch']['now']}",
            }
        )
    return markdown_table(rows)


def ship(run: Run, folder: Path) -> None:
    """Keep the weights and the INT8 model of a finished run with the project; checkpoints.json says how they came about."""
    contents = read_results(run.json)
    name = f"pcam_{run.name}"
    digest = save_weights(folder / run.name / "best.ckpt", RESULTS / f"{name}.pt")
    model = (folder / f"{run.name}_int8.onnx").read_bytes()
    (RESULTS / f"{name}.onnx").write_bytes(model)
    entry = {
        "sha256": digest,
        "int8 sha256": hashlib.sha256(model).hexdigest(),
        "data": f"{contents['data']['label']}, {run.patches:,} training patches",
        "made by": contents["command"],
        "best epoch": contents["model"]["best_epoch"],
    }
    write_json(RESULTS / "checkpoints.json", read_results(RESULTS / "checkpoints.json") | {name: entry})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the .h5 files")
    parser.add_argument("--folder", type=Path, help="where the runs keep their checkpoints")
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose name contains one of these")
    parser.add_argument(
        "--label", help="what the data is, such as 'PCam subset, 20k JPEG'; else its sizes or folder say it"
    )
    parser.add_argument("--again", action="store_true", help="train runs that have their JSON once more, and compare")
    parser.add_argument(
        "--ship", action="store_true", help="train nothing; put weights and INT8 models of the runs into results/"
    )
    parser.add_argument("--plan", action="store_true", help="the runs of results/PLAN.md instead of the grid's")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--tables", action="store_true", help="train nothing; print the tables, renew both READMEs")
    options = parser.parse_args()
    if options.tables:
        for path, parts in tables().items():
            for name, text in parts.items():
                print(text, end="\n\n")
                readme.write(name, text, path)
        return
    chosen = [
        run for run in (planned_runs() if options.plan else runs()) if any(part in run.name for part in options.only)
    ]
    if options.list:
        for run in chosen:
            print("done   " if run.json.exists() else "missing", run.name)
        return
    if options.ship:
        if not options.folder:
            parser.error("--folder is needed: where the runs keep their checkpoints")
        for run in chosen:
            ship(run, options.folder)
        return
    if not (options.data and options.folder):
        parser.error("--data and --folder are needed")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.again:
        for run in chosen:
            repeat(run, options.data, options.folder)
        print(again_table())
        return
    for run in chosen:
        with open(options.folder / f"{run.name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when the process ends, however
            except BlockingIOError:
                continue
            if not run.json.exists():
                run.json.parent.mkdir(parents=True, exist_ok=True)
                print(run.name, flush=True)
                execute(run, options.data, options.folder, options.label or data_label(options.data))
            else:
                print(f"{run.name}: results/ has it already; move that file away to train it again", flush=True)


if __name__ == "__main__":
    main()
