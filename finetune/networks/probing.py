"""What differs between the linear probes of tasks whose networks end in one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from finetune.networks.linear_probe import LinearProbe


@dataclass(frozen=True)
class Probed:
    """A probe that was fitted, and how good it is.

    Attributes:
        probe: Weights and bias.
        predictions: By `validation` and `test`, as the task's collector keeps them.
        scores: By `validation` and `test`, as the task's own.
        said: Its validation scores in short: `validation loss 0.1234, validation accuracy 0.9`.
    """

    probe: LinearProbe
    predictions: dict[str, Any]
    scores: dict[str, dict[str, float]]
    said: str


class Probing(Protocol):
    """How the linear probe of a task is fitted and judged, and how a classifier starts without one."""

    def fit(
        self,
        features: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        outputs: int,
        seed: int,
        device: torch.device,
    ) -> Probed:
        """Fit a probe to `train`, and judge it by `validation` and `test`.

        Args:
            features: By role, float32 `[N, D]`.
            targets: By role, the task's `[N, ...]`.
            outputs: Of the layer.
            seed: Of the folds.
            device: Where to compute.

        Raises:
            ValueError: There is nothing to fit; the message says why.
        """

    def start_at_zero(self, layer: nn.Linear) -> None:
        """Weights of zero, and a bias for which the answer is the best without an image."""
