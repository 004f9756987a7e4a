"""A linear probe of several classes an image: for each a logistic regression of its own, solved to its optimum.

For features `x`, of a class `y` in {0, 1} where it is known, weights `s` and a strength C, one for all classes, it is
for each class the minimum over w and b of

    C sum_i s_i binary_cross_entropy(w x_i + b, y_i) + 1/2 |w|^2

which is scikit-learn's `OneVsRestClassifier(LogisticRegression(C=C))`. All classes are solved at once, in the
coordinates of `finetune.networks.logistic_regression`; unknown entries are left out of their class alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.networks import linear_probe
from finetune.networks.linear_probe import FOLDS, STRENGTHS, LinearProbe
from finetune.networks.logistic_regression import conjugate_gradients, principal_axes

_ROUGH, _TOLERANCE = 1e-4, 1e-9
_STEPS, _NEWTON_STEPS = 1_000, 30


@dataclass(frozen=True)
class _Problem:
    """The sum over K classes of their mean losses, of values `[K, R + 1]` that are weight and bias over `scale`.

    Attributes:
        inputs: `[M, R]`, centred features in their principal axes.
        targets: `[M, K]`, 0 or 1; anything where it is not known.
        shares: `[M, K]`, of each image in its class's loss: they add up to 1; 0 where it is not known.
        penalty: `[K]`, of half of the squared weight.
        scale: `[K, R + 1]`.
    """

    inputs: Tensor
    targets: Tensor
    shares: Tensor
    penalty: Tensor
    scale: Tensor

    def logits(self, values: Tensor) -> Tensor:
        """`[M, K]`."""
        both = values * self.scale
        return F.linear(self.inputs, both[:, :-1], both[:, -1])

    def loss(self, values: Tensor) -> Tensor:
        """Scalar."""
        errors = F.binary_cross_entropy_with_logits(self.logits(values), self.targets, reduction="none")
        weight = (values * self.scale)[:, :-1]
        return (self.shares * errors).sum() + 0.5 * (self.penalty * weight.square().sum(dim=1)).sum()

    def gradient(self, values: Tensor) -> Tensor:
        """Of the loss."""
        return self._pulled_back(self.logits(values).sigmoid() - self.targets, values)

    def curvature(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian at `values`, as a function of what it is multiplied with."""
        likely = self.logits(values).sigmoid()
        return lambda direction: self._pulled_back(likely * (1 - likely) * self.logits(direction), direction)

    def _pulled_back(self, errors: Tensor, values: Tensor) -> Tensor:
        weighted = self.shares * errors
        weight = weighted.T @ self.inputs + self.penalty[:, None] * (values * self.scale)[:, :-1]
        return torch.cat([weight, weighted.sum(dim=0)[:, None]], dim=1) * self.scale


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    weights: Tensor | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> LinearProbe:
    """Fit a probe; its strength is what gives the lowest cross-entropy in folds of the images.

    Args:
        features: float32 `[N, D]`.
        targets: int8 `[N, K]`, -1 where it is not known.
        groups: int64 `[N]`, images of one number are dealt out evenly over the folds.
        weights: float `[K]`, how much a positive of each class counts; 1 each when not given.
        seed: Of the folds.
        device: Where to compute; the CPU when not given, or where it has no float64.

    Returns:
        A class without a positive, or without a negative, has a weight of zero and the log-odds of its share.

    Raises:
        ValueError: The features are not one finite vector an image, or there is no class to tell apart.
    """
    if features.ndim != 2 or len(features) != len(targets) or not np.isfinite(features).all():
        raise ValueError(f"expected finite features [N, D] of N rows, got {features.shape} and {len(targets)} rows")
    positives, negatives = (targets > 0).sum(axis=0), (targets == 0).sum(axis=0)
    told = np.flatnonzero((positives > 0) & (negatives > 0))
    if not len(told):
        raise ValueError("expected a class that some images show and others do not, got none")
    where = torch.device("cpu") if device is None or device.type == "mps" else device
    wide = torch.from_numpy(np.array(features)).to(where, torch.float64)
    mean = wide.mean(dim=0)
    axes, variances = principal_axes(wide - mean)
    inputs = (wide - mean) @ axes
    of_told = torch.from_numpy(targets[:, told]).to(where)
    each = torch.ones(len(told)) if weights is None else weights.cpu()[torch.from_numpy(told)]
    each = each.to(where, torch.float64)
    unit = 1.0 / (float(variances.sum()) or 1.0)
    numbers = torch.from_numpy(linear_probe.folds(groups, FOLDS, seed)).to(where)
    strength = _choose(inputs, of_told, each, variances, unit, numbers)
    problem = _problem(inputs, of_told, each, variances, strength * unit)
    solution = _polished(problem, _solved(problem, torch.zeros_like(problem.scale)))
    weight = solution[:, :-1] @ axes.T
    bias = solution[:, -1] - weight @ mean
    full_weight = torch.zeros(targets.shape[1], features.shape[1], dtype=torch.float64)
    full_bias = log_odds(positives, negatives)
    full_weight[torch.from_numpy(told)], full_bias[torch.from_numpy(told)] = weight.cpu(), bias.cpu()
    chosen_by = f"binary cross-entropy in {FOLDS} folds of the training images"
    return LinearProbe(full_weight, full_bias, strength * unit, chosen_by, len(features))


