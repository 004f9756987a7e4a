"""What is reported of a multi-label classifier, exact over any number of processes: all outputs are gathered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from finetune.task import Score
from finetune.tasks.multi_label.measures import precision

SCORES = (
    Score("mean_average_precision", "mean avg. precision"),
    Score("micro_average_precision", "micro avg. precision", logged=False),
    Score("macro_f1", "macro F1"),
    Score("micro_f1", "micro F1"),
    Score("exact_match", "exact match"),
    Score("loss", "loss", higher=False),
)
"""What is reported, in the order of the tables."""
RANKING = (SCORES[0], SCORES[-1])
"""What chooses the best epoch."""


class MultiLabelScores(Metric):
    """Mean and micro average precision, macro and micro F1, exact match, and mean binary cross-entropy.

    Definitions are scikit-learn's, over pairs of an image and a class that are known. The mean average precision is
    over classes that have a positive; macro F1 over classes that have a positive or are answered; an image matches
    exactly where all of its known classes are right. The loss is a mean over pairs, in float64. Nothing depends on how
    images were spread over batches and processes.

    Args:
        num_classes: Number of classes, K.
        thresholds: float64 `[K]`, logits from which on a class is answered; where not given they are fitted to what is
            scored, which flatters F1.
        options: Of `torchmetrics.Metric`.

    Attributes:
        fitted: The thresholds of the last `compute`.
    """

    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int, thresholds: np.ndarray | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes, self.thresholds = num_classes, thresholds
        self.fitted: np.ndarray | None = None
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: float32 logits `[B, K]`, int8 targets `[B, K]`."""
        self.logits.append(logits.float())
        self.targets.append(targets)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars."""
        logits = dim_zero_cat(self.logits).cpu().numpy()
        targets = dim_zero_cat(self.targets).cpu().numpy()
        self.fitted = precision.thresholds(logits, targets) if self.thresholds is None else self.thresholds
        found = scores(logits, targets, self.fitted)
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in found.items()}


def scores(logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """The scores by name; zero where there is no positive at all.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`.
        thresholds: float64 `[K]`, logits from which on a class is answered.
    """
    known = targets >= 0
    each = precision.per_class(logits, targets)
    answered = answers(logits, thresholds) & known
    shown = targets > 0
    right, asked, support = (answered & shown).sum(axis=0), answered.sum(axis=0), shown.sum(axis=0)
    occurs = asked + support > 0
    f1 = 2 * right / np.maximum(asked + support, 1)
    return {
        "mean_average_precision": float(np.nanmean(each)) if support.any() else 0.0,
        "micro_average_precision": precision.average_precision(precision.of_all(logits, targets))
        if support.any()
        else 0.0,
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "micro_f1": float(2 * right.sum() / max(int(asked.sum() + support.sum()), 1)),
        "exact_match": float(((answered == shown) | ~known).all(axis=1).mean()),
        "loss": math.fsum(losses(logits, targets)[known]) / max(int(known.sum()), 1),
    }


def answers(logits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Bool `[N, K]`: which classes are answered."""
    found: np.ndarray = logits.astype(np.float64) >= thresholds
    return found


def losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each pair, float64 `[N, K]`."""
    wide = logits.astype(np.float64)
    found: np.ndarray = np.logaddexp(0, np.where(targets > 0, -wide, wide))
    return found
