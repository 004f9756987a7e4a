"""Stops a training whose loss is no longer a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from finetune.errors import NonFiniteError
from finetune.training.callbacks.accumulation import batches_of_epoch
from finetune.training.sharding import here

_ERRORS = ("loss", "mae", "rmse")
"""Scores that are finite wherever the outputs are; others are undefined where, say, all targets are equal."""

REMEDY = "lower --lr, give --clip-grad 1, or train with --precision 32"


@dataclass(frozen=True)
class _Loss:
    """The loss of a batch, perhaps still on its way to the CPU.

    Attributes:
        epoch: From 0.
        batch: Of the epoch, from 0.
        total: float32 `[2]` on the CPU, sum of the losses and number of images over all processes.
        here: Loss of this process, on its device.
        arrival: CUDA event after which `total` is there; None where it is there already.
    """

    epoch: int
    batch: int
    total: Tensor
    here: Tensor
    arrival: torch.cuda.Event | None


class StopOnNonFinite(L.Callback):
    """Ends the training, on all processes at the same step, when the loss of a batch is NaN or infinite.

    On a CUDA GPU a loss is looked at one batch later, when it has arrived by itself: nobody waits for it. Before a
    checkpoint is saved everything is looked at, the weights included, so that none holds what cannot be gone on with.

    Args:
        images: The data module that the Trainer gets: it says which images were in the batch.
    """

    def __init__(self, images: Any = None) -> None:
        self.images = images
        self.pending: _Loss | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the loss of the batch before, or of this one where that costs nothing.

        Raises:
            NonFiniteError: The loss is not finite.
        """
        self._look(trainer)
        total, arrival = to_cpu(pl_module.batch_loss)  # type: ignore[arg-type]
        self.pending = _Loss(trainer.current_epoch, batch_idx, total, outputs["loss"].detach(), arrival)
        if arrival is None or trainer.is_last_batch:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the errors of the validation before a checkpoint is saved of them; all processes have the same.

        Raises:
            NonFiniteError: One is not finite: finite weights can give infinite outputs.
        """
        found = {name: float(trainer.callback_metrics.get(f"val_{name}", 0.0)) for name in _ERRORS}
        bad = {name: value for name, value in found.items() if not math.isfinite(value)}
        if bad:
            said = ", ".join(f"{name} {value}" for name, value in bad.items())
            raise NonFiniteError(
                f"the validation after epoch {trainer.current_epoch + 1} gave {said}: the model's outputs are no "
                f"longer numbers; no checkpoint was saved of it: {REMEDY}"
            )

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks at all there is.

        Raises:
            NonFiniteError: A loss or a weight is not finite.
        """
        self._look(trainer)
        finite = torch.stack([here(parameter.detach()).isfinite().all() for parameter in pl_module.parameters()]).all()
        if not _everywhere(trainer, finite):
            raise NonFiniteError(
                f"the weights became infinite or NaN in epoch {trainer.current_epoch + 1}, by optimizer step "
                f"{trainer.global_step}, with a finite loss; no checkpoint was saved: {REMEDY}"
            )

    def _look(self, trainer: L.Trainer) -> None:
        loss, self.pending = self.pending, None
        if loss is None:
            return
        if loss.arrival is not None:
            loss.arrival.synchronize()
        if not loss.total.isfinite().all():
            raise NonFiniteError(_message(trainer, loss, self.images))


def to_cpu(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Values on the CPU, and the event that tells when a copy that nobody waits for is there."""
    if values.device.type != "cuda":
        return values.cpu(), None
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copy = values.to("cpu", non_blocking=True)  # to pinned memory
    arrived.record()
    return copy, arrived


def _everywhere(trainer: L.Trainer, finite: Tensor) -> bool:
    """Whether it is so on all processes."""
    return bool(_gathered(trainer, finite).all())


def _gathered(trainer: L.Trainer, value: Tensor) -> Tensor:
    """Every process's value `[]`, float32 `[world]`."""
    if trainer.world_size == 1:
        return value.float().reshape(1).cpu()
    found = [torch.zeros_like(value, dtype=torch.float32) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(found, value.float())
    return torch.stack(found).cpu()


def _message(trainer: L.Trainer, loss: _Loss, images: Any) -> str:
    """Says where, on which images, and what to try; called on all processes."""
    mean = float(loss.total[0] / loss.total[1])
    parts = trainer.accumulate_grad_batches
    steps = -(-int(batches_of_epoch(trainer)) // parts)
    where = f"epoch {loss.epoch + 1}, step {loss.batch // parts + 1} of {steps}"
    finite = _gathered(trainer, loss.here.isfinite())
    ranks = [rank for rank, whole in enumerate(finite.tolist()) if not whole]
    return f"the loss became {mean} in {where}{_images(images, loss, ranks)}: {REMEDY}"


def _images(images: Any, loss: _Loss, ranks: list[int]) -> str:
    """The images that the given processes had at that moment; called on all processes."""
    known = hasattr(images, "batch_images") and images.batch_images(loss.epoch, loss.batch, ranks)
    return f", on the images in {known}" if known else ""
