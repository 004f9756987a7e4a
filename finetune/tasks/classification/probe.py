"""The linear probe of a classifier: multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from finetune.evaluation.metrics import ClassificationScores
from finetune.evaluation.predictions import Predictions
from finetune.networks import head_start, linear_probe
from finetune.networks.probing import Probed
from finetune.training import imbalance


class ClassProbing:
    """`finetune.networks.probing.Probing` of one class an image.

    Args:
        counts: Training images of each class.
        remedy: See `finetune.training.imbalance`; it weights the probe as it does the training.
    """

    def __init__(self, counts: Sequence[int], remedy: str = "none") -> None:
        self.counts, self.remedy = counts, remedy

    def fit(
        self,
        features: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        outputs: int,
        seed: int,
        device: torch.device,
    ) -> Probed:
        """Fit to class indices int64 `[N]`; scores are `ClassificationScores`.

        Raises:
            ValueError: As `linear_probe.fit`.
        """
        probe = linear_probe.fit(
            features["train"],
            targets["train"],
            outputs,
            (features["validation"], targets["validation"]),
            imbalance.regression_weights(targets["train"], outputs, self.remedy),
            seed,
            device,
        )
        probe = imbalance.unadjusted(probe, targets["train"], self.remedy)
        predictions = {
            role: Predictions(probe.logits(features[role]), torch.from_numpy(targets[role].astype(np.int64)))
            for role in ("validation", "test")
        }
        scores = {role: _scores(found, outputs) for role, found in predictions.items()}
        of_validation = scores["validation"]
        said = f"validation loss {of_validation['loss']:.4f}, validation accuracy {of_validation['accuracy']:.4f}"
        return Probed(probe, dict(predictions), scores, said)

    def start_at_zero(self, layer: nn.Linear) -> None:
        """Each class begins with its share of the training images, or all alike where the loss takes care of that."""
        head_start.start_at_zero(layer, self.counts if self.remedy == "none" else None)


def _scores(predictions: Predictions, classes: int) -> dict[str, float]:
    metric = ClassificationScores(classes, sync_on_compute=False)  # one process has all
    metric.update(predictions.logits, predictions.targets)
    return {name: value.item() for name, value in metric.compute().items()}
