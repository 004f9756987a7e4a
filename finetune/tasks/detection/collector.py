"""Keeps what validation and test found, and what was there."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.scores import Record, gathered, record


class CollectDetections(L.Callback):
    """Keeps what `Trainer.validate` and `Trainer.test` find, in row order, in the first process.

    Masks stay compressed, so that a split of large images takes little more than its boxes.

    Attributes:
        last: Of the last validation or test outside of training; None in the other processes.
        kind: Makes it of its fields.
    """

    kind = Detected

    def __init__(self) -> None:
        self.last: Detected | None = None
        self.records: list[Record] = []

    def _start(self) -> None:
        self.last, self.records = None, []

    def _add(self, trainer: L.Trainer, found: Any, batch: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:  # validation during training: nothing is made of it but scores
            self.records += [record(*pair) for pair in zip(found, batch[1], strict=True)]

    def _finish(self, trainer: L.Trainer) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        everything = gathered(self.records)
        self.records = []
        self.last = Detected.of(everything) if everything else None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets the last."""
        self._start()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets the last."""
        self._start()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keeps a batch."""
        self._add(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keeps a batch."""
        self._add(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers all processes' images."""
        self._finish(trainer)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers all processes' images."""
        self._finish(trainer)
