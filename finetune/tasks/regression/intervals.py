"""How sure the scores of a regression are: percentile bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.evaluation.intervals import LEVEL, RESAMPLES

METHOD = "percentile bootstrap over images"
NAMES = ("mae", "rmse", "r2", "spearman")
_AT_ONCE = 2_000_000  # counts in memory


def bootstrap(
    predicted: np.ndarray, targets: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """Ends of the intervals by score; the resamples' scores are those of `metrics.scores`.

    Args:
        predicted: float64 `[N]`.
        targets: float64 `[N]`.
        seed: Of the resamples.
        resamples: How many.
        level: Share of the resamples' values that lie inside.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    count, rng = len(targets), np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // count)
    values = []
    for start in range(0, resamples, chunk):
        drawn = _drawn(rng, count, min(chunk, resamples - start))
        values.append(_scores(drawn, predicted, targets))
    low, high = np.quantile(np.concatenate(values, axis=1), [(1 - level) / 2, (1 + level) / 2], axis=1)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(NAMES)}


def paired(
    ours: np.ndarray, theirs: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, tuple[float, float]]:
    """The difference of two mean absolute errors on the same images, ours minus theirs, and its interval.

    Args:
        ours: Absolute errors float64 `[N]`.
        theirs: The same of the other.
        seed: Of the resamples.
        resamples: How many.
        level: Share of the resamples' differences that lie inside.
    """
    difference, rng = ours - theirs, np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // len(difference))
    means = [
        _drawn(rng, len(difference), min(chunk, resamples - start)) @ difference / len(difference)
        for start in range(0, resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(difference.mean()), (float(low), float(high))


def weighted(predicted: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """All scores by how often each image counts, as `finetune.evaluation.comparing.judged.Judged.scores` has it.

    Args:
        predicted: float64 `[N]`.
        targets: float64 `[N]`.
    """
    chunk = max(1, _AT_ONCE // max(1, len(targets)))

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = [
            _scores(weights[start : start + chunk].astype(np.float64), predicted, targets)
            for start in range(0, len(weights), chunk)
        ]
        return dict(zip(NAMES, np.concatenate(parts, axis=1), strict=True))

    return scores


def _drawn(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each image is in each resample, float64 `[R, N]`."""
    rows = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    counts = np.bincount(rows.ravel(), minlength=resamples * count).reshape(resamples, count)
    return counts.astype(np.float64)


def _scores(drawn: np.ndarray, predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scores float64 `[4, R]` of resamples: how often each of N images was drawn, float64 `[R, N]`."""
    count, errors = drawn.sum(axis=1), predicted - targets
    absolute, squared = drawn @ np.abs(errors) / count, drawn @ errors**2 / count
    centred = targets - targets.mean()  # or large numbers would cancel
    spread = drawn @ centred**2 / count - (drawn @ centred / count) ** 2
    varied = spread > 1e-12 * max(1e-300, float((centred**2).mean()))
    r2 = np.where(varied, 1 - squared / np.where(varied, spread, 1), (squared == 0).astype(np.float64))
    return np.stack(
        [absolute, np.sqrt(squared), r2, _correlation(drawn, _ranks(drawn, predicted), _ranks(drawn, targets))]
    )


def _ranks(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean rank of each image's value among those of its resample, float64 `[R, N]`."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    first = np.flatnonzero(np.diff(place[order], prepend=-1))
    counts = np.add.reduceat(drawn[:, order], first, axis=1)
    ends = counts.cumsum(axis=1)
    found: np.ndarray = (ends - (counts - 1) / 2)[:, place]
    return found


def _correlation(drawn: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's of each resample, float64 `[R]`; 0 where one of both is constant."""
    count = drawn.sum(axis=1, keepdims=True)
    first = first - (drawn * first).sum(axis=1, keepdims=True) / count
    second = second - (drawn * second).sum(axis=1, keepdims=True) / count
    length = np.sqrt((drawn * first**2).sum(axis=1) * (drawn * second**2).sum(axis=1))
    found: np.ndarray = np.where(
        length > 0, (drawn * first * second).sum(axis=1) / np.where(length > 0, length, 1), 0.0
    )
    return found
