"""Training on Lightning: resumable to the bit, one folder per run.

A run's folder holds ``config.json`` (what was asked for), ``last.ckpt`` (after every epoch), ``best.ckpt`` (lowest
validation loss) and ``metrics.csv`` (a row an epoch).  Calling :func:`train` again with the same configuration continues
where the last finished epoch ended: order of patches, augmentation and dropout depend on the seed and the epoch alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import signal
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Sampler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from equilib.mobilenet import KINDS, MobileNetConfig, build, estimate_statistics
from equilib.pcam import (
    Patches,
    augment,
    collate,
    crop,
    network_inputs,
    normalize,
    shuffled_order,
    turn_any_angle,
    vary_stain,
)
from equilib.results import shipped_checkpoint, write_json, written_whole

# Options that earlier versions did not know, and what they did then.
ADDED_LATER = {"any_angle": 0.0, "stain": 0.0, "recalibrate": 0}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights of a run.

    Attributes:
        kind: ``"conventional"`` or ``"equivariant"``.
        network: the architecture.
        data: folder with PCam's files (real or synthetic).
        train_limit, valid_limit: use only the first patches of a split.
        epochs, batch_size: batch size is per process.
        learning_rate, weight_decay: of AdamW, with a one-cycle schedule; biases and norms are not decayed.
        augmentation: random 90-degree rotations and reflections.
        any_angle: share of the patches that are also turned by a random angle (:func:`equilib.pcam.turn_any_angle`).
        stain: strength of the random change of stains (:func:`equilib.pcam.vary_stain`); 0 for none.
        recalibrate: before each validation, set the statistics of batch normalization to those of this many training
            patches without augmentation; 0 keeps the moving average over augmented ones.
        seed: of initialisation, order, augmentation and dropout.
    """

    kind: str
    network: MobileNetConfig = field(default_factory=MobileNetConfig)
    data: str = "data/pcam"
    train_limit: int | None = None
    valid_limit: int | None = None
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    augmentation: bool = True
    any_angle: float = 0.0
    stain: float = 0.0
    recalibrate: int = 0
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "data", str(self.data))
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        for name in ("seed", "weight_decay", "any_angle", "stain", "recalibrate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.any_angle > 1:
            raise ValueError(f"any_angle is a share between 0 and 1, got {self.any_angle}")
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def to_dict(self) -> dict:
        """A JSON-compatible dictionary."""
        return asdict(self) | {"network": self.network.to_dict()}

    @property
    def fingerprint(self) -> str:
        """Eight characters that differ between configurations, for names of folders."""
        values = self.to_dict()
        for name, default in ADDED_LATER.items():  # so that runs from before have the name that they had
            if values[name] == default:
                del values[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    @classmethod
    def from_dict(cls, values: dict) -> TrainConfig:
        return cls(**values | {"network": MobileNetConfig(**values["network"])})


def seeded(*numbers: int) -> torch.Generator:
    """A generator that depends on these non-negative integers alone, such as (seed, epoch, batch)."""
    import numpy as np

    # SeedSequence ignores trailing zeros, so the length goes in too.
    state = np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class EpochOrder(Sampler):
    """The patches that one of several processes takes in an epoch, decided by seed and epoch alone.

    In training each process takes its own stretch of :func:`equilib.pcam.shuffled_order`, all of the same length (up to
    processes - 1 patches of an epoch are left out); in validation every ``processes``-th patch.
    """

    def __init__(self, patches: Patches, processes: int, rank: int, *, shuffle: bool, seed: int):
        self.patches, self.processes, self.rank, self.shuffle, self.seed = patches, processes, rank, shuffle, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        length = len(self.patches)
        return length // self.processes if self.shuffle else len(range(self.rank, length, self.processes))

    def __iter__(self):
        if not self.shuffle:
            return iter(range(self.rank, len(self.patches), self.processes))
        order = shuffled_order(len(self.patches), self.patches.slab, seeded(self.seed, self.epoch))
        return iter(order[self.rank * len(self) :][: len(self)].tolist())


class PatchData(lightning.LightningDataModule):
    """The train and valid loaders: uint8 batches, shuffled by seed and epoch, split over the processes."""

    def __init__(self, config: TrainConfig, *, workers: int = 0):
        super().__init__()
        self.config, self.workers = config, workers
        self.train_patches = Patches(config.data, "train", limit=config.train_limit)
        self.valid_patches = Patches(config.data, "valid", limit=config.valid_limit)

    def _loader(self, patches: Patches, shuffle: bool) -> DataLoader:
        processes = self.trainer.world_size
        if shuffle and len(patches) < processes * self.config.batch_size:
            raise ValueError(
                f"batch_size={self.config.batch_size} on {processes} process(es) is larger than the {len(patches)} patches"
            )
        sampler = EpochOrder(patches, processes, self.trainer.global_rank, shuffle=shuffle, seed=self.config.seed)
        return DataLoader(
            patches,
            self.config.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=shuffle,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_patches, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.valid_patches, shuffle=False)


class PatchClassifier(lightning.LightningModule):
    """A network of :mod:`equilib.mobilenet` with its loss, metrics and optimizer."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.config = config
        self.network = build(config.kind, config.network)
        self.train_loss, self.valid_loss = MeanMetric(), MeanMetric()
        classes = max(config.network.classes, 2)
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.valid_accuracy = MulticlassAccuracy(classes, average="micro")

    def on_save_checkpoint(self, checkpoint):
        checkpoint["equilib"] = self.config.to_dict()
        checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint):
        before, now = checkpoint["processes"], self.trainer.world_size
        if before != now:
            # The schedule counts steps, and a step sees batch_size patches of each process.
            raise ValueError(
                f"this run was started on {before} process(es) and cannot continue on {now}; "
                "use as many devices as before, or another folder"
            )

    def on_train_epoch_start(self):
        self.train_loss.reset()
        self.train_accuracy.reset()

    def training_step(self, batch, index):
        images, labels = batch
        images = crop(images, self.config.network.input_size)
        generator = seeded(self.config.seed, self.current_epoch, self.global_rank, index)
        # Dropout draws from the global generator: bind that to the step too, so that a resumed run repeats it.
        torch.manual_seed(generator.initial_seed())
        if self.config.augmentation:
            images = augment(images, generator)
        if self.config.any_angle:
            images = turn_any_angle(images, generator, self.config.any_angle)
        if self.config.stain:
            images = vary_stain(images, self.config.stain, generator)
        logits = self.network(normalize(images))
        loss = F.cross_entropy(logits, labels)
        self.train_loss.update(loss.detach(), len(labels))
        self.train_accuracy.update(logits.detach(), labels)
        return loss

    def on_validation_start(self):
        if self.config.recalibrate:
            patches = self.trainer.datamodule.train_patches
            count, size = min(self.config.recalibrate, len(patches)), self.config.batch_size
            # Every process takes the same patches, so that their networks stay equal.
            starts = range(0, count, size)
            indices = (range(start, min(start + size, count)) for start in starts)
            batches = (
                network_inputs(patches, some, self.config.network.input_size).to(self.device) for some in indices
            )
            estimate_statistics(self.network, batches)

    def validation_step(self, batch, index):
        images, labels = batch
        logits = self.network(normalize(crop(images, self.config.network.input_size)))
        self.valid_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.valid_accuracy.update(logits, labels)

    def on_validation_epoch_end(self):
        for name in ("valid_loss", "valid_accuracy"):
            metric = getattr(self, name)
            self.log(name, metric.compute(), prog_bar=True)
            metric.reset()

    def configure_optimizers(self):
        decayed, free = [], []
        for name, parameter in self.network.named_parameters():
            (free if "norm" in name or name.endswith("bias") else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            groups, self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        # OneCycleLR divides by the length of each phase, so very short runs need a rising phase of two steps.
        rise = min(max(0.2, 2 / steps), 0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.config.learning_rate, steps, pct_start=rise)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(Callback):
    """A row of metrics per epoch, kept in the checkpoint and written to ``metrics.csv`` as a whole.

    Lightning's own CSVLogger drops the earlier rows when a run is resumed.
    """

    COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "learning_rate")

    def __init__(self, path: Path, *, print_rows: bool = False):
        self.path, self.print_rows, self.rows = path, print_rows, []
        # Of the epochs that are in the checkpoint; machines and their load differ, so metrics.csv does without them.
        self._before, self._start = {"wall": 0.0, "processor": 0.0}, _clocks()

    def state_dict(self):
        now = _clocks()
        seconds = {name: self._before[name] + now[name] - self._start[name] for name in now}
        return {"rows": self.rows, "seconds": seconds}

    def load_state_dict(self, state):
        self.rows = state["rows"]
        self._before, self._start = state["seconds"], _clocks()
        if self.print_rows:
            for row in self.rows:
                self._print(row)

    def on_train_epoch_end(self, trainer, module):
        metrics = {
            "train_loss": module.train_loss.compute(),
            "train_accuracy": module.train_accuracy.compute(),
            "valid_loss": trainer.callback_metrics["valid_loss"],
            "valid_accuracy": trainer.callback_metrics["valid_accuracy"],
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
        }
        row = {"epoch": trainer.current_epoch + 1} | {name: float(value) for name, value in metrics.items()}
        self.rows = self.rows + [row]
        if trainer.is_global_zero:
            write_rows(self.path, self.COLUMNS, self.rows)
            if self.print_rows:
                self._print(row)

    @staticmethod
    def _print(row):
        print(
            f"epoch {row['epoch']:3d}  train loss {row['train_loss']:.3f}"
            f"  valid loss {row['valid_loss']:.3f}  valid accuracy {100 * row['valid_accuracy']:.1f} %",
            flush=True,
        )


def _clocks() -> dict[str, float]:
    """Seconds on the wall, and seconds that this process had of the processor."""
    return {"wall": time.monotonic(), "processor": time.process_time()}


class BestCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that still knows the best loss when the run's folder was moved; Lightning's own forgets it."""

    def load_state_dict(self, state):
        def here(path):
            return str(Path(self.dirpath) / Path(path).name) if path else path

        moved = {key: here(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state["best_k_models"].items()}
        super().load_state_dict(state | moved | {"dirpath": self.dirpath, "best_k_models": best})


def read_rows(path: Path) -> list[dict]:
    """The rows of ``metrics.csv``: epoch as an integer, the rest as floats."""
    with path.open(newline="") as file:
        return [
            {name: int(value) if name == "epoch" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def write_rows(path: Path, columns, rows) -> None:
    """Write a CSV file whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class TrainResult:
    """What :func:`train` leaves behind: the network of the lowest validation loss, and the curves.

    Attributes:
        network: in evaluation mode.
        checkpoint: its file.
        best_epoch: counted from 1.
        history: a row of metrics per epoch.
        seconds: of all epochs, validation included: ``wall`` and ``processor`` (of the first process).
        steps: of the optimizer.
    """

    network: nn.Module
    checkpoint: Path
    best_epoch: int
    history: tuple[dict, ...]
    seconds: dict[str, float]
    steps: int


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    progress: bool = False,
    print_epochs: bool = False,
    workers: int = 0,
    compile: bool = False,
    **trainer_options,
) -> TrainResult:
    """Train, or continue, one run.

    Args:
        config: what to train; must equal that of the folder's earlier start, else ValueError names the difference.
        folder: of the run; created.
        progress: show Lightning's progress bar.
        print_epochs: print a line per epoch, those of an earlier start included.
        workers: processes that load data.
        compile: by torch.compile; costs minutes at the start, and on a CPU the steps become slower, not faster.
        trainer_options: for ``lightning.Trainer``: devices, num_nodes, accelerator, strategy, precision …

    Returns:
        The network with the lowest validation loss, in evaluation mode.
    """
    folder = Path(folder)
    data = PatchData(config, workers=workers)
    torch.manual_seed(config.seed)
    module = PatchClassifier(config)
    if compile:
        module.network.compile()
    folder.mkdir(parents=True, exist_ok=True)
    history = History(folder / "metrics.csv", print_rows=print_epochs and rank_zero_only.rank == 0)
    # Both are written when an epoch is over, best first: whatever `last` knows of is then on disk.
    saving = dict(dirpath=folder, save_on_train_epoch_end=True, enable_version_counter=False)
    best = BestCheckpoint(filename="best", monitor="valid_loss", mode="min", **saving)
    last = BestCheckpoint(filename="last", **saving)
    callbacks = [history, best, last] + ([TQDMProgressBar(leave=True)] if progress else [])
    options = dict(accelerator="auto", devices="auto") | trainer_options
    resume = folder / "last.ckpt"
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            **options,
        )
        _claim(folder, config, writes=trainer.is_global_zero)
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, data, ckpt_path=resume if resume.exists() else None, weights_only=False)
        except SystemExit:
            # Lightning ends the whole program on Ctrl-C, and leaves the signal ignored; a notebook must live on.
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None
    trainer.strategy.barrier()
    network, checkpoint = load_network(folder / "best.ckpt")
    rows = read_rows(history.path)  # from the file: a spawned process leaves nothing else behind
    state = torch.load(resume, map_location="cpu", weights_only=True)
    seconds = state["callbacks"]["History"]["seconds"]
    return TrainResult(
        network, folder / "best.ckpt", checkpoint["epoch"] + 1, tuple(rows), seconds, state["global_step"]
    )


def load_network(path: str | Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in evaluation mode, and the checkpoint's other contents."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; train first (equilib train --help)")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config = TrainConfig.from_dict(checkpoint["equilib"])
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint of equilib ({error})") from error
    network = build(config.kind, config.network)
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return network.eval(), checkpoint


def shipped_network(name: str) -> nn.Module:
    """A trained network that comes with the project, in evaluation mode, by its file name without ``.pt``.

    Raises:
        ValueError: the file is not the one that was shipped.
    """
    return load_network(shipped_checkpoint(name))[0]


def save_weights(checkpoint: str | Path, path: str | Path) -> str:
    """Keep the weights and configuration of a checkpoint, without what only a resumed training needs.

    Returns:
        The sha256 of the file, in hexadecimal.
    """
    network, contents = load_network(checkpoint)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = contents["equilib"] | {"data": Path(contents["equilib"]["data"]).name}
    path = Path(path)
    with written_whole(path) as temporary:
        torch.save({"equilib": config, "state_dict": weights, "epoch": contents["epoch"]}, temporary)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _claim(folder: Path, config: TrainConfig, *, writes: bool) -> None:
    """Refuse a folder that holds another run; a start that came to no checkpoint is none."""
    path = folder / "config.json"
    if path.exists() and (folder / "last.ckpt").exists():
        earlier = ADDED_LATER | json.loads(path.read_text())
        asked = config.to_dict()
        different = [key for key in asked | earlier if asked.get(key) != earlier.get(key)]
        if different:
            changes = ", ".join(f"{key}: {earlier.get(key)!r} then, {asked.get(key)!r} now" for key in different)
            raise ValueError(f"{folder} holds a run of another configuration ({changes}); choose another folder")
    elif writes:
        write_json(path, config.to_dict())


class _quiet:
    """Keep Lightning's notices about hardware, loggers and workers out of the output."""

    def __enter__(self):
        self._loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")

    def __exit__(self, *exception):
        self._warnings.__exit__(*exception)
        for logger, level in zip(self._loggers, self._levels):
            logger.setLevel(level)
