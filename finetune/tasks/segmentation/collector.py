"""Keeps what validation and test say of each image: counts of pixels, and a sample of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from finetune.evaluation.predictions import Predictions
from finetune.tasks.segmentation.scores import ImageCounts


@dataclass(frozen=True)
class MaskPredictions:
    """Of a split, in the order of its rows.

    Attributes:
        pairs: int64 `[M, 4]`: image, true class, answered class, how many pixels have both.
        images: int64 scalar, how many.
        logits: float32 `[P, K]`, of a sample of pixels.
        targets: int64 `[P]`, of the same.
    """

    pairs: Tensor
    images: Tensor
    logits: Tensor
    targets: Tensor

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    @property
    def sample(self) -> Predictions:
        """The sampled pixels, as if each were an image."""
        return Predictions(self.logits, self.targets)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels of each image and class, int64 `[N, K]`: answered rightly, true, answered."""
        shape = (int(self.images), self.num_classes)
        right, true, answered = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        image, row, column, pixels = self.pairs.numpy().T
        np.add.at(true, (image, row), pixels)
        np.add.at(answered, (image, column), pixels)
        same = row == column
        np.add.at(right, (image[same], row[same]), pixels[same])
        return right, true, answered


class CollectCounts(L.Callback):
    """Keeps what `SegmentationTask` returns of each image, outside of training; in the first process that of all.

    Attributes:
        last: Of the last validation or test; None in the other processes.
    """

    kind = MaskPredictions

    def __init__(self) -> None:
        self.last: MaskPredictions | None = None
        self.found: list[ImageCounts] = []

    def _start(self) -> None:
        self.last, self.found = None, []

    def _add(self, trainer: L.Trainer, outputs: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.found += [
                ImageCounts(of.pairs.cpu(), of.loss.cpu(), of.logits.cpu(), of.targets.cpu()) for of in outputs
            ]

    def _finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        here, self.found = together(self.found, int(module.hparams["num_classes"])), []
        parts = [_everywhere(tensor, module.device) for tensor in (here.pairs, here.images, here.logits, here.targets)]
        if trainer.is_global_zero:
            self.last = joined([MaskPredictions(*of_process) for of_process in zip(*parts, strict=True)])

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
        self._add(trainer, outputs)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keeps a batch."""
        self._add(trainer, outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers what all processes have."""
        self._finish(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers what all processes have."""
        self._finish(trainer, pl_module)


def together(found: Sequence[ImageCounts], classes: int) -> MaskPredictions:
    """Of some images, numbered from 0."""
    pairs = [torch.cat([torch.full((len(of.pairs), 1), n), of.pairs], dim=1) for n, of in enumerate(found)]
    return MaskPredictions(
        torch.cat([torch.zeros(0, 4, dtype=torch.int64), *pairs]),
        torch.tensor(len(found)),
        torch.cat([torch.zeros(0, classes), *(of.logits for of in found)]),
        torch.cat([torch.zeros(0, dtype=torch.int64), *(of.targets for of in found)]),
    )


def joined(parts: Sequence[MaskPredictions]) -> MaskPredictions:
    """Of consecutive parts of a split."""
    before = np.cumsum([0, *(int(part.images) for part in parts[:-1])]).tolist()
    shifted = [part.pairs + torch.tensor([start, 0, 0, 0]) for part, start in zip(parts, before, strict=True)]
    return MaskPredictions(
        torch.cat(shifted),
        torch.stack([part.images for part in parts]).sum(),
        torch.cat([part.logits for part in parts]),
        torch.cat([part.targets for part in parts]),
    )


def _everywhere(tensor: Tensor, device: torch.device) -> list[Tensor]:
    """That of each process, by rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [tensor]
    return [found.cpu() for found in gather_all_tensors(tensor.to(device))]
