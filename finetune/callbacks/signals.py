"""Ends a run in an orderly way when it is asked to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from finetune.errors import Stopped

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopOnSignal(L.Callback):
    """Raises `Stopped` after the step in which Ctrl-C, SIGTERM or SIGUSR1 arrived; a second one acts at once.

    Args:
        advice: What the user can do next, for the message.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.received: str | None = None
        self.previous: dict[int, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        for number in [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]:
            self.previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stops between two steps."""
        if self.received:
            raise Stopped(f"stopped by {self.received}; {self.advice}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._restore()
