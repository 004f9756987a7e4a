"""What a model said of every image of a split: the ground of all numbers that are not plain counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """Outputs for the images of a split, in the order of its rows.

    Attributes:
        logits: float32 `[N, C]`, on the CPU.
        targets: int64 `[N]`.
    """

    logits: Tensor
    targets: Tensor

    @property
    def num_classes(self) -> int:
        """C."""
        return self.logits.shape[1]

    @cached_property
    def labels(self) -> Tensor:
        """int64 `[N]`: the class with the largest logit."""
        return self.logits.argmax(dim=1)

    @property
    def correct(self) -> Tensor:
        """Bool `[N]`."""
        return self.labels == self.targets

    def confidences(self, temperature: float = 1.0) -> Tensor:
        """float64 `[N]`: probability of the predicted class, from the logits divided by `temperature`."""
        parts = [(part.double() / temperature).softmax(dim=1).amax(dim=1) for part in torch.split(self.logits, 8192)]
        return torch.cat(parts)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets, predicted classes and how many images have both, each int64 `[K]`, sorted; no pair without images.

        The confusion matrix without its zeros: also for thousands of classes.
        """
        keys, counts = torch.unique(self.targets * self.num_classes + self.labels, return_counts=True)
        targets, labels = keys // self.num_classes, keys % self.num_classes
        return targets.numpy(), labels.numpy(), counts.numpy()
