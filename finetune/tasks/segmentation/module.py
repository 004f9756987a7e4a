"""Semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ConfigError
from finetune.tasks.segmentation.loss import SegmentationLoss
from finetune.tasks.segmentation.network import SegmentationNetwork, build
from finetune.tasks.segmentation.scores import ImageCounts, SegmentationScores, count
from finetune.training import sharding
from finetune.training.module import TaskModule


class SegmentationTask(TaskModule):
    """Trains and evaluates a network that gives each pixel a class; works in any Lightning Trainer.

    Training batches are float32 `[B, 3, S, S]` and class indices with 255 for void `[B, S, S]`. In validation and test
    they are lists: float32 `[3, h, w]`, sides multiples of 32, and uint8 `[H, W]`, each mask at its own full size.
    Images are looked at one by one, so that numbers do not depend on what else is in a batch. Logs `train_loss`, and
    for `val` and `test` `{stage}_mean_iou`, `{stage}_pixel_accuracy`, `{stage}_mean_accuracy`, `{stage}_macro_dice`,
    `{stage}_loss`, in float32 whatever the Trainer's precision.

    Args:
        model: A `SegmentationNetwork`, or the name of its backbone, see `finetune.tasks.segmentation.network.build`.
        num_classes: K.
        pretrained: Load the weights of a backbone given by name.
        decoder: Of a backbone given by name.
        optimizer: Any that timm knows.
        lr: Peak learning rate of the decoder.
        backbone_lr: Factor of it for the backbone.
        weight_decay: Weight decay; norms and biases have none.
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the rate falls; stepped per batch.
        schedule: How it falls, see `finetune.training.optim.SHAPES`; along a cosine when not given.
        loss: `ce` or `ce-dice`, see `finetune.tasks.segmentation.loss`.
        auxiliary_loss: Weight of the same loss of the network's auxiliary head, where it has one.
        label_smoothing: Share of each target that is spread over all classes.
        imbalance: What the training loss does about unequal classes, see `finetune.tasks.segmentation.loss`.
        class_counts: Training pixels of each class, where `imbalance` needs them.
        seed: Of what is random in a step (dropout, drop path): of (seed, epoch, batch, process).
        grad_checkpointing: Compute the backbone's activations again in the backward pass.

    Raises:
        ConfigError: `imbalance` needs `class_counts`.
    """

    def __init__(
        self,
        model: str | SegmentationNetwork,
        num_classes: int,
        pretrained: bool = True,
        decoder: str = "fpn",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        backbone_lr: float = 0.1,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        schedule: str | None = None,
        loss: str = "ce",
        auxiliary_loss: float = 0.0,
        label_smoothing: float = 0.0,
        imbalance: str = "none",
        class_counts: Sequence[int] | None = None,
        seed: int = 0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.hparams["layer_decay"] = None
        if imbalance in ("class-weights", "logit-adjustment") and len(class_counts or ()) != num_classes:
            raise ConfigError(
                f"imbalance={imbalance!r} needs class_counts, the training pixels of each of the {num_classes} "
                f"classes, got {class_counts}"
            )
        built = build(model, num_classes, pretrained, decoder) if isinstance(model, str) else model
        self.begin(built, {stage: SegmentationScores(num_classes) for stage in ("val", "test")})
        self.loss = SegmentationLoss(num_classes, loss, class_counts or (), imbalance, label_smoothing)

    def training_loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the images of a batch."""
        weight = self.hparams["auxiliary_loss"]
        if not weight:
            plain: Tensor = self.loss(self(pixels), targets)
            return plain
        logits, second = self.model(pixels.contiguous(memory_format=torch.channels_last), auxiliary=True)
        loss: Tensor = self.loss(logits, targets) + weight * self.loss(second, targets)
        return loss

    def rate_scales(self) -> Mapping[str, float]:
        """The backbone's rate is a part of the decoder's."""
        factor = float(self.hparams["backbone_lr"])
        return {} if factor == 1 else {"network.encoder.": factor}

    def nothing(self, pixels: Tensor) -> list[ImageCounts]:
        """Of no image."""
        return []

    def _evaluate(self, batch: tuple[Any, Any], stage: str) -> list[ImageCounts]:
        """What is known of each image's answer; the scores are updated with it."""
        pixels, targets = batch
        if any(not one.is_floating_point() for one in pixels):
            raise TypeError("expected normalised float32 images: give the Trainer a data module, not its loaders")
        network: Any = self.model
        with torch.autocast(self.device.type, enabled=False):
            found = [
                count(network.whole(image.float()), mask.to(image.device))
                for image, mask in zip(pixels, targets, strict=True)
            ]
            self._keep_up(len(found))
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.scores[stage].to(device).update(found)
        return found

    def _keep_up(self, here: int) -> None:
        """Of a model that is split over processes each forward takes all of them: as many as in the busiest."""
        if not sharding.is_split(self.model):
            return
        most = self.trainer.strategy.reduce(torch.tensor(float(here), device=self.device), reduce_op="max")
        side = SegmentationNetwork.size_multiple
        for _ in range(int(most) - here):
            self(torch.zeros(1, 3, 2 * side, 2 * side, device=self.device))
