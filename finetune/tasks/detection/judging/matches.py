"""Which of the found objects are true: COCO's matching, kept for each image, so that numbers can be drawn anew from it.

Source: `COCOeval.evaluateImg` of https://github.com/cocodataset/cocoapi, at all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from finetune.tasks.detection.judging.detected import Detected

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which on a found object is true, COCO's ten."""


@dataclass(frozen=True)
class Matches:
    """All found objects of a split, and how many there are to find.

    Attributes:
        image: int64 `[D]`, place of its image in the split.
        label: int64 `[D]`.
        score: float64 `[D]`.
        true: Bool `[D, T]`, at each of `OVERLAPS`.
        ignored: Bool `[D, T]`: within a crowd, neither true nor false.
        wanted: int64 `[N, C]`, objects of each class in each image, without crowds.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def match(detected: Detected, classes: int, masks: bool = False) -> Matches:
    """Match what was found with what is there, image by image and class by class.

    Args:
        detected: Of a split.
        classes: How many.
        masks: By masks and not by boxes.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    wanted = np.zeros((len(detected.sizes), classes), dtype=np.int64)
    for image, (found, truth) in enumerate(detected.pairs()):
        np.add.at(wanted[image], truth["labels"][~truth["crowd"]], 1)
        for label in np.unique(found["labels"]).tolist():
            places = np.flatnonzero(found["labels"] == label)
            order = places[np.argsort(-found["scores"][places], kind="stable")]
            objects = np.flatnonzero(truth["labels"] == label)
            crowd = truth["crowd"][objects]
            true, ignored = _greedy(overlaps(found, order, truth, objects, masks), crowd)
            same = (np.full(len(order), image), np.full(len(order), label))
            parts.append((*same, found["scores"][order].astype(np.float64), true, ignored))
    steps = len(OVERLAPS)
    empty = (np.zeros(0, np.int64),) * 2 + (np.zeros(0),) + (np.zeros((0, steps), bool),) * 2
    image_, label_, score, true, ignored = (np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
    return Matches(image_, label_, score, true, ignored, wanted)


def overlaps(
    found: Mapping[str, Any], places: np.ndarray, truth: Mapping[str, Any], objects: np.ndarray, masks: bool
) -> np.ndarray:
    """float64 `[len(places), len(objects)]`: intersection over union; with a crowd, over what was found."""
    if not len(places) or not len(objects):
        return np.zeros((len(places), len(objects)))
    crowd = truth["crowd"][objects].astype(np.uint8).tolist()
    pair: tuple[Any, Any]
    if masks:
        pair = [found["rles"][i] for i in places], [truth["rles"][i] for i in objects]
    else:
        pair = _xywh(found["boxes"][places]), _xywh(truth["boxes"][objects])
    result: np.ndarray = coco_mask.iou(*pair, crowd)
    return result


def _xywh(boxes: np.ndarray) -> np.ndarray:
    wide = boxes.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1)


def _greedy(shared: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surest first, each takes the object that it overlaps most with among those left.

    Args:
        shared: float `[D, G]`, the surest first.
        crowd: Bool `[G]`: may be taken by many, and only by what finds no other.

    Returns:
        Whether each is true, and whether it is within a crowd: bool `[D, T]`.
    """
    count, steps = len(shared), len(OVERLAPS)
    true, ignored = np.zeros((count, steps), bool), np.zeros((count, steps), bool)
    if not shared.size:
        return true, ignored
    left = np.tile(~crowd, (steps, 1))
    rows = np.arange(steps)
    for i, row in enumerate(shared):
        enough = row[None, :] >= np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
        open_ = np.where(enough & left, row, -1.0)
        # Of equal ones the last, as COCO has it.
        best = open_.shape[1] - 1 - open_[:, ::-1].argmax(1)
        true[i] = open_[rows, best] >= 0
        left[rows[true[i]], best[true[i]]] = False
        ignored[i] = ~true[i] & (enough & crowd).any(1)
    return true, ignored
