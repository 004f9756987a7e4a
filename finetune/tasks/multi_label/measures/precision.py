"""Average precision and F1 over thresholds, exact: numbers depend on the images alone, not on their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENOUGH = 20
"""Positives from which on a class's own threshold is taken; of fewer it is shrunk towards that of all classes."""


@dataclass(frozen=True)
class Ranking:
    """Scores from high to low, equal ones together.

    Attributes:
        order: int64 `[N]`, places by falling score.
        ends: int64 `[G]`, where in that order each group of equal scores ends.
        positives: bool `[N]`, in that order.
        scores: float64 `[G]`, of each group.
    """

    order: np.ndarray
    ends: np.ndarray
    positives: np.ndarray
    scores: np.ndarray

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 `[G]` each: positives, and all, down to the end of each group."""
        return self.positives.cumsum()[self.ends], self.ends + 1


def ranked(scores: np.ndarray, positives: np.ndarray) -> Ranking:
    """Rank the scores `[N]` of what is known to be positive or not, bool `[N]`."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    return Ranking(order, ends, positives[order], falling[ends])


def average_precision(ranking: Ranking) -> float:
    """Sum of the precision at each score, times what that score adds to the recall; NaN without a positive.

    scikit-learn's `average_precision_score`: not interpolated.
    """
    right, count = ranking.counts()
    if not len(right) or right[-1] == 0:
        return float("nan")
    return float((np.diff(right, prepend=0) * (right / count)).sum() / right[-1])


def of_classes(logits: np.ndarray, targets: np.ndarray) -> list[Ranking | None]:
    """The ranking of each class, over the images of which it is known; None where there is none.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`, -1 where it is not known.
    """
    found: list[Ranking | None] = []
    for scores, of in zip(logits.T, targets.T, strict=True):
        known = of >= 0
        found.append(ranked(scores[known], of[known] > 0) if known.any() else None)
    return found


def of_all(logits: np.ndarray, targets: np.ndarray) -> Ranking:
    """The ranking of all pairs of an image and a class that are known."""
    known = targets >= 0
    return ranked(logits[known], targets[known] > 0)


def per_class(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each class, float64 `[K]`; NaN without a positive."""
    return np.array([float("nan") if one is None else average_precision(one) for one in of_classes(logits, targets)])


def best_threshold(ranking: Ranking) -> float:
    """The score above which the answer is yes, where F1 is the highest: half way to the next lower score."""
    right, count = ranking.counts()
    f1 = 2 * right / (count + right[-1])
    best = int(f1.argmax())
    scores = ranking.scores
    return float((scores[best] + scores[best + 1]) / 2) if best + 1 < len(scores) else float(scores[best] - 0.5)


def thresholds(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each class, the logit from which on it is answered, float64 `[K]`, fitted to these images.

    By the F1 of the class. Of `n < ENOUGH` positives that is mostly chance: `n / ENOUGH` of the way from the threshold
    that is best for all pairs together (micro F1) to the class's own.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`, -1 where it is not known.
    """
    together = of_all(logits, targets)
    if not together.positives.any():
        return np.zeros(logits.shape[1])
    common = best_threshold(together)
    found = np.full(logits.shape[1], common)
    for place, ranking in enumerate(of_classes(logits, targets)):
        positives = 0 if ranking is None else int(ranking.positives.sum())
        if ranking is not None and positives:
            trust = min(1.0, positives / ENOUGH)
            found[place] = trust * best_threshold(ranking) + (1 - trust) * common
    return found
