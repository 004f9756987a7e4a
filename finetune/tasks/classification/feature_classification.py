"""Classification of features that a frozen backbone has computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune.tasks.classification.image_classification import ImageClassificationTask
from finetune.tasks.one_layer import OnFeatures


class FeatureClassificationTask(OnFeatures, ImageClassificationTask):
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
