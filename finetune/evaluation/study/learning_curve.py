"""Would more labels help? Errors against the number of training images, and a power law that goes on from them.

The law (`finetune.evaluation.study.power_law`) is extrapolated to twice the images and no further. Its uncertainty is
that of the test images, which are resampled together for all sizes, and of the subsets where a size has several draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import LEVEL
from finetune.evaluation.study import power_law

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
DRAWS = 3
"""Subsets of each size but the whole."""
RESAMPLES = 1000
_STEPS = 25  # of the law's line
HELPS, UNSURE = 0.005, 0.1
"""A gain worth a sentence, and an interval too wide for one; of an error, as shares of it."""

Ends = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """One number of training images.

    Attributes:
        images: How many.
        score: Mean over its draws; on the law's line what the law has there.
        interval: Of that.
    """

    images: int
    score: float
    interval: Ends

    def to_json(self) -> dict[str, Any]:
        """As result.json has it."""
        return {"images": self.images, "score": self.score, "interval": list(self.interval)}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Point:
        """From `to_json`."""
        return cls(entry["images"], entry["score"], _pair(entry["interval"]))


@dataclass(frozen=True)
class Law:
    """`error(n) = c + a n^-b`.

    Attributes:
        values: c, a, b.
        intervals: Of each.
        line: Scores by the law, from the fewest images to twice the most.
    """

    values: tuple[float, float, float]
    intervals: tuple[Ends, Ends, Ends]
    line: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """What was measured, and what follows.

    Attributes:
        title: Of the score, for people.
        higher: Whether a higher one is better.
        points: By number of images.
        law: None where too few sizes were measured.
        doubled: Score with twice the images, by the law, and its interval.
        gain: What that is more than the law has now (of an error: less), and its interval.
    """

    title: str
    higher: bool
    points: tuple[Point, ...]
    law: Law | None
    doubled: tuple[float, Ends] | None
    gain: tuple[float, Ends] | None

    def to_json(self) -> dict[str, Any]:
        """As `--json` and result.json have it."""
        return {
            "score": self.title,
            "higher": self.higher,
            "points": [point.to_json() for point in self.points],
            "law": None
            if self.law is None
            else {
                **dict(zip("cab", self.law.values, strict=True)),
                "intervals": {name: list(ends) for name, ends in zip("cab", self.law.intervals, strict=True)},
                "line": [point.to_json() for point in self.law.line],
            },
            "doubled": _entry(self.doubled),
            "gain": _entry(self.gain),
        }

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Curve:
        """From `to_json`; what else stands there is left."""
        law = entry["law"]
        return cls(
            entry["score"],
            entry["higher"],
            tuple(map(Point.of, entry["points"])),
            None
            if law is None
            else Law(
                (law["c"], law["a"], law["b"]),
                (_pair(law["intervals"]["c"]), _pair(law["intervals"]["a"]), _pair(law["intervals"]["b"])),
                tuple(map(Point.of, law["line"])),
            ),
            _value_of(entry["doubled"]),
            _value_of(entry["gain"]),
        )

    def lines(self) -> list[str]:
        """A table, the law, and one sentence."""
        width = max(12, len(self.title) + 2)
        made = [f"{'training images':>16}{self.title:>{width}}{'95 % interval':>20}"]
        for point in self.points:
            low, high = point.interval
            made.append(f"{point.images:>16,}{point.score:>{width}.4f}{f'[{low:.4f}, {high:.4f}]':>20}")
        if self.law is not None:
            c, a, b = self.law.values
            (least, most), _, (flat, steep) = self.law.intervals
            made.append(
                f"error, by a power law: {c:.4f} + {a:.4g} n^-{b:.2f}; what no number of images mends: "
                f"[{least:.4f}, {most:.4f}], exponent [{flat:.2f}, {steep:.2f}]"
            )
        return [*made, self.sentence()]

    def sentence(self) -> str:
        """What twice the images would bring."""
        if self.gain is None or self.doubled is None:
            return "too few sizes to say what more images would bring"
        value, (low, high) = self.gain
        images, (score, (least, most)) = 2 * self.points[-1].images, self.doubled
        unit = 1.0 if self.higher else max(self.points[-1].score, 1e-12)  # an error has a unit of its own
        worth = "more labels would help" if low / unit > HELPS else "more labels would help little"
        if (high - low) / unit > UNSURE:
            worth = "whether more labels would help cannot be said from these sizes"
        if not self.higher:  # what an error gains it loses
            value, low, high = -value, -high, -low
        return (
            f"twice the training images ({images:,}) would bring {value:+.4f} {self.title} [{low:+.4f}, {high:+.4f}], "
            f"to {score:.4f} [{least:.4f}, {most:.4f}], if the power law goes on: {worth}"
        )


def _entry(found: tuple[float, Ends] | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found[0], "interval": list(found[1])}


def _value_of(entry: Mapping[str, Any] | None) -> tuple[float, Ends] | None:
    return None if entry is None else (entry["value"], _pair(entry["interval"]))


def _pair(ends: Sequence[float]) -> Ends:
    low, high = ends
    return low, high


def fit(
    sizes: Sequence[int],
    each: Sequence[Sequence[np.ndarray]],
    title: str = "accuracy",
    higher: bool = True,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Curve:
    """Fit the law to scores that are means over test images.

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
    drawn = np.stack([_resampled(stacks, rng) for _ in range(resamples)], axis=1)
    return of_scores(sizes, now, drawn, title, higher, seed, level)


