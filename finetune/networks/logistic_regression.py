"""Regularised multinomial logistic regression, to its optimum: `finetune.networks.linear_probe` says of what.

In float64 where it counts, on any device that has it, and in coordinates in which a few dozen steps are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ROUGH = 1e-4  # largest entry of the gradient of the mean loss, where solutions are compared or gone on from
_TOLERANCE = 1e-9  # of the same, at the end
_STEPS = 1_000
_NEWTON_STEPS = 30


class Regression:
    """The problem in the features' principal axes: the same optimum, and a Hessian near to a diagonal that is known.

    Centring changes nothing but the bias, a rotation not the penalty, and directions in which no image differs from the
    others get no weight: with fewer images than features there are no more axes than images.

    Args:
        features: float64 `[N, D]`.
        num_classes: K, at least 2; each has images.
        weights: float64 `[K]`, of an image of each class.
    """

    def __init__(self, features: Tensor, num_classes: int, weights: Tensor | None) -> None:
        self.num_classes, self.weights = num_classes, weights
        self.mean = features.mean(dim=0)
        centred = features - self.mean
        self.axes, self.variances = principal_axes(centred)
        self.inputs = centred @ self.axes  # [N, R]
        spread = float(self.variances.sum())
        self.unit = 1.0 / spread if spread else 1.0

    def coordinates(self, features: Tensor) -> Tensor:
        """float64 `[M, R]` of other images' features."""
        return (features - self.mean) @ self.axes

    def solve(self, inputs: Tensor, targets: Tensor, strength: float, start: Tensor | None = None) -> Tensor:
        """Weight and bias, `[K, R + 1]`, for some of the images, to about three digits.

        Args:
            inputs: `[M, R]`, rows of `inputs`; the arithmetic is in their precision.
            targets: int64 `[M]`, their classes.
            strength: C, in units of `unit`.
            start: What to start from.
        """
        problem = self._problem(inputs, targets, strength)
        values = torch.zeros_like(problem.zeros) if start is None else start / problem.scale
        values.requires_grad_(True)
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

    def polish(self, targets: Tensor, strength: float, start: Tensor) -> Tensor:
        """The same for all images, from near to the optimum to it: Newton's method, in float64.

        L-BFGS compares losses, whose rounding ends its progress three digits before this.
        """
        problem = self._problem(self.inputs, targets, strength)
        values = start.double() / problem.scale
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

    def _problem(self, inputs: Tensor, targets: Tensor, strength: float) -> _Problem:
        classes = self.num_classes
        importance = (inputs.new_ones(classes) if self.weights is None else self.weights.to(inputs))[targets]
        penalty = (2 if classes == 2 else 1) / (strength * self.unit * float(importance.sum()))
        # A class's curvature is its p (1 - p); with the variances this is about the Hessian's diagonal.
        curvature = (1 / classes) * (1 - 1 / classes)
        scale = torch.cat([curvature * self.variances + penalty, self.variances.new_tensor([curvature])])
        return _Problem(inputs, targets, importance / importance.sum(), penalty, scale.rsqrt().to(inputs), classes)

    def restore(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Weight `[K, D]` and bias `[K]` for the features as they were given."""
        weight = solution[:, :-1] @ self.axes.T
        return weight, solution[:, -1] - weight @ self.mean


@dataclass(frozen=True)
class _Problem:
    """The mean loss and its derivatives, of `[K, R + 1]` values that are the weight and bias over `scale`.

    Attributes:
        inputs: `[M, R]`.
        targets: int64 `[M]`.
        shares: `[M]`, of each image in the loss; they add up to 1.
        penalty: Of half of the squared weight.
        scale: `[R + 1]`.
        classes: K.
    """

    inputs: Tensor
    targets: Tensor
    shares: Tensor
    penalty: float
    scale: Tensor
    classes: int

    @property
    def zeros(self) -> Tensor:
        """Where nothing is known yet."""
        return self.inputs.new_zeros(self.classes, len(self.scale))

    def logits(self, values: Tensor) -> Tensor:
        """`[M, K]`."""
        both = values * self.scale
        return F.linear(self.inputs, both[:, :-1], both[:, -1])

    def loss(self, values: Tensor) -> Tensor:
        """Scalar."""
        errors = F.cross_entropy(self.logits(values), self.targets, reduction="none")
        weight = (values * self.scale)[:, :-1]
        return (self.shares * errors).sum() + 0.5 * self.penalty * weight.square().sum()

    def gradient(self, values: Tensor) -> Tensor:
        """Of the loss."""
        errors = self.logits(values).softmax(dim=1) - F.one_hot(self.targets, self.classes)
        return self._pulled_back(errors, values)

    def curvature(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian at `values`, as a function of what it is multiplied with."""
        shares = self.logits(values).softmax(dim=1)

        def times(direction: Tensor) -> Tensor:
            moved = shares * self.logits(direction)
            return self._pulled_back(moved - shares * moved.sum(dim=1, keepdim=True), direction)

        return times

    def _pulled_back(self, errors: Tensor, values: Tensor) -> Tensor:
        weighted = self.shares[:, None] * errors
        weight = weighted.T @ self.inputs + self.penalty * (values * self.scale)[:, :-1]
        return torch.cat([weight, weighted.sum(dim=0)[:, None]], dim=1) * self.scale


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solves `matrix(x) = right` for a positive semidefinite matrix, to a thousandth."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual.square().sum()
    goal = 1e-6 * square
    for _ in range(_STEPS):
        product = matrix(direction)
        step = square / (direction * product).sum()
        solution += step * direction
        residual -= step * product
        before, square = square, residual.square().sum()
        if square <= goal:
            break
        direction = residual + (square / before) * direction
    return solution


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Directions `[D, R]`, R <= min(N, D), that span the rows of float64 `[N, D]`, and their variances `[R]`."""
    count, width = centred.shape
    if width <= count:
        variances, axes = torch.linalg.eigh(centred.T @ centred / count)
        kept = variances > variances[-1] * 1e-13
        return axes[:, kept], variances[kept]
    squares, left = torch.linalg.eigh(centred @ centred.T)
    kept = squares > squares[-1] * 1e-13
    return (centred.T @ left[:, kept]) / squares[kept].sqrt(), squares[kept] / count
