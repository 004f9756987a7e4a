"""Anchors that fit the objects of a dataset, and how many of these they reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from finetune.tasks.detection.networks.layout import ONE_STAGE, Layout

SMALL = 8
"""Pixels, side of an object that the finest map sees as two by two points."""
REACHED = 0.5
"""Overlap at which an anchor counts as fit for an object."""
_LEVELS = 5


def default_sizes(detector: str) -> tuple[tuple[float, ...], ...]:
    """torchvision's: eight strides a level, of RetinaNet three an octave; of FCOS, which has none, its strides."""
    if detector == "fcos":
        return tuple((float(8 * 2**level),) for level in range(_LEVELS))
    return _sizes(32.0, detector)


def default_ratios(detector: str) -> tuple[float, ...]:
    """Torchvision's."""
    return (1.0,) if detector == "fcos" else (0.5, 1.0, 2.0)


def _sizes(base: float, detector: str) -> tuple[tuple[float, ...], ...]:
    octave = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)) if detector in ONE_STAGE else (1.0,)
    return tuple(tuple(round(base * 2**level * step, 2) for step in octave) for level in range(_LEVELS))


def fitted(layout: Layout, sides: np.ndarray) -> Layout:
    """The layout with the anchors that overlap best with the objects of a dataset.

    Sizes stay an octave apart from level to level. Their base is the one of a list under which the mean over objects of
    the best overlap, of shapes about one centre, is largest; the ratios are torchvision's or the dataset's own middle
    ones, whichever is better by more than a hundredth.

    Args:
        layout: Of a detector.
        sides: float `[n, 2]`, widths and heights of objects in pixels of the image that the detector looks at.
    """
    if layout.detector == "fcos" or not len(sides):
        return layout
    bases = [round(32 * 2 ** (-step / 2), 2) for step in range(7)]  # 32 down to 4
    own = tuple(np.round(np.exp(np.quantile(np.log(sides[:, 1] / sides[:, 0]), [1 / 6, 1 / 2, 5 / 6])), 2).tolist())
    best, score = layout, -1.0
    for ratios in (layout.aspect_ratios, own):
        for base in bases:
            tried = dataclasses.replace(
                layout, anchor_sizes=_sizes(base, layout.detector), aspect_ratios=tuple(float(r) for r in ratios)
            )
            found = float(shape_overlap(tried, sides).mean()) - (0.01 if ratios is own else 0.0)
            if found > score + 1e-6:
                best, score = tried, found
    return best


def shape_overlap(layout: Layout, sides: np.ndarray) -> np.ndarray:
    """Float `[n]`: overlap of each object with the anchor that is most like it, about one centre."""
    sizes = np.array([size for level in layout.anchor_sizes for size in level])
    ratios = np.sqrt(np.array(layout.aspect_ratios))
    widths, heights = (sizes[:, None] / ratios).ravel(), (sizes[:, None] * ratios).ravel()
    common = np.minimum(sides[:, :1], widths) * np.minimum(sides[:, 1:], heights)
    best: np.ndarray = (common / (sides.prod(1, keepdims=True) + widths * heights - common)).max(1)
    return best


def install(model: nn.Module, layout: Layout) -> None:
    """Give a detector a layout's anchors; they have no weights, and their number stays.

    Args:
        model: Of `build`.
        layout: Its own, with other anchors.
    """
    generator = AnchorGenerator(layout.anchor_sizes, (layout.aspect_ratios,) * len(layout.anchor_sizes))
    described: Any = model
    (described if layout.one_stage else described.rpn).anchor_generator = generator
    described.layout = layout


def reached(layout: Layout, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> float:
    """Share of the objects that some anchor overlaps with by `REACHED`, where anchors really lie.

    Args:
        layout: With the anchors.
        boxes: For each image float32 `[n, 4]` xyxy in pixels of the image that the detector looks at.
        sizes: Height and width of these images.
    """
    generator = AnchorGenerator(layout.anchor_sizes, (layout.aspect_ratios,) * len(layout.anchor_sizes))
    first = 8 if layout.one_stage else 4
    hits = total = 0
    for of_image, (height, width) in zip(boxes, sizes, strict=True):
        if not len(of_image):
            continue
        padded = [-(-side // 32) * 32 for side in (height, width)]
        pixels = torch.zeros(1, 1, *padded)
        maps = [
            torch.zeros(1, 1, *(-(-side // (first * 2**level)) for side in padded))
            for level in range(len(layout.anchor_sizes))
        ]
        (laid,) = generator(ImageList(pixels, [(height, width)]), maps)
        hits += int((box_iou(of_image, laid).amax(1) >= REACHED).sum())
        total += len(of_image)
    return hits / total if total else float("nan")
