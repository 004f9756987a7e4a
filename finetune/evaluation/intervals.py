"""How sure a score is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def wilson(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share.

    Unlike the normal approximation it stays inside [0, 1] and holds for few images and shares near 0 and 1.

    Args:
        share: Observed, in [0, 1].
        count: Of images, at least 1; a number of equal worth where it is not whole.
        confidence: In (0, 1).

    Returns:
        Lower and upper end.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Intervals:
    """Intervals of the three scores of a classifier.

    Attributes:
        method: How they were computed, for people.
        ends: `accuracy`, `balanced_accuracy`, `macro_f1`: lower and upper end.
    """

    method: str
    ends: dict[str, tuple[float, float]]


def bootstrap(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    num_classes: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Intervals:
    """Percentile bootstrap over images of accuracy, balanced accuracy and macro F1.

    To draw N images with replacement is to draw how often each (target, predicted) pair occurs, from a multinomial
    distribution: nothing is as large as the images times the resamples. Balanced accuracy and macro F1 are those of
    `finetune.evaluation.metrics`: over the classes that occur in the resample.

    Where every image is right, or every one wrong, a bootstrap gives a single point, however few images there are. Then
    it is Wilson's interval, for C^2 / sum(1 / n_c) images in the two scores that are means over classes: the variance
    of a mean of C shares of n_c images each is that of one share of so many.

    Args:
        pairs: Targets, predicted classes and number of images, int64 `[K]` each, see `Predictions.pairs`.
        num_classes: C.
        seed: Of the resamples.
        resamples: How many.
        level: Share of the resamples' values that lie inside.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    targets, labels, counts = pairs
    total = int(counts.sum())
    if len(set((targets == labels).tolist())) == 1:
        return _certain(targets, counts, float(targets[0] == labels[0]), level)
    rng = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // max(len(counts), num_classes))
    values = []
    for start in range(0, resamples, chunk):
        drawn = rng.multinomial(total, counts / total, size=min(chunk, resamples - start))
        values.append(weighted(drawn, targets, labels, num_classes))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(values, axis=1), tails, axis=1)
    return Intervals(
        "percentile bootstrap over images",
        {name: (float(low[i]), float(high[i])) for i, name in enumerate(_SCORES)},
    )


def paired(
    ours: np.ndarray, theirs: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, tuple[float, float]]:
    """The difference of two accuracies on the same images, and its percentile bootstrap interval over these.

    An image adds 1, 0 or -1: how often each is drawn is multinomial.

    Args:
        ours: Bool `[N]`, whether each image is right.
        theirs: The same of the other.
        seed: Of the resamples.
        resamples: How many.
        level: Share of the resamples' differences that lie inside.
    """
    gains = ours.astype(np.int64) - theirs.astype(np.int64)
    shares = np.array([(gains == value).mean() for value in (-1, 0, 1)])
    drawn = np.random.default_rng(seed).multinomial(len(gains), shares, size=resamples)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(gains), [(1 - level) / 2, (1 + level) / 2])
    return float(gains.mean()), (float(low), float(high))


_SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def weighted(drawn: np.ndarray, targets: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Scores float64 `[3, R]` of resamples: how often each of K images, or pairs, was drawn, int64 `[R, K]`."""
    support, predicted, correct = (np.zeros((num_classes, len(drawn)), dtype=np.int64) for _ in range(3))
    np.add.at(support, targets, drawn.T)
    np.add.at(predicted, labels, drawn.T)
    right = targets == labels
    np.add.at(correct, targets[right], drawn.T[right])
    recall = (correct / np.maximum(support, 1)).sum(axis=0) / (support > 0).sum(axis=0)
    both = support + predicted
    f1 = (2 * correct / np.maximum(both, 1)).sum(axis=0) / (both > 0).sum(axis=0)
    return np.stack([correct.sum(axis=0) / drawn.sum(axis=1), recall, f1])


def _certain(targets: np.ndarray, counts: np.ndarray, share: float, level: float) -> Intervals:
    """Wilson's intervals where all images are right, or all wrong."""
    support = np.bincount(targets, weights=counts)
    support = support[support > 0]
    over_classes = wilson(share, len(support) ** 2 / float((1 / support).sum()), level)
    ends = {"accuracy": wilson(share, int(counts.sum()), level)}
    method = f"Wilson score, because a bootstrap of images that are all {'right' if share else 'wrong'} is a point"
    return Intervals(method, ends | {name: over_classes for name in _SCORES[1:]})
