"""A linear probe: multinomial logistic regression on frozen features, solved to its optimum.

The bar that a finetune has to beat, and where its classifier may start. For features `x`, classes `y`, weights `s` of
the images (1 on average) and a strength C it is the minimum over W and b of

    C sum_i s_i cross_entropy(W x_i + b, y_i) + 1/2 |W|^2

which is scikit-learn's `LogisticRegression(C=C)`, also for two classes, where that has one row instead of two: W is
then half of it, up and down, and the penalty counts twice. It is convex, and the same from any start; what is done here
in float64 differs from scikit-learn's by what both stop at. Ours because it runs on the device that has computed the
features, and in coordinates in which a few dozen steps are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.networks.logistic_regression import Regression

FOLDS = 5
LARGEST_CROSS_VALIDATED = 2_000
"""Images up to which the strength is always chosen by cross-validation, which takes FOLDS times as long as a split."""
SMALLEST_VALIDATION = 100
"""Validation images from which on they may choose it instead."""
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-2, 11))
"""Strengths that are tried, from little to much freedom, times the mean squared length of the centred features."""


@dataclass(frozen=True)
class LinearProbe:
    """A classifier on features.

    Attributes:
        weight: float64 `[K, D]`, on the CPU.
        bias: float64 `[K]`.
        strength: C.
        chosen_by: How the strength was chosen, for people.
        images: That it was fitted to.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    chosen_by: str
    images: int

    def logits(self, features: np.ndarray) -> Tensor:
        """float32 `[N, K]` of features float32 `[N, D]`."""
        weight, bias = self.weight.float(), self.bias.float()
        return torch.cat([F.linear(torch.from_numpy(part.copy()), weight, bias) for part in _chunks(features)])


@dataclass(frozen=True)
class Epoch0:
    """The linear probe, as an epoch before the first.

    Attributes:
        probe: Its weights.
        scores: Of `validation` and `test`, as the task's own.
        seconds: That features and solution took.
        said: Its validation scores in short.
    """

    probe: LinearProbe
    scores: dict[str, dict[str, float]]
    seconds: float
    said: str = ""


def _chunks(features: np.ndarray, rows: int = 8192) -> Iterator[np.ndarray]:
    return (features[start : start + rows] for start in range(0, len(features), rows))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    class_weights: Tensor | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> LinearProbe:
    """Fit a probe; its strength is what gives the lowest cross-entropy on images that were not fitted.

    Args:
        features: float32 `[N, D]`.
        labels: int64 `[N]`.
        num_classes: K. A class without images gets a weight of zero and a bias below all others.
        validation: Features and labels of other images: the strength is chosen on these where more than
            `LARGEST_CROSS_VALIDATED` are to be fitted and there are `SMALLEST_VALIDATION`; else by cross-validation.
        class_weights: float `[K]`, how much an image of each class counts; 1 each when not given.
        seed: Of the folds.
        device: Where to compute; the CPU when not given, or where it has no float64.

    Raises:
        ValueError: The features are not one finite vector per image, or all images are of one class.
    """
    present = np.unique(labels)
    if features.ndim != 2 or len(features) != len(labels) or not np.isfinite(features).all():
        raise ValueError(f"expected finite features [N, D] of N labels, got {features.shape} and {len(labels)}")
    if len(present) < 2:
        raise ValueError("expected images of at least two classes, got those of one")
    where = torch.device("cpu") if device is None or device.type == "mps" else device
    targets = torch.from_numpy(np.searchsorted(present, labels)).to(where)
    weights = None if class_weights is None else class_weights.double().to(where)[torch.from_numpy(present).to(where)]
    regression = Regression(torch.from_numpy(np.array(features)).to(where, torch.float64), len(present), weights)
    enough = validation is not None and len(validation[1]) >= SMALLEST_VALIDATION
    if validation is not None and enough and len(labels) > LARGEST_CROSS_VALIDATED:
        known = np.isin(validation[1], present)  # of a class without training images nothing can be learnt
        held = regression.coordinates(torch.from_numpy(validation[0][known]).to(where, torch.float64))
        held_targets = torch.from_numpy(np.searchsorted(present, validation[1][known])).to(where)
        splits = [(regression.inputs, targets, held, held_targets)]
        chosen_by = f"cross-entropy of {len(held_targets)} validation images"
    else:
        numbers = torch.from_numpy(folds(labels, FOLDS, seed)).to(where)
        splits = [
            (regression.inputs[rest], targets[rest], regression.inputs[held], targets[held])
            for fold in range(FOLDS)
            for rest, held in [(numbers != fold, numbers == fold)]
        ]
        chosen_by = f"cross-entropy in {FOLDS} folds of the training images"
    strength = _choose(regression, [split for split in splits if len(split[3])])
    start = regression.solve(regression.inputs, targets, strength)
    weight, bias = regression.restore(regression.polish(targets, strength, start))
    return _whole(weight, bias, present, num_classes, strength * regression.unit, chosen_by, len(labels))


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold, 0 to count - 1, of each image, int64 `[N]`: each class is dealt out evenly, in a seeded order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[by_class] = np.arange(len(labels)) % count
    return numbers


def _choose(regression: Regression, splits: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> float:
    """The strength with the lowest mean cross-entropy of what was held out, in units of `regression.unit`.

    Args:
        regression: The problem.
        splits: Inputs and targets to fit, inputs and targets to judge by.
    """
    # float32 is enough to compare by, and takes half of the time.
    parts = [(inputs.float(), targets, held.float(), others) for inputs, targets, held, others in splits]
    importance = None if regression.weights is None else regression.weights.float()
    starts: list[Tensor | None] = [None] * len(parts)
    losses: list[float] = []
    for strength in STRENGTHS:
        total = 0.0
        for number, (inputs, targets, held, others) in enumerate(parts):
            solution = starts[number] = regression.solve(inputs, targets, strength, starts[number])
            logits = F.linear(held, solution[:, :-1], solution[:, -1])
            total += float(F.cross_entropy(logits, others, importance, reduction="sum"))
        if losses and total > losses[-1]:  # more freedom will not help either
            break
        losses.append(total)
    return float(STRENGTHS[len(losses) - 1])


def _whole(
    weight: Tensor, bias: Tensor, present: np.ndarray, num_classes: int, strength: float, chosen_by: str, images: int
) -> LinearProbe:
    """With rows for the classes that have no images: any image is less likely to be of one than of any other."""
    rows = torch.from_numpy(present)
    bias = (bias - bias.mean()).cpu()  # all of them may be shifted alike
    full_weight = torch.zeros(num_classes, weight.shape[1], dtype=torch.float64)
    full_bias = torch.full((num_classes,), float(bias.min()) - float(np.log(images)), dtype=torch.float64)
    full_weight[rows], full_bias[rows] = weight.cpu(), bias
    return LinearProbe(full_weight, full_bias, strength, chosen_by, images)
