"""What a training writes when an epoch is over: a row of the curve, its picture, and checkpoints that another start can go on from."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm import tqdm

from equilib.progress import bar
from equilib.results import written_whole
from equilib.runs import read_checkpoint, save_checkpoint, write_rows


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
        tqdm.write(  # which makes room above a bar
            f"epoch {row['epoch']:3d}  train loss {row['train_loss']:.3f}"
            f"  valid loss {row['valid_loss']:.3f}  valid accuracy {100 * row['valid_accuracy']:.1f} %"
        )
        sys.stdout.flush()


class Curves(Callback):
    """The curves so far as a picture, after each epoch.  No fault of the drawing ends a training: it warns, once.

    Args:
        path: of the PNG file.
        history: whose rows are drawn; it must stand before this one among the callbacks.
        kind: of network, for the legend.
    """

    def __init__(self, path: Path, history: History, kind: str):
        self.path, self.history, self.kind, self.failed = path, history, kind, False

    def on_train_epoch_end(self, trainer, module):
        if not trainer.is_global_zero or self.failed:
            return
        try:
            from equilib.figures import png, training_curves

            picture = png(training_curves({self.kind: self.history.rows}))
            with written_whole(self.path) as temporary:
                temporary.write_bytes(picture)
        except Exception as error:
            self.failed = True
            warnings.warn(f"{self.path} is not drawn ({error}); the training goes on", stacklevel=2)


class Bar(Callback):
    """One bar for all epochs, so that its estimate is that of the whole training; an earlier start's steps are done."""

    def __init__(self):
        self.bar = None

    def on_train_start(self, trainer, module):
        if trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self.bar = bar(total=total, done=trainer.global_step, words="training", unit="step")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.bar is not None:
            self.bar.set_description(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer, module):
        self._close()

    def on_exception(self, trainer, module, exception):
        self._close()

    def _close(self):
        if self.bar is not None:
            self.bar.close()


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


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints written whole or not at all, and read without running code.

    Lightning's own go by way of a temporary file in another folder, and what moves them may stop half-way.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return read_checkpoint(path)
