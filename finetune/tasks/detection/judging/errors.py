"""What went wrong, by kind.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
https://arxiv.org/abs/2008.08115: its kinds and overlaps, counted among what is shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.judging.matches import overlaps

FOUND, TOUCHED = 0.5, 0.1
"""Overlaps from which on an object is found, and below which it is not even meant."""
KINDS = {
    "class": "the right place, another class",
    "place": "the right class, the box too far off",
    "both": "near an object of another class, too far off",
    "double": "an object that was found already",
    "background": "nothing is there",
    "missed": "objects that nothing was said of",
}
"""Kind -> for people."""


def kinds(detected: Detected, threshold: float) -> dict[str, int]:
    """How often each kind occurs among what is found with at least `threshold`, and how many were right."""
    counts = Counter({"right": 0} | dict.fromkeys(KINDS, 0))
    for found, truth in detected.pairs():
        said, reached = of_image(found, truth, threshold)
        counts.update(said[i] for i in range(len(said)))
        counts["missed"] += int((~truth["crowd"] & ~reached).sum())
    counts.pop("crowd", None)
    return dict(counts)


def of_image(found: dict[str, Any], truth: dict[str, Any], threshold: float) -> tuple[list[str], np.ndarray]:
    """Of what is shown, the surest first, its kind or `right` or `crowd`; and which objects were meant by any of it.

    Args:
        found: An entry of `Objects.images`.
        truth: Likewise.
        threshold: Of what is shown.
    """
    shown = np.flatnonzero(found["scores"] >= threshold)
    shown = shown[np.argsort(-found["scores"][shown], kind="stable")]
    everything = np.arange(len(truth["labels"]))
    shared = overlaps(found, shown, truth, everything, masks=False)
    taken, reached = truth["crowd"].copy(), np.zeros(len(everything), bool)
    said = []
    for row, place in zip(shared, shown, strict=True):
        kind, meant = _kind(row, truth["labels"] == found["labels"][place], truth["crowd"], taken)
        said.append(kind)
        if meant is not None:
            reached[meant] = True
            taken[meant] |= kind == "right"
    return said, reached


def _kind(row: np.ndarray, same: np.ndarray, crowd: np.ndarray, taken: np.ndarray) -> tuple[str, int | None]:
    """Of one found object: its kind, and the object that it means.

    Args:
        row: float `[G]`, overlaps with all objects of the image.
        same: Bool `[G]`, of its class.
        crowd: Bool `[G]`.
        taken: Bool `[G]`, found already or a crowd.
    """
    plain = np.where(crowd, 0.0, row)
    free = np.where(same & ~taken, plain, 0.0)
    if free.max(initial=0.0) >= FOUND:
        return "right", int(free.argmax())
    if (same & crowd & (row >= FOUND)).any():
        return "crowd", None
    own, other = np.where(same, plain, 0.0), np.where(same, 0.0, plain)
    if own.max(initial=0.0) >= FOUND:
        return "double", int(own.argmax())
    if other.max(initial=0.0) >= FOUND:
        return "class", int(other.argmax())
    if own.max(initial=0.0) >= TOUCHED:
        return "place", int(own.argmax())
    if other.max(initial=0.0) >= TOUCHED:
        return "both", int(other.argmax())
    return "background", None
