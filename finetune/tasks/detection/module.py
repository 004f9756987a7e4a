"""Object detection and instance segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.tasks.detection.networks import finding, losses
from finetune.tasks.detection.networks.draws import Draws
from finetune.tasks.detection.networks.layout import Layout
from finetune.tasks.detection.scores import DetectionScores
from finetune.training.module import Batch, TaskModule


class DetectionTask(TaskModule):
    """Trains and evaluates one of `finetune.tasks.detection.networks`; works in any Lightning Trainer.

    Batches are a list of float32 `[3, h, w]`, normalised and of the size that the model looks at, and a list of
    targets: dicts of `boxes` float32 `[n, 4]` xyxy, `labels` int64 `[n]` and, of a model with masks, uint8 `masks`
    `[n, h, w]`. In evaluation boxes are in pixels of the originals, masks are `rles`, and there are `size`, `iscrowd`
    and `area`. Logs `train_loss`, and COCO's numbers for `val` and `test`.

    Each part of the loss is divided by its count over all processes, and what is drawn depends on (seed, epoch, image)
    alone: with norms that are held, and images of one size, gradients do not depend on the number of processes.

    Args:
        model: Of `finetune.tasks.detection.networks.build`.
        optimizer: Any that timm knows.
        lr: Peak learning rate.
        weight_decay: Weight decay; norms and biases have none.
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the rate falls; stepped per batch.
        schedule: How it falls, see `finetune.training.optim.SHAPES`; along a cosine when not given.
        seed: Of what is random in a step.
        freeze: Whether the backbone's own weights stay; the pyramid and the heads train.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str = "adamw",
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        schedule: str | None = None,
        seed: int = 0,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.hparams.update(layer_decay=None, grad_checkpointing=False)
        described: Any = model
        self.layout: Layout = described.layout
        judged = {stage: DetectionScores(self.layout.num_classes, self.layout.masks) for stage in ("val", "test")}
        self.begin(model, judged)
        if freeze:
            self.body.requires_grad_(False)

    @property
    def body(self) -> nn.Module:
        """Timm's backbone, below the pyramid."""
        described: Any = self.model
        body: nn.Module = described.backbone.body
        return body

    def on_train_epoch_start(self) -> None:
        """A backbone that stays as it is has the statistics of its weights, and drops nothing."""
        super().on_train_epoch_start()
        if self.hparams["freeze"]:
            self.body.eval()

    def training_loss(self, pixels: Any, targets: Any) -> Tensor:
        """Sum of the losses, in such a measure that its weight by images gives the division by the global counts."""
        draws = Draws(pixels, self.hparams["seed"], self.current_epoch)
        parts = losses.of_batch(self.model, pixels, targets, draws)
        here = torch.tensor([len(pixels), *(part.number for part in parts.values())], dtype=torch.float64)
        images, *counts = self._over_all(here).tolist()
        # `training_step` weights by the share of this process's images.
        share = images / len(pixels)
        terms = [part.total * share / max(1.0, count) for part, count in zip(parts.values(), counts, strict=True)]
        return torch.stack(terms).sum()

    def _over_all(self, numbers: Tensor) -> Tensor:
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        total: Tensor = self.trainer.strategy.reduce(numbers.to(self.device, precise), reduce_op="sum")
        return total

    def nothing(self, pixels: Any) -> list[finding.Found]:
        """Nothing."""
        return []

    def find(self, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[finding.Found]:
        """What is in images, each looked at by itself; see `finding.find`."""
        return [finding.find(self.model, image.float(), size) for image, size in zip(pixels, sizes, strict=True)]

    def _evaluate(self, batch: Batch, stage: str) -> Any:
        targets = batch[1]
        pixels: Any = batch[0]
        sizes = [(int(target["size"][0]), int(target["size"][1])) for target in targets]
        with torch.autocast(self.device.type, enabled=False):
            found = self.find(pixels, sizes)
        self.scores[stage].update(found, targets)
        return found
