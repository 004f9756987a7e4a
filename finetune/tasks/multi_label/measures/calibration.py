"""Probabilities of single classes that mean what they say: one temperature, over all pairs of an image and a class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import binary_calibration_error

from finetune.evaluation import calibration
from finetune.evaluation.calibration import BINS, Temperature
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions


def fit_temperature(validation: MultiLabelPredictions) -> Temperature | None:
    """The temperature at which what is known of the validation images is most likely, by binary cross-entropy.

    Returns:
        None where nothing is known or a logit is not finite; else as `finetune.evaluation.calibration.fit_temperature`.
    """
    known = validation.targets >= 0
    values, targets = validation.logits[known].double(), validation.targets[known].double()
    if not len(values) or not torch.isfinite(values).all():
        return None
    if ((values > 0) == (targets > 0)).all():
        return Temperature(1.0, "not fitted: every validation pair is right, so the likelihood has no maximum")

    def slope(inverse: float) -> tuple[float, float]:
        likely = torch.sigmoid(inverse * values)
        first, second = values * (likely - targets), values.square() * likely * (1 - likely)
        return first.mean().item(), second.mean().item()

    return calibration.solve(slope)


def error(found: MultiLabelPredictions, temperature: float = 1.0) -> float:
    """Expected calibration error of the probabilities of pairs: 15 bins of equal width, mean absolute difference.

    Of each bin it is the mean probability against the share of pairs that are positive.
    """
    probabilities, targets = found.pairs(temperature)
    # torchmetrics 1.9 puts probabilities of exactly 1 into a bin of their own.
    inside = probabilities.float().clamp(max=1 - 2**-24)
    return float(binary_calibration_error(inside, targets, n_bins=BINS, norm="l1"))


def loss(found: MultiLabelPredictions, temperature: float = 1.0) -> float:
    """Mean binary cross-entropy of the pairs, float64, of the logits divided by `temperature`."""
    known = found.targets >= 0
    values, targets = found.logits[known].double(), found.targets[known].double()
    return float(F.binary_cross_entropy_with_logits(values / temperature, targets))


def summary(test: MultiLabelPredictions, temperature: Temperature) -> dict[str, Any]:
    """The `calibration` entry of result.json."""
    value = temperature.value
    entry: dict[str, Any] = {
        "temperature": value,
        "fitted_on": "validation",
        "bins": BINS,
        "test": {
            "error": error(test),
            "error_calibrated": error(test, value),
            "loss": loss(test),
            "loss_calibrated": loss(test, value),
        },
    }
    return entry | ({"note": temperature.note} if temperature.note else {})
