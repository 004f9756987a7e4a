"""What a model said of every image of a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class NumberPredictions:
    """Numbers for the images of a split, in the order of its rows and in the dataset's unit.

    Attributes:
        values: float32 `[N]`, on the CPU.
        targets: float32 `[N]`.
    """

    values: Tensor
    targets: Tensor

    @property
    def errors(self) -> np.ndarray:
        """float64 `[N]`: predicted minus true."""
        found: np.ndarray = (self.values.double() - self.targets.double()).numpy()
        return found
