"""Lightning modules of a multi-label classifier: of images, and of the features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from finetune.errors import ConfigError
from finetune.networks import models
from finetune.tasks.multi_label.losses import Kind, MultiLabelLoss, positive_weights
from finetune.tasks.multi_label.measures.metrics import MultiLabelScores
from finetune.tasks.one_layer import OnFeatures
from finetune.training.module import TaskModule


class MultiLabelTask(TaskModule):
    """Trains and evaluates a multi-label classifier; works in any Lightning Trainer.

    Batches are float32 `[B, 3, H, W]` and int8 `[B, K]`: 1 where an image shows a class, 0 where not, -1 where it is
    not known. Logs `train_loss`, and for `val` and `test` its scores (`multi_label.measures.metrics`). The thresholds
    of F1 and exact match are fitted in each validation, and taken by the test after it; a test without one answers from
    0.5 on.

    Args:
        model: A model that gives logits `[B, K]`, or the name of one, see `finetune.networks.models.build`.
        num_classes: K.
        pretrained: Load the weights of a model given by name.
        optimizer: Any that timm knows.
        lr: Peak learning rate.
        weight_decay: Weight decay; norms and biases have none.
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the rate falls; stepped per batch.
        schedule: How it falls, see `finetune.training.optim.SHAPES`; along a cosine when not given.
        label_smoothing: A target moves by half of it towards the other answer.
        mixup: Mix pairs of training images with weights from Beta(mixup, mixup), https://arxiv.org/abs/1710.09412; what
            is unknown of one of them is unknown of the mixture.
        cutmix: Paste rectangles between pairs, https://arxiv.org/abs/1905.04899; with `mixup`, a batch has one of both.
        seed: Of what is random in a step: of (seed, epoch, batch, process).
        layer_decay: Factor of the learning rate from each layer to the one before it, see `finetune.training.optim`.
        grad_checkpointing: Compute activations again in the backward pass.
        imbalance: `none` or `class-weights`: positives of a class count negatives over positives times.
        loss: See `multi_label.losses`.
        class_counts: Training images that show each class, where `imbalance` needs them.
        known_counts: Training images of which each class is known.
        thresholds: float `[K]`, logits from which on a class is answered in a test without a validation before it.

    Raises:
        ConfigError: `imbalance` is another, or needs `class_counts`.
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        pretrained: bool = True,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        schedule: str | None = None,
        label_smoothing: float = 0.0,
        mixup: float | None = None,
        cutmix: float | None = None,
        seed: int = 0,
        layer_decay: float | None = None,
        grad_checkpointing: bool = False,
        imbalance: str = "none",
        loss: Kind = "bce",
        class_counts: Sequence[int] | None = None,
        known_counts: Sequence[int] | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        built = models.build(model, num_classes, pretrained) if isinstance(model, str) else model
        answered = np.zeros(num_classes) if thresholds is None else np.array(thresholds, dtype=np.float64)
        self.begin(built, {"val": MultiLabelScores(num_classes), "test": MultiLabelScores(num_classes, answered)})
        mixes = [kind(alpha=alpha) for kind, alpha in ((MixUp, mixup), (CutMix, cutmix)) if alpha]
        self.mix = RandomChoice(mixes) if mixes else None
        self.loss = MultiLabelLoss(loss, _weights(imbalance, class_counts, known_counts, num_classes), label_smoothing)

    def training_loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, mixed where that is asked for."""
        # NaN stays NaN in any mixture.
        shares = torch.where(targets < 0, torch.nan, targets.float())
        if self.mix is not None:
            pixels, shares = self.mix(pixels, shares)
        loss: Tensor = self.loss(self(pixels), shares)
        return loss

    def nothing(self, pixels: Tensor) -> Tensor:
        """float32 logits `[0, K]`."""
        return pixels.new_zeros(0, self.hparams["num_classes"])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores, and keeps the thresholds for a test."""
        super().on_validation_epoch_end()
        scores: Any = self.scores
        scores["test"].thresholds = scores["val"].fitted


class FeatureMultiLabelTask(OnFeatures, MultiLabelTask):
    """Trains and evaluates the classifier of a model on its inputs; all else is as with images.

    Args:
        model: The classifier: features `[B, ...]` -> logits `[B, K]`.
        num_classes: K.
        dropout: Rate of dropout before the classifier.
        options: Those of `MultiLabelTask`.
    """

    def __init__(self, model: nn.Module, num_classes: int, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(model, num_classes, **options)
        self.dropout = dropout


def _weights(
    imbalance: str, counts: Sequence[int] | None, known: Sequence[int] | None, num_classes: int
) -> Tensor | None:
    if imbalance == "none":
        return None
    if imbalance != "class-weights":
        raise ConfigError(
            f"--imbalance {imbalance} is for one class an image: of several, give --imbalance class-weights"
        )
    if counts is None or known is None or not len(counts) == len(known) == num_classes:
        raise ConfigError(
            f"imbalance='class-weights' needs class_counts and known_counts of {num_classes} classes, got {counts}"
        )
    return positive_weights(counts, known)
