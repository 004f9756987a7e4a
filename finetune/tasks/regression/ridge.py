"""Ridge regression on frozen features, solved to its optimum for all strengths of the penalty at once.

For features `x` and numbers `y` it is the minimum over w and b of

    sum_i (w x_i + b - y_i)^2 + alpha |w|^2

which is scikit-learn's `Ridge(alpha)`: the bias has no penalty. Ours because it runs on the device that has computed
the features, and because scikit-learn comes with the sample alone. One eigendecomposition, of the smaller of both Gram
matrices, gives every alpha's solution (Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 3.4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.networks.linear_probe import FOLDS, LARGEST_CROSS_VALIDATED, SMALLEST_VALIDATION, LinearProbe, folds

ALPHAS = tuple(10.0 ** (power / 2) for power in range(-12, 7))
"""Penalties that are tried, from little to much, times the sum of the squared lengths of the centred features."""


@dataclass(frozen=True)
class Solved:
    """The solutions of one set of images for several alphas.

    Attributes:
        weights: float64 `[A, D]`.
        biases: float64 `[A]`.
    """

    weights: Tensor
    biases: Tensor

    def predicted(self, features: Tensor) -> Tensor:
        """float64 `[A, N]` of features float64 `[N, D]`."""
        return self.weights @ features.T + self.biases[:, None]


def solve(features: Tensor, targets: Tensor, alphas: Sequence[float]) -> Solved:
    """The minimum for each alpha.

    Args:
        features: float64 `[N, D]`.
        targets: float64 `[N]`.
        alphas: Positive.
    """
    centre, level = features.mean(dim=0), targets.mean()
    inputs, wanted = features - centre, targets - level
    penalties = torch.tensor(alphas, dtype=torch.float64, device=features.device)[:, None]
    if inputs.shape[0] >= inputs.shape[1]:
        values, vectors = torch.linalg.eigh(inputs.T @ inputs)
        weights = ((vectors.T @ (inputs.T @ wanted)) / (values.clamp(min=0) + penalties)) @ vectors.T
    else:
        values, vectors = torch.linalg.eigh(inputs @ inputs.T)
        weights = (((vectors.T @ wanted) / (values.clamp(min=0) + penalties)) @ vectors.T) @ inputs
    return Solved(weights, level - weights @ centre)


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> LinearProbe:
    """Fit a probe; its alpha is what gives the lowest mean squared error on images that were not fitted.

    Args:
        features: float32 `[N, D]`.
        targets: float `[N]`, standardised.
        validation: Features and targets of other images: alpha is chosen on these where more than
            `LARGEST_CROSS_VALIDATED` are to be fitted and there are `SMALLEST_VALIDATION`; else by cross-validation.
        seed: Of the folds.
        device: Where to compute; the CPU when not given, or where it has no float64.

    Raises:
        ValueError: The features are not one finite vector per image, or there are fewer images than folds.
    """
    if features.ndim != 2 or len(features) != len(targets) or not np.isfinite(features).all():
        raise ValueError(f"expected finite features [N, D] of N numbers, got {features.shape} and {len(targets)}")
    if len(targets) < FOLDS:
        raise ValueError(f"expected at least {FOLDS} images, got {len(targets)}")
    where = torch.device("cpu") if device is None or device.type == "mps" else device
    inputs, wanted = _moved(features, where), _moved(targets, where)
    unit = float((inputs - inputs.mean(dim=0)).square().sum())
    if not unit > 0:
        raise ValueError("expected features that differ, got the same ones for all images")
    alphas = [alpha * unit for alpha in ALPHAS]
    enough = validation is not None and len(validation[1]) >= SMALLEST_VALIDATION
    if validation is not None and enough and len(targets) > LARGEST_CROSS_VALIDATED:
        held = _moved(validation[0], where), _moved(validation[1], where)
        errors = _errors(inputs, wanted, *held, alphas)
        chosen_by = f"squared error of {len(validation[1])} validation images"
    else:
        numbers = torch.from_numpy(folds(np.zeros(len(targets), dtype=np.int64), FOLDS, seed)).to(where)
        errors = torch.zeros(len(alphas), dtype=torch.float64, device=where)
        for fold in range(FOLDS):
            rest, held_out = numbers != fold, numbers == fold
            errors += _errors(inputs[rest], wanted[rest], inputs[held_out], wanted[held_out], alphas)
        chosen_by = f"squared error in {FOLDS} folds of the training images"
    alpha = alphas[int(errors.argmin())]
    found = solve(inputs, wanted, [alpha])
    return LinearProbe(found.weights.cpu(), found.biases.cpu(), alpha, chosen_by, len(targets))


def _errors(inputs: Tensor, targets: Tensor, held: Tensor, others: Tensor, alphas: Sequence[float]) -> Tensor:
    """Sum of the squared errors on what was held out, float64 `[A]`."""
    return (solve(inputs, targets, alphas).predicted(held) - others).square().sum(dim=1)


def _moved(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64)).to(device)
