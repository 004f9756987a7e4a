"""One row of metrics.csv per epoch, and one line where there is no progress bar."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from finetune.console import interactive, log
from finetune.optim import head_lr
from finetune.runfolder import write_text

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
    """Adds a row to a CSV file after each epoch; a resumed run goes on in the same file, and on the same clock.

    Args:
        path: The file.
        epochs: Of the whole run, for the printed line.

    Attributes:
        count: Epochs so far.
        seconds: Time they took, validation included.
        train_seconds: Time they took without validation.
        partial: Time that the epoch in progress had taken when a run was resumed within it.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs
        self.count, self.seconds, self.train_seconds = 0, 0.0, 0.0
        self.partial = 0.0
        self.started: float | None = None  # of an epoch in progress

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock of an epoch that goes on; Lightning does not start it again."""
        if self.partial:
            self.started = time.perf_counter() - self.partial

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def _elapsed(self) -> float:
        return 0.0 if self.started is None else time.perf_counter() - self.started

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training's part of the epoch is over."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.train_seconds += self._elapsed()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the row."""
        seconds, self.started = self._elapsed(), None
        self.seconds += seconds
        self.count += 1
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        row: dict[str, float] = {"epoch": epoch, "lr": head_lr(trainer.optimizers[0]), "seconds": seconds}
        row |= {name: float(trainer.callback_metrics[name]) for name in COLUMNS if name in trainer.callback_metrics}
        self._append(row)
        if not interactive():
            log.info(
                f"epoch {epoch}/{self.epochs}: train loss {row['train_loss']:.4f}, validation loss "
                f"{row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.4f}, {seconds:.1f} s"
            )

    def _append(self, row: dict[str, float]) -> None:
        """Keeps the rows before this epoch's: a run that was killed after a row and before its checkpoint has more."""
        before = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                before = list(csv.DictReader(file))[: self.count - 1]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows([*before, row])
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, float]:
        """What a resumed run must remember."""
        times = {"seconds": self.seconds, "train_seconds": self.train_seconds, "partial": self._elapsed()}
        return {"count": self.count, **times}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.count = int(state_dict["count"])
        self.seconds, self.train_seconds = state_dict["seconds"], state_dict["train_seconds"]
        self.partial = state_dict["partial"]
