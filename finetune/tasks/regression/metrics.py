"""What is reported of a regression, the same over any number of processes: computed from all numbers at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from finetune.task import Score

SCORES = (
    Score("mae", "mean absolute error", higher=False),
    Score("rmse", "RMSE", higher=False),
    Score("r2", "R2"),
    Score("spearman", "Spearman's rho"),
)
"""What is reported, in the order of the tables."""
RANKING = (SCORES[0],)
"""What chooses the best epoch."""


class NumberScores(Metric):
    """Mean absolute error, root mean squared error, coefficient of determination, Spearman's rank correlation.

    As scikit-learn and scipy define them: R2 of targets that are all equal is 1 where all predictions are right, else
    0; ranks of equal numbers are their mean. Where targets or predictions are all equal, scipy's correlation is NaN,
    and this one 0: nothing was put in order. All numbers are kept and computed with in float64, so that the result does
    not depend on how images were spread over batches and processes.

    Args:
        options: Of `torchmetrics.Metric`.
    """

    full_state_update = False
    predicted: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("predicted", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, targets: Tensor) -> None:
        """Add a batch: float `[B]` each."""
        self.predicted.append(predicted.double())
        self.targets.append(targets.double())

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars."""
        return scores(dim_zero_cat(self.predicted), dim_zero_cat(self.targets))


def scores(predicted: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The scores of predictions float64 `[N]` against targets float64 `[N]`; float64 scalars."""
    errors = predicted - targets
    squared, total = errors.square().sum(), (targets - targets.mean()).square().sum()
    r2 = 1 - squared / total if total > 0 else (squared == 0).to(errors.dtype)
    return {
        "mae": errors.abs().mean(),
        "rmse": errors.square().mean().sqrt(),
        "r2": r2,
        "spearman": correlation(ranks(predicted), ranks(targets)),
    }


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64 `[N]`; equal values have the mean of theirs."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    found: Tensor = (ends - (counts - 1) / 2)[place]
    return found


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's, of float64 `[N]` each; 0 where one is constant."""
    first, second = first - first.mean(), second - second.mean()
    length = (first.square().sum() * second.square().sum()).sqrt()
    return (first * second).sum() / length if length > 0 else torch.zeros_like(length)
