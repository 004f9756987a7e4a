"""One row of metrics.csv per epoch, and one line."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from finetune.console import log
from finetune.errors import RunFolderError
from finetune.evaluation.metrics import RANKING, SCORES
from finetune.runs.runfolder import write_text
from finetune.task import Baseline, Score
from finetune.training import hardware
from finetune.training.callbacks.accumulation import batches_of_epoch
from finetune.training.callbacks.agreement import largest
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.data_wait import DataWait
from finetune.training.optim import head_lr

COSTS = ("lr", "seconds", "images_per_second", "memory_mb", "data_wait")


def columns(scores: Sequence[Score]) -> tuple[str, ...]:
    """Those of metrics.csv: the losses first."""
    logged = [f"val_{score.key}" for score in scores if score.logged]
    first = [name for name in logged if name == "val_loss"]
    return ("epoch", "train_loss", *first, *(name for name in logged if name not in first), *COSTS)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv; none where there is no such file.

    Raises:
        RunFolderError: It is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        for row in rows:
            int(float(row["epoch"]))
            if None in row or None in row.values():
                raise ValueError("a row has more or fewer cells than the first line")
    except (ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
        raise RunFolderError(
            f"{path} is damaged: expected a table with a column 'epoch' ({type(error).__name__}); put back a copy of "
            "it, or delete it: the run goes on, and its curve begins where it stands"
        ) from error
    return rows


class EpochLog(L.Callback):
    """Adds a row to a CSV file after each epoch; a resumed run goes on in the same file, and on the same clock.

    `images_per_second` is of all devices, without validation. `memory_mb` (`training.hardware.peak_memory`) and
    `data_wait` (share of the training time, 0 to 1) are those of the process with most. `lr` is that of the last step.

    Args:
        path: The file.
        epochs: Of the whole run, for the printed line.
        wait: Times the waiting for data; the Trainer needs it as its profiler.

    Attributes:
        images: Training images of a whole epoch; of a stream, as planned.
        count: Epochs so far, also one that was cut short.
        passes: Epochs so far, one that was cut short by the share of it that was trained.
        trained: Images so far.
        seconds: Time they took, validation included.
        train_seconds: Time they took without validation.
        waited: Time of it that was spent waiting for data, in the process that waited most.
        partial: Time that the epoch in progress had taken when a run was resumed within it.
        row: The last one.
    """

    def __init__(self, path: Path, epochs: int, wait: DataWait | None = None) -> None:
        self.measure(HeadStart("timm"), SCORES, RANKING[0])
        self.path, self.epochs, self.wait = path, epochs, wait or DataWait()
        self.images, self.trained = 0, 0.0
        self.count, self.passes, self.seconds, self.train_seconds, self.waited = 0, 0.0, 0.0, 0.0, 0.0
        self.partial, self.partial_wait = 0.0, 0.0
        self.row: dict[str, float] = {}
        self.started: float | None = None  # of an epoch in progress
        self.training, self.wait_before, self.share = 0.0, 0.0, 1.0  # of the same
        self.whole = True  # the same was not cut short

    def measure(self, head: Baseline, scores: Sequence[Score], shown: Score) -> None:
        """Say which scores there are, the one that is printed of every epoch, and what the training has to beat."""
        self.head, self.columns, self.shown = head, columns(scores), shown

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins the file with the linear probe, where there is one."""
        if self.head.scores is not None and trainer.is_global_zero and not self.path.exists():
            found = {f"val_{name}": value for name, value in self.head.scores["validation"].items()}
            self._append({"epoch": 0} | {name: value for name, value in found.items() if name in self.columns})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock of an epoch that goes on; Lightning does not start it again."""
        if self.partial:
            self.started = time.perf_counter() - self.partial
            self.wait_before = self.wait.seconds - self.partial_wait

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clocks."""
        self.started, self.wait_before = time.perf_counter(), self.wait.seconds

    def _elapsed(self) -> float:
        return 0.0 if self.started is None else time.perf_counter() - self.started

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes how far the epoch is."""
        self.share, self.whole = (batch_idx + 1) / batches_of_epoch(trainer), trainer.is_last_batch

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training's part of the epoch is over."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.training = self._elapsed()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the row."""
        seconds, self.started = self._elapsed(), None
        training = self.training or seconds  # without validation, where there was one
        waited = largest(trainer, self.wait.seconds - self.wait_before)
        memory = largest(trainer, hardware.peak_memory(trainer.strategy.root_device) or 0.0)
        self.count += 1
        self.passes += 1.0 if self.whole else self.share
        self.trained += self.images * self.share
        self.seconds += seconds
        self.train_seconds += training
        self.waited += waited
        self.row = {
            "epoch": trainer.current_epoch + 1,
            "lr": head_lr(trainer.optimizers[0]),
            "seconds": seconds,
            "images_per_second": self.images * self.share / training,
            "memory_mb": memory,
            "data_wait": waited / training,
        }
        self.row |= {name: float(value) for name, value in trainer.callback_metrics.items() if name in self.columns}
        if trainer.is_global_zero:
            self._append(self.row)
            log.info(self._line())

    def _line(self) -> str:
        row = self.row
        loss = f"validation loss {row['val_loss']:.4f}, " if "val_loss" in row else ""
        return (
            f"epoch {row['epoch']}/{self.epochs}: train loss {row['train_loss']:.4f}, {loss}"
            f"validation {self.shown.title} {row[f'val_{self.shown.key}']:.4f}, {row['seconds']:.1f} s, "
            f"{row['images_per_second']:.4g} images/s, {row['data_wait']:.0%} waiting for data"
        )

    def _append(self, row: dict[str, float]) -> None:
        """Keeps the rows before this epoch's: a run that was killed after a row and before its checkpoint has more."""
        before = [of for of in read_rows(self.path) if int(float(of["epoch"])) < row["epoch"]]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows([*before, row])
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, float]:
        """What a resumed run must remember."""
        times = {"seconds": self.seconds, "train_seconds": self.train_seconds, "waited": self.waited}
        partial_wait = 0.0 if self.started is None else self.wait.seconds - self.wait_before
        partial = {"partial": self._elapsed(), "partial_wait": partial_wait}
        return {"count": self.count, "passes": self.passes, "trained": self.trained, **times, **partial}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.count = int(state_dict["count"])
        self.passes, self.trained, self.seconds = (state_dict[name] for name in ("passes", "trained", "seconds"))
        self.train_seconds, self.waited = state_dict["train_seconds"], state_dict["waited"]
        self.partial, self.partial_wait = state_dict["partial"], state_dict["partial_wait"]
