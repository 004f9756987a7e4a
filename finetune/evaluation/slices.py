"""Kinds of images on which a model does worse than on the others, found among many and corrected for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import LEVEL, RESAMPLES, wilson

FEWEST = 10
"""Images below which a slice says nothing."""
MOST_VALUES = 20
"""Values of a column up to which each is a slice."""
PERMUTATIONS = 5_000
_CELLS = 4_000_000


@dataclass(frozen=True)
class Slice:
    """Images that have something in common.

    Attributes:
        by: What they were told apart by, such as `brightness`.
        name: Which of these, such as `the darkest quarter`.
        inside: Bool `[N]`.
    """

    by: str
    name: str
    inside: np.ndarray


def quarters(by: str, values: np.ndarray, low: str, high: str) -> Iterator[Slice]:
    """The lowest and the highest quarter of a number; nothing where most images have the same.

    Args:
        by: What the number is.
        values: float64 `[N]`.
        low: What those of small values are called.
        high: What those of large values are called.
    """
    first, last = np.quantile(values, [0.25, 0.75])
    if first < last:
        yield Slice(by, f"{low} (up to {first:.4g})", values <= first)
        yield Slice(by, f"{high} (from {last:.4g})", values >= last)


def categories(by: str, values: np.ndarray) -> Iterator[Slice]:
    """A slice for each value; nothing where there is one alone, or very many.

    Args:
        by: What the values are.
        values: `[N]`, integers or text.
    """
    known = np.unique(values).tolist()
    if 2 <= len(known) <= MOST_VALUES:
        for value in known:
            yield Slice(by, str(value), values == value)


def memberships(by: str, inside: np.ndarray, names: Sequence[str]) -> Iterator[Slice]:
    """A slice for each class that some images show and others do not.

    Args:
        by: What the classes are.
        inside: Bool `[N, K]`; an image may show several, or none.
        names: K.
    """
    for column, name in zip(inside.T, names, strict=True):
        if column.any() and not column.all():
            yield Slice(by, name, column)


def find(values: np.ndarray, slices: Sequence[Slice], higher: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Test each slice against the rest.

    A permutation test, one-sided: how often a random assignment of the values to the images gives a slice that is as
    much worse than the rest, in standard deviations. Adjusted p-values compare with the worst slice of each permutation
    (Westfall and Young's single step): they hold for all slices together, however much these overlap.

    Args:
        values: float64 `[N]`, a score of each image; NaN of those that have none, which are left out.
        slices: Of these images.
        higher: Whether a higher score is better.
        seed: Of the permutations.

    Returns:
        The worst first, JSON values: `by`, `slice`, `images`, `score`, `rest`, `interval` (of the slice's score), `p`,
        `p_adjusted`, and `worse`, whether that is below 5 %.

    Source: Westfall and Young, "Resampling-Based Multiple Testing", 1993, section 2.3.
    """
    known = np.isfinite(values)
    values, count = values[known], int(known.sum())
    slices = [Slice(one.by, one.name, one.inside[known]) for one in slices]
    kept = [one for one in slices if FEWEST <= one.inside.sum() <= count - FEWEST]
    spread = values.std() if count else 0.0
    if not kept or spread == 0:
        return []
    members = np.stack([one.inside for one in kept]).astype(np.float64)
    sizes = members.sum(axis=1)
    # Of a mean of m of N values that are drawn without replacement, times m.
    scale = spread * np.sqrt(sizes * (count - sizes) / (count - 1))
    centred = (values - values.mean()) * (1 if higher else -1)
    observed = members @ centred / scale
    lower, lowest = np.zeros(len(kept)), np.zeros(len(kept))
    rng, step = np.random.default_rng(seed), max(1, _CELLS // count)
    for start in range(0, PERMUTATIONS, step):
        rows = min(step, PERMUTATIONS - start)
        drawn = rng.permuted(np.broadcast_to(centred, (rows, count)), axis=1) @ members.T / scale
        lower += (drawn <= observed + 1e-9).sum(axis=0)
        lowest += (drawn.min(axis=1)[:, None] <= observed + 1e-9).sum(axis=0)
    found = []
    for place, one in enumerate(kept):
        inside = values[one.inside]
        adjusted = float((lowest[place] + 1) / (PERMUTATIONS + 1))
        found.append(
            {
                "by": one.by,
                "slice": one.name,
                "images": len(inside),
                "score": float(inside.mean()),
                "rest": float(values[~one.inside].mean()),
                "interval": list(_interval(inside, seed)),
                "p": float((lower[place] + 1) / (PERMUTATIONS + 1)),
                "p_adjusted": adjusted,
                "worse": adjusted < 1 - LEVEL,
            }
        )
    order = np.argsort(observed, kind="stable")
    return [found[place] for place in order]


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Wilson's of shares, else a percentile bootstrap."""
    if set(np.unique(values).tolist()) <= {0.0, 1.0}:
        return wilson(float(values.mean()), len(values))
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def clusters(features: np.ndarray, count: int = 8, seed: int = 0, rounds: int = 20) -> np.ndarray:
    """K-means of features that are scaled to unit length: images that look alike to the model.

    Args:
        features: float `[N, D]`.
        count: How many clusters at most.
        seed: Of the first centres.
        rounds: Of Lloyd's algorithm.

    Returns:
        int64 `[N]`.

    Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007, for the centres.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    centres = unit[[rng.integers(len(unit))]]
    for _ in range(1, min(count, len(unit))):
        nearest = _distances(unit, centres).min(axis=1)
        if nearest.sum() <= 1e-9:
            break
        centres = np.concatenate([centres, unit[[rng.choice(len(unit), p=nearest / nearest.sum())]]])
    labels = _distances(unit, centres).argmin(axis=1)
    for _ in range(rounds):
        means = [unit[labels == k].mean(axis=0) if (labels == k).any() else centres[k] for k in range(len(centres))]
        centres = np.stack(means)
        moved = _distances(unit, centres).argmin(axis=1)
        if (moved == labels).all():
            break
        labels = moved
    found: np.ndarray = labels.astype(np.int64)
    return found


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T
    found: np.ndarray = np.maximum(squares, 0)
    return found


def lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """What a run says of where its model fails.

    Args:
        evaluation: Of result.json.
    """
    if found := evaluation.get("slices"):
        worse = [row for row in found["each"] if row["worse"]]
        for row in worse[:3]:
            low, high = row["interval"]
            yield (
                f"worse on {row['by']}: {row['slice']}: {row['title']} {row['score']:.4f} [{low:.4f}, {high:.4f}] on "
                f"{row['images']} images, {row['rest']:.4f} on the rest (p = {row['p_adjusted']:.3g} of "
                f"{len(found['each'])} slices)"
            )
        if not worse:
            yield f"no kind of images is shown to be worse than the rest ({len(found['each'])} slices tried)"
    if found := evaluation.get("robustness"):
        worst = min(
            found["each"], key=lambda row: row["scores"][found["by"]] * (1 if found["higher"] else -1), default=None
        )
        if worst is not None:
            yield (
                f"{found['title']} of {found['images']} corrupted test images: {worst['scores'][found['by']]:.4f} at "
                f"worst ({worst['corruption']}, strength {worst['strength']} of 3), {found['clean'][found['by']]:.4f} "
                "as they are"
            )
