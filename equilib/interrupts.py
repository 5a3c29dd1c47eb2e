"""Ctrl-C during a training: heeded where a batch ends, and never lost.

Python runs a signal's handler at the first Python code after a library's C++.  Where a checkpoint is written this is often a
callback of a weak reference, and what is raised there is printed and forgotten: the training went on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.callbacks import Callback


class EndsBetweenBatches(Callback):
    """Notes a SIGINT or SIGTERM while batches go by; its own handler runs, and raises, where the batch at hand ends.

    A second signal is handled at once, and so is one before the first batch or after the last.
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

    def heed(self) -> None:
        """Run the handler of a signal that was noted."""
        if self._told is not None:
            self._handlers[self._told](self._told, None)

    def on_train_start(self, trainer, module):
        self._training = True

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.heed()

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.heed()

    def on_train_end(self, trainer, module):
        self._training = False
        self.heed()

    def on_exception(self, trainer, module, exception):
        self._training = False
