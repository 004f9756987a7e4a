"""Keeps the best epoch and the last one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

BEST, LAST = "best.ckpt", "last.ckpt"


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` after every epoch, and `best.ckpt` when it is the best by validation accuracy.

    Ties go to the lower loss, and then to the earlier epoch; Lightning's ModelCheckpoint has one monitor only. A file
    is written beside its place and moved there, so that a checkpoint is whole or absent.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best: tuple[float, float] | None = None
        self.best_epoch: int | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares and saves; validation has run by now."""
        metrics = trainer.callback_metrics
        rank = (float(metrics["val_accuracy"]), -float(metrics["val_loss"]))
        improved = self.best is None or rank > self.best
        if improved:
            self.best, self.best_epoch = rank, trainer.current_epoch
            self._save(trainer, BEST)
        self._save(trainer, LAST)

    def _save(self, trainer: L.Trainer, name: str) -> None:
        temporary = self.folder / f"{name}.part"
        trainer.save_checkpoint(temporary)  # every process takes part, the first one writes
        if trainer.is_global_zero:
            os.replace(temporary, self.folder / name)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])
        self.best_epoch = state_dict["best_epoch"]
