"""One row of metrics.csv per epoch, and one line where there is no progress bar."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from finetune.console import interactive, log

COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "val_balanced_accuracy",
    "lr",
    "seconds",
)


class EpochLog(L.Callback):
    """Appends a row to a CSV file after each epoch; a resumed run goes on in the same file.

    Args:
        path: The file.
        epochs: Of the whole run, for the printed line.

    Attributes:
        count: Epochs so far.
        seconds: Time they took, validation included.
        train_seconds: Time they took without validation.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs
        self.count, self.seconds, self.train_seconds = 0, 0.0, 0.0
        self.started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training's part of the epoch is over."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.train_seconds += time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the row."""
        seconds = time.perf_counter() - self.started
        self.seconds += seconds
        self.count += 1
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        row: dict[str, float] = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"], "seconds": seconds}
        row |= {name: float(trainer.callback_metrics[name]) for name in COLUMNS if name in trainer.callback_metrics}
        self._append(row)
        if not interactive():
            log.info(
                f"epoch {epoch}/{self.epochs}: train loss {row['train_loss']:.4f}, validation loss "
                f"{row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.4f}, {seconds:.1f} s"
            )

    def _append(self, row: dict[str, float]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run must remember."""
        return {"count": self.count, "seconds": self.seconds, "train_seconds": self.train_seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.count = int(state_dict["count"])
        self.seconds, self.train_seconds = state_dict["seconds"], state_dict["train_seconds"]
