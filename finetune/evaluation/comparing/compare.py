"""Several models on the same images -> which is better than the first, by how much, in which classes, on which images.

Models of one setting that differ in their seed alone are one entry: its scores are means, and how far its seeds lie
apart is part of every interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.comparing import paired
from finetune.evaluation.comparing.judged import Judged
from finetune.evaluation.intervals import LEVEL, RESAMPLES
from finetune.task import Score

BETTER, WORSE, TIE = "better", "worse", "tie"
FEWEST = 5
"""Images of a class below which it is not compared by itself."""
SHOWN = 24
"""Images that are named at most, where one model is ahead of the other by more or less."""


@dataclass(frozen=True)
class Entry:
    """A model, or the trainings of one setting.

    Attributes:
        name: What people call it.
        models: At least one, all on the same images in the same order.
    """

    name: str
    models: Sequence[Judged]

    @property
    def first(self) -> Judged:
        """Which stands for all where single images are named."""
        return self.models[0]

    def scores(self) -> dict[str, tuple[float, float | None]]:
        """Mean, and standard deviation over the seeds where there are several."""
        each = [model.once() for model in self.models]
        sd = {key: statistics.stdev([one[key] for one in each]) if len(each) > 1 else None for key in each[0]}
        return {key: (statistics.fmean([one[key] for one in each]), sd[key]) for key in each[0]}


def compare(entries: Sequence[Entry], scores: Sequence[Score], seed: int = 0, level: float = LEVEL) -> dict[str, Any]:
    """Compare all with the first.

    Args:
        entries: At least two.
        scores: Of the task, in their order.
        seed: Of the resamples.
        level: Of the intervals. Those of several comparisons are wider (Bonferroni), so that all hold together.

    Returns:
        JSON values: `reference`, `images`, `level`, `models`, `comparisons`.
    """
    reference, *others = entries
    each = 1 - (1 - level) / len(others)
    return {
        "reference": reference.name,
        "images": len(reference.first),
        "level": level,
        "method": _method(entries, len(others)),
        "models": [_model(entry) for entry in entries],
        "comparisons": [_comparison(reference, other, scores, seed, each) for other in others],
    }


def _method(entries: Sequence[Entry], comparisons: int) -> str:
    words = [f"Paired bootstrap over images, {RESAMPLES:,} resamples"]
    if entries[0].first.right is not None:
        words.append(f"of the share that is right Tango's score interval ({entries[0].first.worth.title})")
    if any(len(entry.models) > 1 for entry in entries):
        words.append("where there are several seeds with their spread, by Student's distribution")
    if comparisons > 1:
        words.append(f"widened for {comparisons} comparisons (Bonferroni)")
    return "; ".join(words)


def _model(entry: Entry) -> dict[str, Any]:
    found = entry.scores()
    return {
        "name": entry.name,
        "seeds": len(entry.models),
        "scores": {key: mean for key, (mean, _) in found.items()},
        "sd": {key: sd for key, (_, sd) in found.items()} if len(entry.models) > 1 else None,
    }


def _comparison(reference: Entry, other: Entry, scores: Sequence[Score], seed: int, level: float) -> dict[str, Any]:
    """`other` against `reference`: differences are other - reference."""
    drawn = paired.bootstrap(other.models, reference.models, seed)
    ours, theirs = other.scores(), reference.scores()
    metrics = {}
    for of in scores:
        if of.key in drawn:
            difference = ours[of.key][0] - theirs[of.key][0]
            ends = _interval(reference, other, of, drawn[of.key], difference, level)
            said = verdict(ends, of.higher)
            metrics[of.key] = {"title": of.title, "difference": difference, "interval": list(ends), "verdict": said}
    entry: dict[str, Any] = {"model": other.name, "metrics": metrics}
    entry["per_class"] = per_class(reference, other, seed, level)
    mine, others = other.first.right, reference.first.right
    if mine is None or others is None:
        return entry | apart(reference, other)
    only = {"only_model": np.flatnonzero(mine & ~others), "only_reference": np.flatnonzero(others & ~mine)}
    counts = {name: len(places) for name, places in only.items()}
    single = len(other.models) == len(reference.models) == 1
    if single:
        entry["mcnemar"] = {**counts, "p": paired.mcnemar(counts["only_model"], counts["only_reference"])}
    return entry | {name: places.tolist() for name, places in only.items()}


def apart(reference: Entry, other: Entry, most: int = SHOWN) -> dict[str, Any]:
    """The images on which one of both is ahead the most, of a score of each image that is no yes or no.

    Args:
        reference: The one.
        other: The other.
        most: Images of each side.

    Returns:
        JSON values: `images` (how many on which each is ahead), `ahead_model` and `ahead_reference` (the furthest
        first: `place`, and the score of `model` and `reference`); nothing where single images are not scored.
    """
    ours, theirs = (_values(entry) for entry in (other, reference))
    worth = reference.first.worth
    gain = (ours - theirs) * (1 if worth.higher else -1)
    if not np.isfinite(gain).any():
        return {}
    gain = np.where(np.abs(gain) < 1e-9, 0.0, np.nan_to_num(gain))
    found: dict[str, Any] = {"images": {"by": worth.key, "title": worth.title, "higher": worth.higher}}
    for side, of in (("model", gain), ("reference", -gain)):
        places = [int(place) for place in np.argsort(-of, kind="stable")[:most] if of[place] > 0]
        found["images"][f"ahead_{side}"] = int((of > 0).sum())
        found[f"ahead_{side}"] = [
            {"place": place, "model": float(ours[place]), "reference": float(theirs[place])} for place in places
        ]
    return found


def _values(entry: Entry) -> np.ndarray:
    """float64 `[N]`, of each image the mean over the seeds."""
    found: np.ndarray = np.mean([model.values for model in entry.models], axis=0)
    return found


def verdict(ends: tuple[float, float], higher: bool = True) -> str:
    """What an interval of (model - reference) says of the model."""
    low, high = ends if higher else (-ends[1], -ends[0])
    return BETTER if low > 0 else WORSE if high < 0 else TIE


def _interval(
    reference: Entry, other: Entry, of: Score, drawn: np.ndarray, difference: float, level: float
) -> tuple[float, float]:
    ours, theirs = other.first, reference.first
    if len(other.models) == len(reference.models) == 1:
        if of.key == ours.worth.key and ours.right is not None and theirs.right is not None:
            counts = int((ours.right & ~theirs.right).sum()), int((theirs.right & ~ours.right).sum())
            return paired.tango(*counts, len(ours), level)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    spreads = [
        (statistics.variance([model.once()[of.key] for model in entry.models]) / len(entry.models), len(entry.models))
        for entry in (reference, other)
        if len(entry.models) > 1
    ]
    half = half_width(float(drawn.var(ddof=1)), spreads, level)
    return difference - half, difference + half


def half_width(images: float, spreads: Sequence[tuple[float, int]], level: float) -> float:
    """Half an interval's width where both the images and the seeds are a sample.

    The degrees of freedom are Welch's and Satterthwaite's; what the images add is known as of infinitely many.

    Args:
        images: Variance of the difference over resamples of the images.
        spreads: Of each setting with several seeds the variance of its mean over seeds, and how many there are.
        level: Of the interval.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2 (1946).
    """
    total = images + sum(variance for variance, _ in spreads)
    part = sum(variance**2 / (count - 1) for variance, count in spreads)
    degrees = total**2 / part if part else math.inf
    return student(0.5 + level / 2, degrees) * math.sqrt(total)


def student(share: float, degrees: float) -> float:
    """Quantile of Student's distribution.

    Args:
        share: Of the distribution below it, in [0.5, 1).
        degrees: Of freedom, at least 1.
    """
    if degrees > 1e6:
        return statistics.NormalDist().inv_cdf(share)
    # P(T <= t) with t = sqrt(degrees) tan(angle) is an integral of cos^(degrees - 1): smooth, so Simpson's rule is near
    # exact; half the whole area stands for the half below 0.
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    steps = (density[:-2:2] + 4 * density[1:-1:2] + density[2::2]) / 6
    area = np.concatenate([[0.0], np.cumsum(steps)])
    angle = float(np.interp((share - 0.5) * 2 * area[-1], area, angles[::2]))
    return math.sqrt(degrees) * math.tan(angle)


def per_class(reference: Entry, other: Entry, seed: int, level: float) -> list[dict[str, Any]]:
    """The images that show each class, with p-values that are corrected for the number of classes (Holm)."""
    ours, theirs = (_values(entry) for entry in (other, reference))
    known = np.isfinite(ours) & np.isfinite(theirs)
    rows: list[dict[str, Any]] = []
    for name, shown in zip(reference.first.names, reference.first.shows.T, strict=True):
        here = shown & known
        if here.sum() < FEWEST or here.sum() == known.sum():  # of all images the scores themselves are compared
            continue
        difference = ours[here] - theirs[here]
        rows.append(
            {
                "class": name,
                "images": int(here.sum()),
                "reference": float(theirs[here].mean()),
                "model": float(ours[here].mean()),
                "difference": float(difference.mean()),
                "interval": list(_of_values(difference, seed, level)),
                "p": _test(difference, seed),
            }
        )
    higher = reference.first.worth.higher
    for row, p in zip(rows, paired.holm([row["p"] for row in rows]), strict=True):
        up = BETTER if (row["difference"] > 0) == higher else WORSE
        row |= {"p_holm": p, "verdict": up if p < 1 - level else TIE}
    return rows


def _is_one_model(differences: np.ndarray) -> bool:
    return set(np.unique(differences).tolist()) <= {-1.0, 0.0, 1.0}


def _of_values(differences: np.ndarray, seed: int, level: float) -> tuple[float, float]:
    if _is_one_model(differences):
        return paired.tango(int((differences > 0).sum()), int((differences < 0).sum()), len(differences), level)
    means = np.concatenate([w @ differences for w in paired.draws(len(differences), seed)]) / len(differences)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _test(differences: np.ndarray, seed: int) -> float:
    if _is_one_model(differences):
        return paired.mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    return paired.sign_flips(differences, seed)
