"""Probabilities that mean what they say: temperature scaling and calibration error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from finetune.evaluation.predictions import Predictions

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
_ROWS = 8192  # of the logits in float64 at a time


@dataclass(frozen=True)
class Temperature:
    """A temperature, and what should be known of it.

    Attributes:
        value: Logits are divided by it before the softmax.
        note: Why it is not the maximum of the likelihood, if it is not.
    """

    value: float
    note: str | None = None


def fit_temperature(validation: Predictions) -> Temperature | None:
    """The temperature at which the validation images' targets are most likely.

    The mean cross-entropy is convex in 1 / temperature; its derivative's root is found by Newton's method, kept in a
    bracket by bisection, in float64, to a relative 1e-10.

    Returns:
        None where there is no image or a logit is not finite. 1, with a note, where every image is right: then the
        likelihood rises without end as the temperature falls, and nothing says how sure is too sure. A bound, with a
        note, where the root lies beyond it.

    Source: Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
    """
    logits, targets = validation.logits, validation.targets
    if not len(targets) or not torch.isfinite(logits).all():
        return None
    if (logits.gather(1, targets[:, None])[:, 0] >= logits.amax(dim=1)).all():
        return Temperature(1.0, "not fitted: every validation image is right, so the likelihood has no maximum")
    return solve(lambda inverse: _slope(inverse, logits, targets))


def solve(slope_at: Callable[[float], tuple[float, float]]) -> Temperature:
    """The root of a loss's derivative, or a bound where it lies beyond it.

    Args:
        slope_at: First and second derivative of a convex loss, at 1 / temperature.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope_at(low)[0] >= 0:
        return Temperature(HOTTEST, f"kept at the bound of {HOTTEST:g}: the likelihood still rises there")
    if slope_at(high)[0] <= 0:
        return Temperature(COLDEST, f"kept at the bound of {COLDEST:g}: the likelihood still rises there")
    inverse = 1.0
    for _ in range(100):
        slope, curvature = slope_at(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-10 * inverse:
            return Temperature(1 / following)
        inverse = following
    return Temperature(1 / inverse)


def _slope(inverse: float, logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by 1 / temperature: a mean and a variance of logits."""
    slope, curvature = 0.0, 0.0
    for part, of_part in zip(torch.split(logits, _ROWS), torch.split(targets, _ROWS), strict=True):
        # Relative to the largest, which the derivatives do not depend on, so that nothing large cancels.
        values = part.double() - part.double().amax(dim=1, keepdim=True)
        shares = (inverse * values).softmax(dim=1)
        mean = (shares * values).sum(dim=1, keepdim=True)
        slope += (mean - values.gather(1, of_part[:, None])).sum().item()
        curvature += (shares * (values - mean).square()).sum().item()
    return slope / len(targets), curvature / len(targets)


def calibration_error(predictions: Predictions, temperature: float = 1.0) -> float:
    """Expected calibration error of the predicted class: 15 bins of equal width, mean absolute difference.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    confidences = predictions.confidences(temperature).float()
    # torchmetrics 1.9 puts confidences of exactly 1 into a bin of their own.
    confidences = confidences.clamp(max=1 - 2**-24)
    # What it needs of [N, C] are each row's largest entry and whether it stands at the target: two columns tell both.
    two = torch.stack([confidences, torch.zeros_like(confidences)], dim=1)
    error = multiclass_calibration_error(two, (~predictions.correct).long(), num_classes=2, n_bins=BINS, norm="l1")
    return float(error)


def mean_loss(predictions: Predictions, temperature: float = 1.0) -> float:
    """Mean cross-entropy in nats, float64, of the logits divided by `temperature`."""
    parts = zip(torch.split(predictions.logits, _ROWS), torch.split(predictions.targets, _ROWS), strict=True)
    total = sum(F.cross_entropy(logits.double() / temperature, of, reduction="sum").item() for logits, of in parts)
    return total / len(predictions.targets)


def summary(test: Predictions, temperature: Temperature) -> dict[str, object]:
    """The `calibration` entry of result.json."""
    value = temperature.value
    entry: dict[str, object] = {
        "temperature": value,
        "fitted_on": "validation",
        "bins": BINS,
        "test": {
            "error": calibration_error(test),
            "error_calibrated": calibration_error(test, value),
            "loss": mean_loss(test),
            "loss_calibrated": mean_loss(test, value),
        },
    }
    return entry | ({"note": temperature.note} if temperature.note else {})


def line(temperature: float, error: float, calibrated: float) -> str:
    """One line on calibration, for people."""
    return f"calibration error: {error:.4f}, and {calibrated:.4f} at temperature {temperature:.3f}"
