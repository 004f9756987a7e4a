"""Precision against recall, and average precision by class and by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from finetune.evaluation.figures import style
from finetune.tasks.detection.figures.boxes import colour
from finetune.tasks.detection.judging.matches import OVERLAPS, Matches

MOST = 8
"""Classes with a curve of their own: those of most objects."""
_BARS = 20
_SIZES = {"map_small": "small (< 32² px)", "map_medium": "medium", "map_large": "large (> 96² px)"}


def curve(matches: Matches, label: int, step: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and score of the found objects of a class, the surest first; at `OVERLAPS[step]`."""
    mine = (matches.label == label) & ~matches.ignored[:, step]
    order = np.argsort(-matches.score[mine], kind="stable")
    true = matches.true[mine, step][order]
    hits = np.cumsum(true)
    return hits / max(1, matches.wanted[:, label].sum()), hits / np.arange(1, len(true) + 1), matches.score[mine][order]


def precision_recall(matches: Matches, classes: Sequence[str], threshold: float) -> Figure:
    """A curve a class at overlap 0.5; a dot where the threshold cuts it."""
    names = style.readable(classes)
    there = matches.wanted.sum(0)
    shown = [int(label) for label in np.argsort(-there, kind="stable")[:MOST] if there[label]]
    made = style.figure(4.2)
    axes = made.add_subplot()
    for label in shown:
        recall, precision, score = curve(matches, label)
        text = f"{names[label]} ({there[label]:,})"
        axes.plot(recall, precision, color=colour(label), label=text)
        inside = int((score >= threshold).sum())
        if inside:
            axes.plot(recall[inside - 1], precision[inside - 1], "o", color=colour(label))
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    axes.set_title(f"Test objects at overlap {OVERLAPS[0]:g}; dots: from score {threshold:.2f} on")
    axes.grid()
    more = len(np.flatnonzero(there)) - len(shown)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title=f"and {more} more" if more else None)
    return made


def bars(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, float]) -> Figure:
    """Average precision of each class (the weakest where there are many), and by size.

    Args:
        rows: Of `evaluation.per_class`.
        scores: COCO's, of test.
    """
    known = sorted((row for row in rows if row["ap"] is not None), key=lambda row: row["ap"])
    some = known[:_BARS]
    made = style.figure(max(2.4, 0.9 + 0.24 * max(len(some), 3)))
    left, right = made.subplots(1, 2, width_ratios=(3, 2))
    names = style.readable([f"{row['class']} ({row['support']:,})" for row in some])
    _bars(left, names, [row["ap"] for row in some], style.BLUE)
    left.set_title(f"The {len(some)} weakest of {len(known)} classes" if len(some) < len(known) else "AP by class")
    sizes = {title: scores[name] for name, title in _SIZES.items() if scores.get(name, -1) >= 0}
    _bars(right, list(sizes), list(sizes.values()), style.GREEN)
    right.set_title("AP by size of the object")
    return made


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], colour_: str) -> None:
    places = np.arange(len(names))[::-1]
    axes.barh(places, values, color=colour_, height=0.6)
    axes.set_yticks(places, names)
    axes.set(xlim=(0, 1.12))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="x")
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.3f}", va="center", size=8)
