"""Training on Lightning: resumable to the bit, one folder per run (:mod:`equilib.runs`).

Calling :func:`train` again with the same configuration continues where the last finished epoch ended: order of patches,
augmentation and dropout depend on the seed and the epoch alone.
"""

from __future__ import annotations

import logging
import pickle
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, Sampler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from equilib.callbacks import Bar, BestCheckpoint, CheckpointFiles, Curves, History
from equilib.interrupts import EndsBetweenBatches, leave_signals_to_the_trainer
from equilib.mobilenet import build, estimate_statistics
from equilib.pcam import (
    Patches,
    collate,
    crop,
    network_inputs,
    shuffled_order,
    standardize,
    turn_and_reflect,
    turn_any_angle,
    vary_stain,
)
from equilib.runs import (
    BEST,
    CURVES,
    LAST,
    METRICS,
    TrainConfig,
    claim,
    load_network,
    read_checkpoint,
    save_weights,
    shipped_network,
    way_out,
    write_rows,
)

# Networks on disk are read without Lightning (:mod:`equilib.runs`); who trains finds them here too.
__all__ = [
    "EpochOrder",
    "PatchClassifier",
    "PatchData",
    "TrainConfig",
    "TrainResult",
    "load_network",
    "save_weights",
    "seeded",
    "shipped_network",
    "train",
]

# With weights themselves in half precision (bf16-true) the small steps of the end are lost to rounding; in double
# precision (64-true) nothing is gained.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


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
        # What the run is trained on, for its checkpoints: a folder may move, its patches must stay.
        self.digests = {"train": self.train_patches.digest(), "valid": self.valid_patches.digest()}

    def _loader(self, patches: Patches, shuffle: bool) -> DataLoader:
        processes = self.trainer.world_size
        if shuffle and len(patches) < processes * self.config.batch_size:
            raise ValueError(
                f"batch_size={self.config.batch_size} on {processes} process(es) is larger than the {len(patches)} patches; "
                "take a smaller one"
            )
        sampler = EpochOrder(patches, processes, self.trainer.global_rank, shuffle=shuffle, seed=self.config.seed)
        return DataLoader(
            patches,
            self.config.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=leave_signals_to_the_trainer,
            pin_memory=torch.cuda.is_available(),
            drop_last=shuffle,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_patches, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.valid_patches, shuffle=False)


class PatchClassifier(lightning.LightningModule):
    """A network of either family with its loss, metrics and optimizer."""

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
        checkpoint["precision"] = str(self.trainer.precision)
        checkpoint["patches"] = self.trainer.datamodule.digests

    def on_load_checkpoint(self, checkpoint):
        before, now = checkpoint["processes"], self.trainer.world_size
        if before != now:
            # The schedule counts steps, and a step sees batch_size patches of each process.
            raise ValueError(
                f"this run was started on {before} process(es) and cannot continue on {now}; "
                "use as many devices as before, or another folder"
            )
        then, now = checkpoint.get("precision"), str(self.trainer.precision)  # older checkpoints do not say
        if then not in (None, now):
            raise ValueError(
                f"this run was started with precision={then!r} and cannot continue with precision={now!r}; "
                "give the same, or another folder"
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
            images = turn_and_reflect(images, generator)
        if self.config.any_angle:
            images = turn_any_angle(images, self.config.any_angle, generator)
        if self.config.stain:
            images = vary_stain(images, self.config.stain, generator)
        logits = self.network(standardize(images))
        loss = F.cross_entropy(logits, labels)
        if not loss.isfinite():  # waits for the device at every step, which costs less than hours of NaN
            raise FloatingPointError(self._diverged("training", loss, f"step {index + 1} of epoch"))
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
        logits = self.network(standardize(crop(images, self.config.network.input_size)))
        self.valid_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.valid_accuracy.update(logits, labels)

    def on_validation_epoch_end(self):
        for name in ("valid_loss", "valid_accuracy"):
            metric = getattr(self, name)
            value = metric.compute()
            if not value.isfinite():  # before any checkpoint of this epoch is written
                raise FloatingPointError(self._diverged("validation", value, "epoch"))
            self.log(name, value, prog_bar=True)
            metric.reset()

    def _diverged(self, which: str, loss: torch.Tensor, where: str) -> str:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        best = Path(self.trainer.default_root_dir) / BEST
        kept = f"{best} keeps the best epoch before it" if best.exists() else "no epoch was finished"
        return (
            f"the {which} loss became {loss.item()} in {where} {self.current_epoch + 1}, at learning rate {rate:.3g}; "
            f"{kept}; train with a lower learning rate, in another folder"
        )

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
    progress: bool = True,
    print_epochs: bool = False,
    curves: bool = False,
    workers: int = 0,
    compile: bool = False,
    **trainer_options,
) -> TrainResult:
    """Train, or continue, one run.

    Args:
        config: what to train; must equal that of the folder's earlier start, else ValueError names the difference.
        folder: of the run; created.
        progress: show a bar with an estimate, on a terminal or in a notebook (:mod:`equilib.progress`).
        print_epochs: print a line per epoch, those of an earlier start included.
        curves: draw ``curves.png`` into the folder after each epoch.
        workers: processes that load data.
        compile: by torch.compile; costs minutes at the start, and on a CPU the steps become slower, not faster.
        trainer_options: for ``lightning.Trainer``: devices, num_nodes, accelerator, strategy, precision …

    Returns:
        The network with the lowest validation loss, in evaluation mode.
    """
    folder = Path(folder)
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    data = PatchData(config, workers=workers)
    torch.manual_seed(config.seed)
    module = PatchClassifier(config)
    if compile:
        module.network.compile()
    history = History(folder / METRICS, print_rows=print_epochs and rank_zero_only.rank == 0)
    # Both are written when an epoch is over, best first: whatever `last` knows of is then on disk.
    saving = dict(dirpath=folder, save_on_train_epoch_end=True, enable_version_counter=False)
    best = BestCheckpoint(filename=Path(BEST).stem, monitor="valid_loss", mode="min", **saving)
    last = BestCheckpoint(filename=Path(LAST).stem, **saving)
    signals = EndsBetweenBatches()
    callbacks = [history, best, last, signals] + ([Bar()] if progress else [])
    if curves:
        callbacks.insert(1, Curves(folder / CURVES, history, config.kind))
    with _quiet():
        trainer = _trainer(trainer_options, callbacks, folder, config.epochs)
        _check_picklable(trainer_options.get("strategy"), module, data)
        folder.mkdir(parents=True, exist_ok=True)
        resume = claim(folder, config, data.digests, writes=trainer.is_global_zero)
        _fit(trainer, module, data, resume, signals)
    trainer.strategy.barrier()
    network, checkpoint = load_network(folder / BEST)
    state = read_checkpoint(folder / LAST)  # from the file: a spawned process leaves nothing else behind
    curve = state["callbacks"]["History"]
    if trainer.is_global_zero:
        write_rows(history.path, History.COLUMNS, curve["rows"])  # if it was lost or changed
    return TrainResult(
        network, folder / BEST, checkpoint["epoch"] + 1, tuple(curve["rows"]), curve["seconds"], state["global_step"]
    )


