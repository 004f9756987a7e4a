"""What goes to a logger besides the scores that the task logs itself."""

from __future__ import annotations

from typing import Any

import lightning as L

from finetune.training.callbacks.epoch_log import EpochLog

EVERY = 10
COSTS = ("seconds", "images_per_second", "memory_mb", "data_wait")


class StepLog(L.Callback):
    """Logs learning rate and training loss every few optimizer steps, and after each epoch what it cost.

    `train_loss_step` is the mean over the images of all devices since it was logged last.

    Args:
        epochs: Stands before this one among the Trainer's callbacks.
        every: Optimizer steps between two points.
    """

    def __init__(self, epochs: EpochLog, every: int = EVERY) -> None:
        self.epochs, self.every = epochs, every
        self.before = [0.0, 0.0]  # sum of the losses and number of the images, when they were logged last

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on within an epoch begins where that stood."""
        self.before = self._so_far(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The task counts anew in each epoch."""
        self.before = [0.0, 0.0]

    @staticmethod
    def _so_far(task: Any) -> list[float]:
        """The epoch's sum of losses and number of images, as `finetune.tasks` have them."""
        sums: list[float] = task.epoch_loss.tolist()
        return sums

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs after every few optimizer steps."""
        if trainer.global_step % self.every or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        (loss, images), (loss_before, images_before) = self._so_far(pl_module), self.before
        self.before = [loss, images]
        values = {
            "train_loss_step": (loss - loss_before) / (images - images_before),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what the epoch cost."""
        for logger in trainer.loggers:
            logger.log_metrics({name: self.epochs.row[name] for name in COSTS}, trainer.global_step)
