"""Notes that a run is asked to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopOnSignal(L.Callback):
    """Notes Ctrl-C, SIGTERM and SIGUSR1 during training; `Checkpoints` saves and stops. A second one acts at once.

    Attributes:
        received: Name of the signal that arrived, if one did.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.previous: dict[int, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remembers whose the signals are."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        self.previous = {number: signal.getsignal(number) for number in numbers}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over, also from Lightning, whose handlers (registered by now) talk to other processes."""
        for number in self.previous:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._restore()
