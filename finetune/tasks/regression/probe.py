"""The linear probe of a regression: ridge on standardised numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from finetune.networks.probing import Probed
from finetune.tasks.regression import ridge
from finetune.tasks.regression.metrics import scores
from finetune.tasks.regression.predictions import NumberPredictions
from finetune.tasks.regression.scaled import Scale


class NumberProbing:
    """`finetune.networks.probing.Probing` of a number an image.

    Args:
        scale: Of the training numbers.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    def fit(
        self,
        features: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        outputs: int,
        seed: int,
        device: torch.device,
    ) -> Probed:
        """Fit to numbers float32 `[N]`; scores are `NumberScores`, in the dataset's unit.

        Raises:
            ValueError: As `ridge.fit`.
        """
        wanted = {role: self.scale.standardised(of.astype(np.float64)) for role, of in targets.items()}
        held = features["validation"], wanted["validation"]
        probe = ridge.fit(features["train"], wanted["train"], held, seed, device)
        predictions = {
            role: NumberPredictions(
                self.scale.restored(probe.logits(features[role])[:, 0]), torch.from_numpy(targets[role])
            )
            for role in ("validation", "test")
        }
        found = {
            role: {name: value.item() for name, value in scores(of.values.double(), of.targets.double()).items()}
            for role, of in predictions.items()
        }
        return Probed(
            probe, dict(predictions), found, f"validation mean absolute error {found['validation']['mae']:.4g}"
        )

    def start_at_zero(self, layer: nn.Linear) -> None:
        """Every answer begins as the median of the training numbers, which has the least absolute error."""
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(self.scale.standardised(self.scale.median))
