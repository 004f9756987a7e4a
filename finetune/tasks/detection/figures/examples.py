"""Test images with what is there and what was found: best, in the middle, worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from finetune.evaluation.figures import style
from finetune.tasks.detection.figures import boxes
from finetune.tasks.detection.judging import errors
from finetune.tasks.detection.judging.detected import Detected

ROWS = 2
"""Images of each kind."""
_KINDS = ("best", "middle", "worst")
_LARGEST = 640
_GAP, _HEAD, _NOTE = 0.1, 0.45, 0.22  # inches


@dataclass(frozen=True)
class Quality:
    """How well the objects of an image were found at the threshold.

    Attributes:
        place: Of the image in the split.
        f1: 1 where nothing is there and nothing was found.
        right: Found.
        wrong: Found, and not there.
        missed: There, and not found.
    """

    place: int
    f1: float
    right: int
    wrong: int
    missed: int


def qualities(detected: Detected, threshold: float) -> list[Quality]:
    """Of every image of a split, in its order."""
    made = []
    for place, (found, truth) in enumerate(detected.pairs()):
        said, _ = errors.of_image(found, truth, threshold)
        right = said.count("right")
        wrong = len(said) - right - said.count("crowd")
        missed = int((~truth["crowd"]).sum()) - right
        whole = 2 * right + wrong + missed
        made.append(Quality(place, 2 * right / whole if whole else 1.0, right, wrong, missed))
    return made


def chosen(all_of_them: Sequence[Quality]) -> dict[str, list[Quality]]:
    """`ROWS` images of each kind, as far as there are; those with more objects before others of the same F1."""
    order = sorted(all_of_them, key=lambda one: (-one.f1, -(one.right + one.missed), one.place))
    count = min(ROWS, -(-len(order) // 3))
    middle = max(count, (len(order) - count) // 2)
    parts = (order[:count], order[middle : middle + count], order[max(middle + count, len(order) - count) :])
    return {kind: list(part) for kind, part in zip(_KINDS, parts, strict=True) if part}


def draw(
    picked: Sequence[tuple[str, Quality, Image.Image, dict[str, Any], dict[str, Any]]],
    classes: Sequence[str],
    threshold: float,
) -> Figure:
    """A row an image: the truth on the left, what was found on the right.

    Args:
        picked: Kind, quality, image, what was found and what is there.
        classes: Names, in order.
        threshold: From which score on it is shown.
    """
    half = (style.WIDTH - 3 * _GAP) / 2
    heights = [min(1.1, image.height / image.width) * half for _, _, image, _, _ in picked]
    height = _HEAD + sum(heights) + len(picked) * (_NOTE + _GAP)
    made = style.figure(height)
    made.set_layout_engine("none")
    for x, text in ((_GAP, "Truth"), (2 * _GAP + half, f"Found, from score {threshold:.2f} on")):
        made.text(x / style.WIDTH, 1 - 0.12 / height, text, va="top", weight="bold", size=9.5)
    _legend(made, classes, height)
    top = height - _HEAD
    for (kind, quality, image, found, truth), tall in zip(picked, heights, strict=True):
        note = f"{kind}: {quality.right} right, {quality.wrong} wrong, {quality.missed} missed (F1 {quality.f1:.2f})"
        made.text(_GAP / style.WIDTH, (top - 0.02) / height, note, va="top", size=8, color=style.GREY)
        top -= _NOTE + tall
        for x, entry, least in ((_GAP, truth, None), (2 * _GAP + half, found, threshold)):
            axes = made.add_axes((x / style.WIDTH, top / height, half / style.WIDTH, tall / height))
            axes.imshow(_with_objects(image, entry, classes, least), interpolation="none")
            axes.set_axis_off()
            axes.set_anchor("W")
        top -= _GAP
    return made


def _legend(made: Figure, classes: Sequence[str], height: float) -> None:
    """Names of the first classes in their colours, at the right of the head."""
    names = style.readable(classes)[: len(boxes.COLOURS)]
    x = 1 - _GAP / style.WIDTH
    for label in reversed(range(len(names))):
        text = style.shorten(made, names[label], 8, 1.0)
        made.text(x, 1 - 0.30 / height, text, va="top", ha="right", size=8, color=boxes.colour(label))
        x -= (style.width_of(made, text, 8) + 0.12) / style.WIDTH


def _with_objects(image: Image.Image, entry: dict[str, Any], classes: Sequence[str], least: float | None) -> np.ndarray:
    keep = np.flatnonzero(entry["scores"] >= (least or 0.0))
    keep = keep[np.argsort(entry["scores"][keep], kind="stable")]
    names = style.readable(classes)
    crowded = len(keep) > 12
    objects = [
        boxes.Shown(
            entry["boxes"][i].tolist(),
            "" if crowded else _text(names[entry["labels"][i]], None if least is None else float(entry["scores"][i])),
            boxes.colour(int(entry["labels"][i])),
            entry["rles"][i] if "rles" in entry else None,
        )
        for i in keep.tolist()
    ]
    drawn = boxes.draw(image, objects)
    drawn.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(drawn)


def _text(name: str, score: float | None) -> str:
    return name if score is None else f"{name} {score:.2f}"