def _trainer(options: dict, callbacks: list, folder: Path, epochs: int) -> lightning.Trainer:
    """The trainer with the caller's options, or a ValueError that repeats them with Lightning's reason."""
    options = dict(accelerator="auto", devices="auto", precision="32-true") | options
    for name in ("max_steps", "max_epochs", "min_steps", "min_epochs"):
        if options.get(name, -1) not in (None, -1):  # Lightning's own
            raise ValueError(f"{name} is no option: the configuration's epochs say how long a training takes")
    if options["precision"] not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {options['precision']!r}")
    try:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,  # ours is one of the callbacks
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            plugins=[CheckpointFiles()],
            **options,
        )
    except Exception as error:  # Lightning has many kinds for this
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Lightning cannot train with these options ({given}): {reason}") from error
    if str(trainer.precision) != options["precision"]:  # Lightning takes another one, with a warning
        raise ValueError(
            f"precision={options['precision']!r} is not possible on this device; use {trainer.precision!r}"
        )
    return trainer


def _check_picklable(strategy, module: PatchClassifier, data: PatchData) -> None:
    """Spawned processes get the network by pickle, which e2cnn's layers do not allow; say so before they start."""
    if "spawn" not in str(strategy):
        return
    try:
        pickle.dumps((module, data))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"strategy={strategy!r} copies the {module.config.kind} network into new processes, which is not possible "
            f"({reason}); use strategy='ddp', which starts the command once for each process"
        ) from error


def _fit(
    trainer: lightning.Trainer,
    module: PatchClassifier,
    data: PatchData,
    resume: Path | None,
    signals: EndsBetweenBatches,
) -> None:
    try:
        with signals.listening():
            failed = None
            try:
                trainer.fit(module, data, ckpt_path=resume, weights_only=True)
            except (Exception, SIGTERMException) as error:
                failed = error
            # Noted behind the last batch; or another process has ended on the same signal, which made the error here.
            signals.heed()
            if failed is not None:
                raise failed
    except SIGTERMException:  # Lightning's, without a status
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None  # Lightning ends the whole program on Ctrl-C; a notebook must live on
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _while_restoring(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{resume} is damaged, the training cannot go on from it ({type(error).__name__}: {reason}); {way_out(resume)}"
        ) from error


def _while_restoring(error: Exception) -> bool:
    """Whether it was raised where Lightning takes over what a checkpoint holds."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(Path(frame.f_code.co_filename).name == "checkpoint_connector.py" for frame, _ in frames)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about hardware, loggers and workers out of the output."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in (
                "AMP with fp16 is not",
                "does not have many workers",
                "exists and is not empty",
                "isinstance.treespec, LeafSpec",
                "on epoch level in distributed setting",  # torchmetrics has gathered what is logged
            ):
                warnings.filterwarnings("ignore", message=f".*{message}.*")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
