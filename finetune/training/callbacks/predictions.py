"""Keeps what validation and test predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from finetune.evaluation.predictions import Predictions


class CollectPredictions(L.Callback):
    """Keeps the logits and targets of `Trainer.validate` and `Trainer.test`, in row order, in the first process.

    Needs steps that return a tensor with a row an image, such as logits `[B, C]`, batches whose second entry are
    targets `[B, ...]`, and as many batches in every process, each process with consecutive rows: as
    `loading.sampler.EvalBatches` deals them. Batches are gathered one by one at the end, so that a device never holds
    more than one batch of each process.

    Args:
        kind: What is made of all outputs and all targets.

    Attributes:
        last: Predictions of the last validation or test outside of training; None in the other processes.
    """

    def __init__(self, kind: Callable[[Tensor, Tensor], Any] = Predictions) -> None:
        self.kind = kind
        self.last: Any = None
        self.batches: list[tuple[Tensor, Tensor]] = []

    def _start(self) -> None:
        self.last, self.batches = None, []

    def _add(self, trainer: L.Trainer, logits: Any, batch: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return  # validation during training: nothing is made of it but scores
        self.batches.append((logits.float().cpu(), batch[1].cpu()))

    def _finish(self, trainer: L.Trainer, device: torch.device) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        gathered = [_gather(logits, targets, device) for logits, targets in self.batches]
        self.batches = []
        if trainer.is_global_zero and gathered:
            # [batch][process] -> all of the first process's batches, then the second's: row order.
            parts = [part for of_process in zip(*gathered, strict=True) for part in of_process]
            self.last = self.kind(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

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
        """Gathers all processes' batches."""
        self._finish(trainer, pl_module.device)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers all processes' batches."""
        self._finish(trainer, pl_module.device)


def _gather(logits: Tensor, targets: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """One batch of every process, by rank; they may differ in length."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [(logits, targets)]
    everywhere = [gather_all_tensors(tensor.to(device)) for tensor in (logits, targets)]
    return [(a.cpu(), b.cpu()) for a, b in zip(*everywhere, strict=True)]
