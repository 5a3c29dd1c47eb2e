"""Ctrl-C and SIGTERM during a training: heeded between batches, and not lost.

Python runs a signal's handler at the first Python code after a library's C++.  That may be a callback of a weak reference
(where a checkpoint is written it often is one), and what a handler raises there is printed and forgotten: the training
goes on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

NOTICE = b"\nthe training ends after this batch; once more: at once\n"


class EndsBetweenBatches(Callback):
    """Notes a SIGINT or SIGTERM while the training runs; its own handler runs, and raises, before the next batch.

    Behind the last batch whoever called the trainer has to :meth:`heed`.  A second signal is handled at once, and so is one
    before the first epoch.
    """

    def __init__(self) -> None:
        self._handlers: dict = {}
        self._told: int | None = None
        self._training = False

    def __getstate__(self) -> dict:
        return EndsBetweenBatches().__dict__  # a process that is spawned has handlers of its own

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the signals that have a handler in Python; afterwards they have it again.

        Outside of the main thread, where Python allows no handlers, nothing is taken over.
        """
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
        try:
            for number in self._handlers:
                signal.signal(number, self._note)
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        again, self._told = self._told is not None, number
        if again or not self._training:
            self._handlers[number](number, frame)
            self._told = None  # it returned; what it raises may be forgotten, and then the signal is not
        elif rank_zero_only.rank == 0:
            os.write(2, NOTICE)  # print() is not safe in a handler

    def heed(self) -> None:
        """Run the handler of a signal that was noted, once."""
        told, self._told = self._told, None
        if told is not None:
            self._handlers[told](told, None)

    def on_train_start(self, trainer, module):
        self._training = True

    def on_train_epoch_start(self, trainer, module):
        self.heed()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.heed()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.heed()

    def on_validation_start(self, trainer, module):
        self.heed()

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.heed()

    def on_exception(self, trainer, module, exception):
        self._training = False


def leave_signals_to_the_trainer(worker: int) -> None:
    """For a process that loads data: Ctrl-C reaches all processes, and one whose workers are gone cannot end in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
