"""Regression on features that a frozen backbone has computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune.tasks.one_layer import OnFeatures
from finetune.tasks.regression.image_regression import ImageRegressionTask


class FeatureRegressionTask(OnFeatures, ImageRegressionTask):
    """Trains and evaluates the last layer of a model on its inputs; all else is as with images.

    Args:
        model: The layer: features `[B, ...]` -> numbers `[B, 1]`.
        dropout: Rate of dropout before the layer.
        options: Those of `ImageRegressionTask`.
    """

    def __init__(self, model: nn.Module, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(model, **options)
        self.dropout = dropout
