"""Random parts of an image that hold boxes of some overlap, all tries at once."""

from __future__ import annotations

import math

import numpy as np
import torch

Part = tuple[int, int, int, int]
"""Top, left, height and width."""

OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
"""Which of them a box must have with the part at least, as IoU, is drawn first; None: the whole image."""
_TRIES = 40
_LONGEST = 2.0  # width over height of a part, and height over width


class OverlapCrop:
    """The crop of SSD (https://arxiv.org/abs/1512.02325), as torchvision's `RandomIoUCrop` draws it.

    torchvision tries one part after the other, each with a dozen operations on tensors of a few boxes, which takes
    longer than decoding the image. Here 40 parts are drawn and judged together, and the first that holds is taken; the
    distribution is the same.

    Args:
        scale: Smallest share of the area that is kept.
    """

    def __init__(self, scale: float) -> None:
        self.shortest = math.sqrt(scale)

    def draw(self, size: tuple[int, int], boxes: np.ndarray) -> Part | None:
        """A part, by torch's generator; None: the whole image.

        Args:
            size: Height and width of the image, in pixels.
            boxes: float `[n, 4]`, n > 0, xyxy in its pixels.
        """
        while True:
            overlap = OVERLAPS[int(torch.randint(len(OVERLAPS), ()))]
            if overlap is None:
                return None
            parts = self._parts(size, torch.rand(_TRIES, 4, dtype=torch.float64).numpy())
            good = np.flatnonzero(_holds(parts, boxes.astype(np.float64), overlap))
            if len(good):
                left, top, right, bottom = parts[good[0]].tolist()
                return top, left, bottom - top, right - left

    def _parts(self, size: tuple[int, int], drawn: np.ndarray) -> np.ndarray:
        """Int64 `[tries, 4]`, xyxy, of four numbers from 0 to 1 each."""
        whole = np.array([size[1], size[0]])
        sides = (whole * (self.shortest + (1 - self.shortest) * drawn[:, :2])).astype(np.int64)
        corners = ((whole - sides) * drawn[:, 2:]).astype(np.int64)
        return np.concatenate([corners, corners + sides], axis=1)


def _holds(parts: np.ndarray, boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Bool `[tries]`: a part is not too long, and a box whose middle is inside overlaps it enough."""
    sides = parts[:, 2:] - parts[:, :2]
    long = (sides.max(1) > _LONGEST * sides.min(1)) | (sides.min(1) < 1)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside: np.ndarray = ((parts[:, None, :2] < middles) & (middles < parts[:, None, 2:])).all(2)
    common = np.minimum(parts[:, None, 2:], boxes[:, 2:]) - np.maximum(parts[:, None, :2], boxes[:, :2])
    shared = common.clip(0).prod(2)
    union = sides.prod(1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared
    with np.errstate(invalid="ignore"):  # a part and a box without an area
        enough = shared / union >= overlap
    held: np.ndarray = (inside & enough).any(1) & ~long
    return held
