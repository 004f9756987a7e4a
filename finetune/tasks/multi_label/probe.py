"""The linear probe of a multi-label classifier: a logistic regression for each class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from finetune.networks import one_vs_rest
from finetune.networks.probing import Probed
from finetune.tasks.multi_label.measures import metrics, precision
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions


class MultiLabelProbing:
    """`finetune.networks.probing.Probing` of several classes an image.

    Args:
        positives: int64 `[K]`, training images that show each class.
        negatives: The same that do not.
        weights: float32 `[K]`, how much a positive counts in the loss, and so in the probe; 1 each when not given.
    """

    def __init__(self, positives: np.ndarray, negatives: np.ndarray, weights: Tensor | None = None) -> None:
        self.positives, self.negatives, self.weights = positives, negatives, weights

    def fit(
        self,
        features: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        outputs: int,
        seed: int,
        device: torch.device,
    ) -> Probed:
        """Fit to int8 `[N, K]`; scores are `multi_label.measures.metrics.scores`, at thresholds fitted on validation.

        Raises:
            ValueError: As `one_vs_rest.fit`.
        """
        _, groups = np.unique(targets["train"], axis=0, return_inverse=True)
        probe = one_vs_rest.fit(features["train"], targets["train"], groups.reshape(-1), self.weights, seed, device)
        predictions = {
            role: MultiLabelPredictions(probe.logits(features[role]), torch.from_numpy(targets[role]))
            for role in ("validation", "test")
        }
        held = predictions["validation"]
        answered = precision.thresholds(held.logits.numpy(), held.targets.numpy())
        scores = {
            role: metrics.scores(found.logits.numpy(), found.targets.numpy(), answered)
            for role, found in predictions.items()
        }
        of_validation = scores["validation"]
        said = (
            f"validation loss {of_validation['loss']:.4f}, validation {metrics.SCORES[0].title} "
            f"{of_validation['mean_average_precision']:.4f}"
        )
        return Probed(probe, dict(predictions), scores, said)

    def start_at_zero(self, layer: nn.Linear) -> None:
        """Weights of zero, and each class's share of the training images, as log-odds; weighted, where the loss is."""
        bias = one_vs_rest.log_odds(self.positives, self.negatives)
        if self.weights is not None:
            bias = bias + self.weights.double().log()
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(bias)
