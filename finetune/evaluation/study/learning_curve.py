"""Would more labels help? Errors against the number of training images, and a power law that goes on from them.

The law is `error(n) = c + a n^-b` with a, c >= 0: `c` is what no number of images mends. Its uncertainty is that of the
test images, which are resampled together for all sizes, and of the subsets, of which each size has several draws.

Source: Hestness et al., "Deep Learning Scaling is Predictable, Empirically", https://arxiv.org/abs/1712.00409; the
constant as in Rosenfeld et al., https://arxiv.org/abs/1909.12673. Extrapolated to twice the images and no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import LEVEL

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
DRAWS = 3
"""Subsets of each size but the whole."""
RESAMPLES = 1000
_EXPONENTS = np.linspace(0.05, 2.0, 79)
_FEWEST = 3  # sizes that a law of three numbers is fitted to


@dataclass(frozen=True)
class Point:
    """One number of training images.

    Attributes:
        images: How many.
        score: Mean over its draws.
        interval: Of that.
    """

    images: int
    score: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """What was measured, and what follows.

    Attributes:
        title: Of the score, for people.
        higher: Whether a higher one is better.
        points: By number of images.
        law: `c`, `a`, `b`; None where too few sizes were measured.
        doubled: Score with twice the images, by the law, and its interval.
        gain: What that is more than the law has now (of an error: less), and its interval.
    """

    title: str
    higher: bool
    points: tuple[Point, ...]
    law: tuple[float, float, float] | None
    doubled: tuple[float, tuple[float, float]] | None
    gain: tuple[float, tuple[float, float]] | None

    def to_json(self) -> dict[str, Any]:
        """As `--json` and result.json have it."""
        return {
            "score": self.title,
            "points": [
                {"images": point.images, "score": point.score, "interval": list(point.interval)}
                for point in self.points
            ],
            "law": None if self.law is None else dict(zip("cab", self.law, strict=True)),
            "doubled": _entry(self.doubled),
            "gain": _entry(self.gain),
        }

    def lines(self) -> list[str]:
        """A table, the law, and one sentence."""
        made = [f"{'training images':>16}{self.title:>12}{'95 % interval':>20}"]
        for point in self.points:
            low, high = point.interval
            made.append(f"{point.images:>16,}{point.score:>12.4f}{f'[{low:.4f}, {high:.4f}]':>20}")
        if self.law is not None:
            c, a, b = self.law
            made.append(f"error, by a power law: {c:.4f} + {a:.4g} n^-{b:.2f}")
        return [*made, self.sentence()]

    def sentence(self) -> str:
        """What twice the images would bring."""
        if self.gain is None or self.doubled is None:
            return "too few sizes to say what more images would bring"
        value, (low, high) = self.gain
        images, (score, (least, most)) = 2 * self.points[-1].images, self.doubled
        worth = "more labels would help" if low > 0.005 else "more labels would help little"
        worth = "whether more labels would help cannot be said from these sizes" if high - low > 0.1 else worth
        return (
            f"twice the training images ({images:,}) would bring {value:+.4f} {self.title} [{low:+.4f}, {high:+.4f}], "
            f"to {score:.4f} [{least:.4f}, {most:.4f}], if the power law goes on: {worth}"
        )


def _entry(found: tuple[float, tuple[float, float]] | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found[0], "interval": list(found[1])}


def fit(
    sizes: Sequence[int],
    each: Sequence[Sequence[np.ndarray]],
    title: str = "accuracy",
    higher: bool = True,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Curve:
    """Fit the law.

    Args:
        sizes: Training images, ascending.
        each: By size and draw, float64 `[N]`, of each of the same test images; the mean is the score.
        title: Of the score.
        higher: Whether a higher score is better; the error is then 1 less it.
        seed: Of the resamples.
        level: Of the intervals.
        resamples: How many.
    """
    rng = np.random.default_rng(seed)
    stacks = [np.stack(draws) for draws in each]  # [draws, N]
    now = np.array([stack.mean() for stack in stacks])
    drawn = np.stack([_resampled(stacks, rng) for _ in range(resamples)], axis=1)  # [sizes, R]
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.quantile(drawn, tails, axis=1)
    points = tuple(
        Point(int(size), float(score), (float(low), float(high)))
        for size, score, low, high in zip(sizes, now, *ends, strict=True)
    )
    if len(sizes) < _FEWEST:
        return Curve(title, higher, points, None, None, None)
    weight = 1 / np.maximum(drawn.var(axis=1), 1e-6)
    counts = np.array(sizes, dtype=np.float64)
    laws = _laws(counts, _error(np.concatenate([now[:, None], drawn], axis=1), higher), weight)
    at, twice = (_value(laws, counts[-1] * factor) for factor in (1, 2))
    gains = at - twice
    # The law passes near the last point, not through it: what twice the images bring is added to what was measured.
    base = np.concatenate([now[-1:], drawn[-1]])
    scores = base + gains if higher else base - gains
    if higher:
        scores = scores.clip(max=1.0)
    return Curve(
        title,
        higher,
        points,
        (float(laws[0, 0]), float(laws[1, 0]), float(laws[2, 0])),
        (float(scores[0]), _ends(scores[1:], tails)),
        (float(gains[0]), _ends(gains[1:], tails)),
    )


def _ends(values: np.ndarray, tails: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, tails)
    return float(low), float(high)


def _resampled(stacks: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A score for each size: other test images, the same for all, and other draws."""
    images = rng.integers(0, stacks[0].shape[1], stacks[0].shape[1])
    return np.array([stack[rng.integers(0, len(stack), len(stack))][:, images].mean() for stack in stacks])


def _error(scores: np.ndarray, higher: bool) -> np.ndarray:
    return 1 - scores if higher else scores


def _value(laws: np.ndarray, images: float) -> np.ndarray:
    value: np.ndarray = laws[0] + laws[1] * images ** -laws[2]
    return value


def _laws(counts: np.ndarray, errors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float64 `[3, R]`, c, a, b of least weighted squares for errors `[K, R]`: of each b a line in n^-b, the best."""
    best = np.full(errors.shape[1], np.inf)
    laws = np.zeros((3, errors.shape[1]))
    w = weight[:, None]
    for exponent in _EXPONENTS:
        x = (counts**-exponent)[:, None]
        mean_x, mean_y = (w * x).sum() / w.sum(), (w * errors).sum(axis=0) / w.sum()
        slope = (w * (x - mean_x) * (errors - mean_y)).sum(axis=0) / (w * (x - mean_x) ** 2).sum()
        constant = mean_y - slope * mean_x
        through = (w * x * errors).sum(axis=0) / (w * x**2).sum()
        slope = np.where(constant < 0, through, slope)
        constant = np.where(constant < 0, 0.0, constant)
        slope, constant = np.where(slope < 0, 0.0, slope), np.where(slope < 0, mean_y, constant)
        squares = (w * (constant + slope * x - errors) ** 2).sum(axis=0)
        better = squares < best - 1e-12
        best = np.where(better, squares, best)
        laws[:, better] = np.stack([constant, slope, np.full_like(slope, exponent)])[:, better]
    return laws
