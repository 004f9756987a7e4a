"""Ends the training before its planned end: when it has stopped improving, or when its time is over."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from finetune.training.callbacks.agreement import largest

PATIENCE, MAX_TIME = "patience", "max-time"


class Limits(L.Callback):
    """Decides when to stop; the epoch in progress is then validated, saved and counted as any other.

    Lightning's EarlyStopping looks at one monitor, and the best epoch is chosen by two, so `Checkpoints`, which chooses
    it, asks here. Lightning's Timer stops within an epoch as this does, but knows nothing of an end that was decided
    before a run was killed.

    Args:
        patience: Epochs without a better one after which to stop.
        seconds: After how many to stop, after a step; validation included, and the time before a resume.

    Attributes:
        stopped_by: `patience`, `max-time`, or None for a training that came to its planned end.
    """

    def __init__(self, patience: int | None = None, seconds: float | None = None) -> None:
        self.patience, self.seconds = patience, seconds
        self.stopped_by: str | None = None
        self.before = 0.0  # of a run that is resumed
        self.started: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the training began."""
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trains no more where the end was decided before the run was killed."""
        trainer.should_stop = trainer.should_stop or self.stopped_by is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self.before, self.started = self.elapsed, None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops within an epoch when time is over; after its last step `decide` does."""
        if self.seconds is None or trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._late(trainer):
            self._stop(trainer, MAX_TIME)

    def _late(self, trainer: L.Trainer) -> bool:
        return self.seconds is not None and bool(largest(trainer, int(self.elapsed >= self.seconds)))

    def decide(self, trainer: L.Trainer, since_best: int) -> None:
        """Stops after an epoch.

        Args:
            trainer: Of the run.
            since_best: Epochs since the best one.
        """
        late = self._late(trainer)
        if self.stopped_by is not None or trainer.current_epoch + 1 >= (trainer.max_epochs or 0):
            return
        if self.patience is not None and since_best >= self.patience:
            self._stop(trainer, PATIENCE)
        elif late:
            self._stop(trainer, MAX_TIME)

    def _stop(self, trainer: L.Trainer, reason: str) -> None:
        self.stopped_by, trainer.should_stop = reason, True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {"elapsed": self.elapsed, "stopped_by": self.stopped_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.before, self.stopped_by = state_dict["elapsed"], state_dict["stopped_by"]
