"""Average precision from stored matches, for any weights of the images: what intervals are drawn from.

The same numbers as COCO's for weights of one; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.evaluation.intervals import LEVEL, RESAMPLES
from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.judging.matches import Matches, match

POINTS = np.linspace(0, 1, 101)
"""Recalls at which precision is read, COCO's."""
_WORK = 2e9  # found objects times overlaps times resamples, some ten seconds
_AT_ONCE = 2e7


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP of every class at every overlap.

    Args:
        matches: Of N images, D found objects, C classes, T overlaps.
        weights: `[R, N]`, how often each image counts, in R cases.

    Returns:
        float64 `[R, C, T]`; NaN where no object of the class is there to be found.
    """
    cases, (_, classes) = len(weights), matches.wanted.shape
    steps = matches.true.shape[1]
    result = np.full((cases, classes, steps), np.nan)
    totals = weights @ matches.wanted  # [R, C]
    for label in range(classes):
        chosen = np.flatnonzero(matches.label == label)
        order = chosen[np.argsort(-matches.score[chosen], kind="stable")]
        there = totals[:, label] > 0
        if not there.any():
            continue
        result[there, label] = _of_class(matches, order, weights[there], totals[there, label])
    return result


def _of_class(matches: Matches, order: np.ndarray, weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """float64 `[R, T]`, of the found objects of a class, the surest first."""
    cases, steps = len(weights), matches.true.shape[1]
    found = np.zeros((cases, steps))
    if not len(order):
        return found
    each = weights[:, matches.image[order]]  # [R, D]
    for step in range(steps):
        true, ignored = matches.true[order, step], matches.ignored[order, step]
        hits = np.cumsum(each * true, axis=1, dtype=np.float64)
        tried = np.cumsum(each * ~ignored, axis=1, dtype=np.float64)
        precision = hits / np.maximum(tried, np.finfo(float).tiny)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / total[:, None]
        for case in range(cases):
            places = np.searchsorted(recall[case], POINTS, side="left")
            inside = places < len(order)
            found[case, step] = envelope[case, places[inside]].sum() / len(POINTS)
    return found


def summary(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`map`, `map_50` and `map_75` in each of R cases, float64 `[R]`; NaN where nothing is there to be found."""
    found = average_precision(matches, weights)
    with np.errstate(invalid="ignore"):
        means = {
            "map": _mean(found.reshape(len(found), -1)),
            "map_50": _mean(found[:, :, 0]),
            "map_75": _mean(found[:, :, 5]),
        }
    return means


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of each row over what is there."""
    known = ~np.isnan(values)
    count = known.sum(1)
    mean: np.ndarray = np.where(count, np.where(known, values, 0).sum(1) / np.maximum(count, 1), np.nan)
    return mean


def resampler(detected: Detected, masks: bool) -> Callable[[np.ndarray], np.ndarray]:
    """AP by how often each image counts, as `finetune.task.Judging.resampler` has it; 0 where there is no object.

    Args:
        detected: Of N images.
        masks: By masks and not by boxes.
    """
    classes = int(detected.true_labels.max()) + 1 if len(detected.true_labels) else 1
    matches = match(detected, classes, masks)  # what is found of other classes has no part in the mean
    score = weighted(matches)
    return lambda weights: score(weights)["map"]


def weighted(matches: Matches) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What `summary` gives, of as many cases as there are; 0 where there is no object."""
    chunk = max(1, int(_AT_ONCE / max(1, len(matches.score))))

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = [summary(matches, weights[start : start + chunk]) for start in range(0, len(weights), chunk)]
        return {name: np.nan_to_num(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    return scores


def intervals(matches: Matches, seed: int, resamples: int = RESAMPLES, level: float = LEVEL) -> dict[str, list[float]]:
    """Percentile bootstrap over images: each resample draws as many of them, with replacement, and computes AP anew.

    How often each image is drawn is multinomial, and what was matched in an image stays. Fewer resamples where what was
    found is very much.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.

    Args:
        matches: Of a split.
        seed: Of the resamples.
        resamples: How many.
        level: Share of the resamples' values that lie inside.
    """
    images = len(matches.wanted)
    rng = np.random.default_rng(seed)
    count = drawn(matches, resamples)
    chunk = max(1, int(_AT_ONCE / max(1, len(matches.score))))
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, chunk):
        weights = rng.multinomial(images, np.full(images, 1 / images), size=min(chunk, count - start))
        for name, values in summary(matches, weights).items():
            parts.setdefault(name, []).append(values)
    tails = [(1 - level) / 2, (1 + level) / 2]
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return {
        name: [float(end) for end in np.nanquantile(values, tails)]
        for name, values in joined.items()
        if not np.isnan(values).all()
    }


def drawn(matches: Matches, resamples: int = RESAMPLES) -> int:
    """How many resamples there are time for, 100 at least."""
    return int(min(resamples, max(100, _WORK / max(1, matches.true.size))))
