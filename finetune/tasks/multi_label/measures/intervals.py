"""How sure the scores of a multi-label classifier are: a bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import LEVEL, RESAMPLES, wilson
from finetune.tasks.multi_label.measures import metrics, precision
from finetune.tasks.multi_label.measures.precision import Ranking

LEAST_RESAMPLES = 200
_WORK = 3_000_000_000
"""Resamples times pairs of an image and a class at most: a minute or two; fewer resamples are drawn beyond."""
_AT_ONCE = 4_000_000
SHARES = ("exact_match",)


@dataclass(frozen=True)
class Resampled:
    """Scores of the resamples.

    Attributes:
        values: By score, float64 `[R]`.
        seed: Of the draw.
    """

    values: dict[str, np.ndarray]
    seed: int

    @property
    def resamples(self) -> int:
        """R."""
        return len(next(iter(self.values.values())))

    def ends(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Lower and upper end of each score's interval."""
        tails = [(1 - level) / 2, (1 + level) / 2]
        found = {name: np.nanquantile(of, tails) for name, of in self.values.items()}
        return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def bootstrap(logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, seed: int) -> Resampled:
    """Draw images with replacement, and score each draw as `multi_label.measures.metrics` does.

    Of all draws the same images count, so that two models' differences can be told by `Resampled.values` of one seed.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`, -1 where it is not known.
        thresholds: float64 `[K]`, logits from which on a class is answered.
        seed: Of the resamples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    images, pairs = len(logits), max(logits.size, 1)
    resamples = int(np.clip(_WORK // pairs, LEAST_RESAMPLES, RESAMPLES))
    rng = np.random.default_rng(seed)
    score = weighted(logits, targets, thresholds)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, resamples, chunk := max(1, _AT_ONCE // pairs)):
        parts.append(score(rng.multinomial(images, np.full(images, 1 / images), size=min(chunk, resamples - start))))
    return Resampled({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, seed)


def weighted(
    logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """All scores but the loss by how often each image counts, as `Judged.scores` has it.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`, -1 where it is not known.
        thresholds: float64 `[K]`, logits from which on a class is answered.
    """
    macro = resampler(logits, targets)
    together, places = precision.of_all(logits, targets), np.nonzero(targets >= 0)[0]
    answered, chunk = metrics.answers(logits, thresholds), max(1, _AT_ONCE // max(logits.size, 1))

    def scores(times: np.ndarray) -> dict[str, np.ndarray]:
        parts = [
            {
                "mean_average_precision": macro(some),
                "micro_average_precision": _weighted(together, some[:, places]),
                **_counted(some, answered, targets),
            }
            for some in (times[start : start + chunk] for start in range(0, len(times), chunk))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return scores


def resampler(logits: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Mean average precision by how often each image counts, as `finetune.task.Judging.resampler` has it.

    Args:
        logits: float32 `[N, K]`.
        targets: int8 `[N, K]`, -1 where it is not known.
    """
    rankings = precision.of_classes(logits, targets)

    def macro(times: np.ndarray) -> np.ndarray:
        each = [
            _weighted(ranking, times[:, targets[:, k] >= 0])
            for k, ranking in enumerate(rankings)
            if ranking is not None and ranking.positives.any()
        ]
        found: np.ndarray = np.nanmean(_some(each), axis=0)
        return found

    return macro


def summary(
    logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, seed: int
) -> tuple[dict[str, Any], Resampled]:
    """The `intervals` entry of result.json, and what it is from."""
    drawn = bootstrap(logits, targets, thresholds, seed)
    ends = drawn.ends()
    method = "percentile bootstrap over images"
    found = metrics.scores(logits, targets, thresholds)
    points = [name for name, (low, high) in ends.items() if low == high and found[name] in (0.0, 1.0)]
    for name in points:  # every resample is as perfect, however few images there are
        support = (targets > 0).sum(axis=0)
        support = support[support > 0]
        worth = len(logits) if name in SHARES else len(support) ** 2 / float((1 / support).sum())
        ends[name] = wilson(found[name], worth, LEVEL)
    if points:
        method += "; Wilson score where a score is perfect"
    entry = {
        "level": LEVEL,
        "resamples": drawn.resamples,
        "seed": seed,
        "method": method,
        "test": {name: list(of) for name, of in ends.items()},
    }
    return entry, drawn


def _some(each: list[np.ndarray]) -> np.ndarray:
    """`[K, R]`; a draw without a positive of any class counts as nothing found."""
    found = np.stack(each)
    found[:, np.isnan(found).all(axis=0)] = 0.0
    return found


def _weighted(ranking: Ranking, times: np.ndarray) -> np.ndarray:
    """Average precision, float64 `[R]`, where each entry counts so many times, int64 `[R, N]`."""
    ordered = times[:, ranking.order]
    right = (ordered * ranking.positives).cumsum(axis=1)[:, ranking.ends]
    count = ordered.cumsum(axis=1)[:, ranking.ends]
    gained = np.diff(right, axis=1, prepend=0)
    total = right[:, -1]
    found = (gained * right / np.maximum(count, 1)).sum(axis=1) / np.maximum(total, 1)
    return np.where(total > 0, found, np.nan)


def _counted(times: np.ndarray, answered: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that are made of counts."""
    known, shown = targets >= 0, targets > 0
    asked = answered & known
    wide = times.astype(np.float64)
    right, all_asked, support = (wide @ of.astype(np.float64) for of in (asked & shown, asked, shown))
    both = all_asked + support
    occurs = both > 0
    f1 = (2 * right / np.maximum(both, 1)).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    exact = ((asked == shown) | ~known).all(axis=1)
    return {
        "macro_f1": f1,
        "micro_f1": 2 * right.sum(axis=1) / np.maximum(both.sum(axis=1), 1),
        "exact_match": wide @ exact.astype(np.float64) / np.maximum(wide.sum(axis=1), 1),
    }
