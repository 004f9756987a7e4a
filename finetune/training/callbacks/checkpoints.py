"""Keeps the best epoch and the last state, and stops when it is asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from finetune.console import log
from finetune.errors import CheckpointError, Stopped
from finetune.evaluation.metrics import RANKING
from finetune.task import Baseline, Score
from finetune.training.callbacks.agreement import largest
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.callbacks.limits import Limits
from finetune.training.callbacks.signals import StopOnSignal
from finetune.training.checkpoint_io import AtomicCheckpointIO, damage, load, same_content

BEST, LAST, PREVIOUS, FRESH = "best.ckpt", "last.ckpt", "previous.ckpt", "fresh.ckpt"
MINUTES = 15

_NOTHING, _SAVE, _STOP = range(3)


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` during and after every epoch, and `best.ckpt` when it is the best on validation.

    Ties of the first score go to the next, and then to the earlier epoch; Lightning's ModelCheckpoint has one monitor
    only. The linear probe, where there is one, is the first of the epochs. While training goes on, the last but one
    stays as `previous.ckpt`, for the case that the last one is lost to the disk.

    Args:
        folder: Where to write.
        signals: Says whether the run is asked to stop; then all processes save at the same step and raise.
        save_every: Optimizer steps between saves within an epoch; every 15 minutes when not given.
        advice: How the run goes on, for messages.
        limits: Told of each epoch's place, and may stop the training.

    Attributes:
        io: Writes the files; the Trainer needs it as a plugin.
        identity: What the checkpoints belong to, see `finetune.training.resume`; stored in them.
        start: The checkpoint that the run goes on from, if any.
        chooses: Whether there are enough validation images to tell which epoch is the best; else it is the last.
        best: Scores, the larger the better, of what `best.ckpt` holds.
        best_epoch: Which one it is, from 0; -1 for the linear probe.
        best_trained: The best of the epochs that were trained, and which one it is.
    """

    def __init__(
        self,
        folder: Path,
        signals: StopOnSignal,
        save_every: int | None = None,
        advice: str = "resume it",
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.measure(HeadStart("timm"), RANKING)
        self.folder, self.signals, self.save_every, self.advice = folder, signals, save_every, advice
        self.io = AtomicCheckpointIO()
        self.identity: dict[str, Any] = {}
        self.start: Path | None = None
        self.chooses = True
        self.best: tuple[float, ...] | None = None
        self.best_epoch: int | None = None
        self.best_trained: tuple[Any, ...] | None = None
        self.saving_probe = False
        self.saving_best = False
        self.saved_at = 0.0

    def measure(self, head: Baseline, ranking: Sequence[Score]) -> None:
        """Say what the training has to beat, and by which scores an epoch is the best; else accuracy, then loss."""
        self.head, self.ranking = head, ranking

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The linear probe is the best so far: it is what is left of a training that makes nothing better.

        Raises:
            CheckpointError: The checkpoint cannot be written.
        """
        found, solved = self.head.scores, trainer.max_epochs == 0
        if self.start is not None or found is None or not (self.chooses or solved):
            return
        self.best, self.best_epoch = self._rank(found["validation"]), -1
        self.saving_probe = True
        try:
            self._save(trainer, self._keep_probe if solved else self._keep_best)
        finally:
            self.saving_probe = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the probe's classifier in the place of the one that the training starts with."""
        if self.saving_probe:
            checkpoint["state_dict"] |= self.head.entries

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and clears up after a run that was killed; all processes have read what they need."""
        self.saved_at = time.monotonic()
        if not trainer.is_global_zero:
            return
        for left in (self.folder / FRESH, *self.folder.glob("*.part")):
            left.unlink(missing_ok=True)
        if self.start is not None and self.start.name == PREVIOUS:  # the last one must not take its place
            same_content(self.start, self.folder / LAST)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time; saves and stops when a signal has come.

        Nothing is saved between the micro-batches of a step, for gathered gradients are in no checkpoint; and nothing
        after an epoch's last step, also where `Limits` makes it that: its validation comes first, then the end of the
        epoch saves.

        Raises:
            Stopped: A signal has come.
            CheckpointError: The checkpoint cannot be written.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        wish = _STOP if self.signals.received else _SAVE if self._due(trainer) else _NOTHING
        wish = largest(trainer, wish)
        if wish == _NOTHING or trainer.is_last_batch or trainer.should_stop:
            return
        self._save_last(trainer)
        if wish == _STOP:
            self._stop()

    def _due(self, trainer: L.Trainer) -> bool:
        if self.save_every is not None:
            return trainer.global_step % self.save_every == 0
        return time.monotonic() - self.saved_at >= 60 * MINUTES

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares, saves, and stops when a signal has come; validation has run by now.

        Raises:
            Stopped: A signal has come.
            CheckpointError: The checkpoint cannot be written.
        """
        rank = self._rank({of.key: float(trainer.callback_metrics[f"val_{of.key}"]) for of in self.ranking})
        improved = not self.chooses or self.best is None or rank > self.best
        if improved:
            self.best, self.best_epoch = rank, trainer.current_epoch
        # A training may take a while to come up to its probe: patience is with what it has reached itself.
        if self.best_trained is None or rank > self.best_trained[:-1]:
            self.best_trained = (*rank, trainer.current_epoch)
        self.limits.decide(trainer, trainer.current_epoch - self.best_trained[-1])
        self._save_last(trainer, improved)
        if largest(trainer, _STOP if self.signals.received else _NOTHING) == _STOP:
            self._stop()

    def _rank(self, scores: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(scores[of.key] if of.higher else -scores[of.key] for of in self.ranking)

    def _stop(self) -> None:
        raise Stopped(f"stopped by {self.signals.received or 'a signal to another process'}; {self.advice}")

    def _save_last(self, trainer: L.Trainer, best: bool = False) -> None:
        self.saving_best = best
        try:
            self._save(trainer, self._shift_best if best else self._shift)
        finally:
            self.saving_best = False

    def _save(self, trainer: L.Trainer, keep: Callable[[Path], None]) -> None:
        """Write a checkpoint, and let `keep` put it in its place."""
        fresh = self.folder / FRESH
        trainer.save_checkpoint(fresh)  # every process takes part, the first one writes
        error = self.io.error
        if trainer.is_global_zero and error is None:
            try:
                keep(fresh)
            except OSError as problem:
                error = problem
                fresh.unlink(missing_ok=True)
        if largest(trainer, int(error is not None)):
            reason = error.strerror if error else "see the first process"
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {reason}; those written before are intact: free some "
                f"space, then {self.advice}"
            ) from error
        self.saved_at = time.monotonic()

    def _keep_best(self, fresh: Path) -> None:
        os.replace(fresh, self.folder / BEST)

    def _keep_probe(self, fresh: Path) -> None:
        """Of a run that trains nothing else."""
        same_content(fresh, self.folder / BEST)
        os.replace(fresh, self.folder / LAST)

    def _shift_best(self, fresh: Path) -> None:
        """`best.ckpt` is never older than what `last.ckpt` says of it."""
        same_content(fresh, self.folder / BEST)
        self._shift(fresh)

    def _shift(self, fresh: Path) -> None:
        """At every moment there is a whole `last.ckpt`."""
        if (self.folder / LAST).exists():
            same_content(self.folder / LAST, self.folder / PREVIOUS)
        os.replace(fresh, self.folder / LAST)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is kept for an accident goes."""
        if trainer.is_global_zero:
            (self.folder / PREVIOUS).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_trained": self.best_trained,
            "identity": self.identity,
            "is_best": self.saving_best,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `best.ckpt`, newer than `state_dict` where a run was killed between the two, or fell back."""
        best = self.folder / BEST
        problem = damage(best)
        if problem and state_dict.get("is_best") and self.start is not None:
            # best.ckpt was this very file; all processes do the same, and each finds a whole one.
            log.warning(f"{BEST} is {problem}: {self.start.name} is the best epoch's too, and takes its place")
            same_content(self.start, best)
            problem = None
        recorded = {"best": None, "best_epoch": None} if problem else load(best, mmap=True)["callbacks"][self.state_key]
        self.best = None if recorded["best"] is None else tuple(recorded["best"])
        self.best_epoch = recorded["best_epoch"]
        trained = state_dict.get("best_trained")
        if trained is None and self.best is not None and self.best_epoch not in (None, -1):  # of an earlier version
            trained = (*self.best, self.best_epoch)
        self.best_trained = None if trained is None else tuple(trained)
        if problem and state_dict["best"] is not None:
            log.warning(f"{BEST} is {problem}: the best epoch is chosen among those that follow")
