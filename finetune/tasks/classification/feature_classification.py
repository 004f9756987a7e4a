"""Classification of features that a frozen backbone has computed."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from finetune.tasks.classification.image_classification import ImageClassificationTask


class FeatureClassificationTask(ImageClassificationTask):
    """Trains and evaluates the classifier of a model on its inputs; all else is as with images.

    Args:
        model: The classifier: features `[B, ...]` -> logits `[B, num_classes]`.
        num_classes: Number of classes.
        dropout: Rate of dropout before the classifier.
        options: Those of `ImageClassificationTask`.
    """

    def __init__(self, model: nn.Module, num_classes: int, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(model, num_classes, **options)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of float32 features `[B, ...]`."""
        dropped = F.dropout(features, self.dropout) if self.dropout and self.training else features
        logits: Tensor = self.model(dropped)
        return logits