def of_scores(
    sizes: Sequence[int],
    now: np.ndarray,
    drawn: np.ndarray,
    title: str = "accuracy",
    higher: bool = True,
    seed: int = 0,
    level: float = LEVEL,
) -> Curve:
    """Fit the law to any scores.

    Where they lie farther from it than test images explain, the rest is the chance of each training (its images, its
    seed), or the law is not one: what follows from the law is as much less sure (`power_law.unexplained`).

    Args:
        sizes: Training images, ascending; K of them.
        now: float64 `[K]`, the scores.
        drawn: float64 `[K, R]`, of R resamples of the test images, the same for all sizes.
        title: Of the score.
        higher: Whether a higher score is better; the error is then 1 less it.
        seed: Of the chance that is added.
        level: Of the intervals.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    points = _points(sizes, now, drawn, tails)
    if len(sizes) < power_law.FEWEST:
        return Curve(title, higher, points, None, None, None)
    unit = 1.0 if higher else max(float(now[-1]), 1e-12)  # an error has a unit of its own
    weight = 1 / np.maximum(drawn.var(axis=1), 1e-6 * unit**2)
    counts = np.array(sizes, dtype=np.float64)
    chance = power_law.unexplained(counts, _error(now, higher), weight)
    drawn = drawn + chance[:, None] * np.random.default_rng(seed).normal(size=drawn.shape)
    laws = power_law.fit(counts, _error(np.concatenate([now[:, None], drawn], axis=1), higher), weight)
    gains = power_law.value(laws, counts[-1]) - power_law.value(laws, 2 * counts[-1])
    # The law passes near the last point, not through it: what twice the images bring is added to what was measured.
    base = np.concatenate([now[-1:], drawn[-1]])
    scores = base + gains if higher else base - gains
    if higher:
        scores = scores.clip(max=1.0)
    return Curve(
        title,
        higher,
        points,
        _law(laws, counts, higher, tails),
        (float(scores[0]), _ends(scores[1:], tails)),
        (float(gains[0]), _ends(gains[1:], tails)),
    )


def _points(images: Sequence[int], now: np.ndarray, drawn: np.ndarray, tails: Sequence[float]) -> tuple[Point, ...]:
    ends = np.quantile(drawn, tails, axis=1)
    return tuple(
        Point(int(count), float(score), (float(low), float(high)))
        for count, score, low, high in zip(images, now, *ends, strict=True)
    )


def _law(laws: np.ndarray, counts: np.ndarray, higher: bool, tails: Sequence[float]) -> Law:
    """Of laws `[3, 1 + R]`, the first of what was measured, the others of resamples."""
    images = np.unique(np.geomspace(counts[0], 2 * counts[-1], _STEPS).round().astype(np.int64)).tolist()
    scores = np.stack([_error(power_law.value(laws, count), higher) for count in images])
    c, a, b = (float(number) for number in laws[:, 0])
    ends = [_ends(row, tails) for row in laws[:, 1:]]
    return Law((c, a, b), (ends[0], ends[1], ends[2]), _points(images, scores[:, 0], scores[:, 1:], tails))


def _ends(values: np.ndarray, tails: Sequence[float]) -> Ends:
    low, high = np.quantile(values, tails)
    return float(low), float(high)


def _resampled(stacks: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A score for each size: other test images, the same for all, and other draws."""
    images = rng.integers(0, stacks[0].shape[1], stacks[0].shape[1])
    return np.array([stack[rng.integers(0, len(stack), len(stack))][:, images].mean() for stack in stacks])


def _error(scores: np.ndarray, higher: bool) -> np.ndarray:
    return 1 - scores if higher else scores
