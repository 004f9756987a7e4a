"""Gathers the gradients of the micro-batches that make up one optimizer step."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L


class HasMicroBatches(Protocol):
    """A data module that cuts a device's share of each batch into so many."""

    @property
    def micro_batches(self) -> int:
        """How many; known when the number of processes is."""


class Accumulation(L.Callback):
    """Tells the Trainer how many micro-batches `ImageDataModule` makes of a device's share of each batch.

    Under DDP Lightning exchanges gradients with the last of them alone. A run that goes on with another number (on
    other devices, or with another `--device-batch-size`) goes on at the same optimizer step.

    Args:
        images: The data module that the Trainer gets.
    """

    def __init__(self, images: HasMicroBatches | None = None) -> None:
        self.images = images
        self.parts = 1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Asks the data module, now that the number of processes is known."""
        if stage == "fit" and self.images is not None:
            self.parts = trainer.accumulate_grad_batches = self.images.micro_batches

    def state_dict(self) -> dict[str, int]:
        """What Lightning's count of batches means."""
        return {"micro_batches": self.parts}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts the batches behind us in the present micro-batches; Lightning restores its loops after this."""
        before = checkpoint["callbacks"].get(self.state_key, {"micro_batches": 1})["micro_batches"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(rescaled(counts, before, self.parts))


def batches_of_epoch(trainer: L.Trainer) -> float:
    """Batches (of a process, micro-batches) that an epoch is planned with; infinite where nothing says how many.

    A stream has no length: its Trainer has `max_steps`, see `finetune.loading.stream_module`.
    """
    batches: float = trainer.num_training_batches
    if batches == float("inf") and trainer.max_steps > 0 and (trainer.max_epochs or 0) > 0:
        return trainer.max_steps // (trainer.max_epochs or 1) * trainer.accumulate_grad_batches
    return batches


def rescaled(counts: dict[str, int], before: int, now: int) -> dict[str, int]:
    """Lightning's counts of a loop that has stopped between two steps, with `now` for each `before` batches.

    `completed` may be one behind the others: Lightning raises it after the hook in which a checkpoint is saved.
    """
    behind = counts["processed"] - counts["completed"]
    found = {name: count // before * now for name, count in counts.items()}
    return found | {"completed": found["processed"] - behind}
