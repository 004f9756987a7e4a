"""What a multi-label model said of every image of a split, and which classes that names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MultiLabelPredictions:
    """Outputs for the images of a split, in the order of its rows.

    Attributes:
        logits: float32 `[N, K]`, on the CPU.
        targets: int8 `[N, K]`: 1, 0, or -1 where it is not known.
    """

    logits: Tensor
    targets: Tensor

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, for NumPy."""
        return self.logits.numpy(), self.targets.numpy()

    def pairs(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Probability, float64 `[P]`, and target, int64 `[P]`, of each pair of an image and a class that is known."""
        known = self.targets >= 0
        probabilities = torch.sigmoid(self.logits.double() / temperature)
        return probabilities[known], self.targets[known].long()
