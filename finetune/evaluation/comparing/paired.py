"""Two models on the same images: tests and intervals of the difference that use that they are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

from finetune.evaluation.comparing.judged import Judged
from finetune.evaluation.intervals import LEVEL, RESAMPLES

_CELLS = 4_000_000
"""Weights that are drawn at a time: 32 MB."""


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """McNemar's exact test: how often a fair coin would part the images that one model alone gets right so unevenly.

    Args:
        only_ours: Images that the first model alone gets right.
        only_theirs: Those that the second alone gets right.

    Returns:
        The two-sided p-value; 1 where there are no such images.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947); exact by the binomial distribution.
    """
    count, fewer = only_ours + only_theirs, min(only_ours, only_theirs)
    logs = [_log_choose(count, k) - count * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def tango(only_ours: int, only_theirs: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of the difference of two shares of the same images.

    Unlike a bootstrap it is not a point where the models never differ, and it excludes 0 exactly where McNemar's
    asymptotic test rejects.

    Args:
        only_ours: Images that the first model alone gets right.
        only_theirs: Those that the second alone gets right.
        count: Of all images, at least 1.
        level: Confidence, in (0, 1).

    Returns:
        Ends of the interval of (first's share - second's share).

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998).
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return (
        _root(lambda d: _tango_score(d, only_ours, only_theirs, count) - z),
        _root(lambda d: _tango_score(d, only_ours, only_theirs, count) + z),
    )


def _tango_score(difference: float, b: int, c: int, n: int) -> float:
    """How many standard deviations the observed difference lies above `difference`, at its likeliest nuisance share."""
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    excess = b - c - n * difference
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0


def _root(falling: Callable[[float], float]) -> float:
    """Where a falling function of [-1, 1] crosses zero, by bisection to 1e-12."""
    low, high = -1.0, 1.0
    for _ in range(42):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def draws(count: int, seed: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of `count` images is drawn in each resample, int64 `[r, count]`, in parts that fit in memory."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        picked = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count)


def bootstrap(
    ours: Sequence[Judged], theirs: Sequence[Judged], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, np.ndarray]:
    """Differences of all scores in resamples of the images, the same ones for both.

    Args:
        ours: The trainings of one setting; their mean counts.
        theirs: Those of another, on the same images.
        seed: Of the resamples.
        resamples: How many.

    Returns:
        By score that both have, float64 `[resamples]`: ours - theirs.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    found: dict[str, list[np.ndarray]] = {}
    for weights in draws(len(ours[0]), seed, resamples):
        mine, others = (_mean_scores(models, weights) for models in (ours, theirs))
        for key in mine:
            if key in others:
                found.setdefault(key, []).append(mine[key] - others[key])
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _mean_scores(models: Sequence[Judged], weights: np.ndarray) -> dict[str, np.ndarray]:
    each = [model.scores(weights) for model in models]
    return {key: np.mean([scores[key] for scores in each], axis=0) for key in each[0]}


def sign_flips(differences: np.ndarray, seed: int = 0, resamples: int = 10_000) -> float:
    """Permutation test of paired values: how often random signs give a mean as far from 0.

    Args:
        differences: float64 `[N]`.
        seed: Of the signs.
        resamples: How many draws.

    Returns:
        The two-sided p-value, at least 1 / (resamples + 1).
    """
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng, seen, sum_ = np.random.default_rng(seed), 0, abs(differences.sum())
    step = max(1, _CELLS // len(differences))
    for start in range(0, resamples, step):
        signs = rng.integers(2, size=(min(step, resamples - start), len(differences))) * 2 - 1
        seen += int((np.abs(signs @ differences) >= sum_ - 1e-12).sum())
    return (seen + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests at once, adjusted so that all hold together.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