def log_odds(positives: np.ndarray, negatives: np.ndarray) -> Tensor:
    """float64 `[K]`: logits of the classes' shares; half an image where there is none."""
    yes, no = (torch.from_numpy(np.maximum(of, 0.5)).double() for of in (positives, negatives))
    return (yes / no).log()


def _problem(inputs: Tensor, targets: Tensor, weights: Tensor, variances: Tensor, strength: float) -> _Problem:
    yes = (targets > 0).to(inputs)
    importance = (targets >= 0).to(inputs) * (1 + yes * (weights.to(inputs) - 1))
    total = importance.sum(dim=0).clamp(min=1e-12)
    penalty = 1 / (strength * total)
    share = ((importance * yes).sum(dim=0) / total).clamp(1e-3, 1 - 1e-3)
    curvature = (share * (1 - share))[:, None]
    scale = torch.cat([curvature * variances.to(inputs) + penalty[:, None], curvature], dim=1).rsqrt()
    return _Problem(inputs, yes, importance / total, penalty, scale)


def _solved(problem: _Problem, start: Tensor) -> Tensor:
    """Weight and bias, `[K, R + 1]`, to about three digits."""
    values = (start / problem.scale).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [values], max_iter=_STEPS, history_size=20, tolerance_grad=_ROUGH, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = problem.loss(values)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return values.detach() * problem.scale


def _polished(problem: _Problem, start: Tensor) -> Tensor:
    """From near to the optimum to it: Newton's method."""
    values = start / problem.scale
    gradient = problem.gradient(values)
    for _ in range(_NEWTON_STEPS):
        if gradient.abs().max() <= _TOLERANCE:
            break
        moved = values - conjugate_gradients(problem.curvature(values), gradient)
        new = problem.gradient(moved)
        if not new.norm() < gradient.norm():
            break
        values, gradient = moved, new
    return values * problem.scale


def _choose(inputs: Tensor, targets: Tensor, weights: Tensor, variances: Tensor, unit: float, numbers: Tensor) -> float:
    """The strength with the lowest cross-entropy of what was held out, in units of `unit`."""
    short = inputs.float()  # enough to compare by
    starts: list[Tensor] = [short.new_zeros(targets.shape[1], inputs.shape[1] + 1) for _ in range(FOLDS)]
    losses: list[float] = []
    for strength in STRENGTHS:
        total = 0.0
        for fold in range(FOLDS):
            rest, held = numbers != fold, numbers == fold
            problem = _problem(short[rest], targets[rest], weights, variances, strength * unit)
            solution = starts[fold] = _solved(problem, starts[fold])
            total += _held_out(short[held], targets[held], weights, solution)
        if losses and total > losses[-1]:  # more freedom will not help either
            break
        losses.append(total)
    return float(STRENGTHS[len(losses) - 1])


def _held_out(inputs: Tensor, targets: Tensor, weights: Tensor, solution: Tensor) -> float:
    logits = F.linear(inputs, solution[:, :-1], solution[:, -1])
    yes = (targets > 0).to(logits)
    errors = F.binary_cross_entropy_with_logits(logits, yes, pos_weight=weights.to(logits), reduction="none")
    return float(errors[targets >= 0].sum())
