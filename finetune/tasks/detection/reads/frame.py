"""An image as it is stored, and upright: in which of both the numbers of its boxes are, and how they turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage

from finetune.data import images

_SWAPS = (
    PILImage.Transpose.TRANSPOSE,
    PILImage.Transpose.TRANSVERSE,
    PILImage.Transpose.ROTATE_90,
    PILImage.Transpose.ROTATE_270,
)


@dataclass(frozen=True)
class Frame:
    """Sizes of an image.

    Attributes:
        width: As it is stored, in pixels.
        height: As it is stored, in pixels.
        turn: What its EXIF says has to be done to it to see it upright; None for nothing.
        stored: Whether boxes and masks are of the image as it is stored, and turn with it.
    """

    width: int
    height: int
    turn: PILImage.Transpose | None = None
    stored: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return (self.height, self.width) if self.turn in _SWAPS else (self.width, self.height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame that boxes and masks are in."""
        return (self.width, self.height) if self.stored else self.upright

    def declared(self, size: tuple[int, int] | None) -> Frame:
        """The same where the dataset says a width and a height: of the stored image, if only that has them."""
        stored = size == (self.width, self.height) != self.upright
        return Frame(self.width, self.height, self.turn, stored)

    def turned(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in the upright image.

        Args:
            boxes: float64 `[n, 4]`, xyxy in pixels of the frame they are in.
        """
        if not self.stored or self.turn is None:
            return boxes
        ends = [_turned(boxes[:, 2 * n : 2 * n + 2], self.turn, self.width, self.height) for n in (0, 1)]
        return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1)

    def turned_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask `[h, w]` of the frame it is in, in the upright image."""
        if not self.stored or self.turn is None:
            return mask
        return np.asarray(PILImage.fromarray(mask).transpose(self.turn))


def of_image(image: PILImage.Image) -> Frame:
    """The frame of an opened image, which may be of any kind and is not decoded."""
    return Frame(image.width, image.height, images.turn_of(image))


def _turned(points: np.ndarray, turn: PILImage.Transpose, width: int, height: int) -> np.ndarray:
    """Points `[n, 2]` where Pillow's transpose of an image brings them."""
    x, y = points[:, 0], points[:, 1]
    kinds = PILImage.Transpose
    ways = {
        kinds.FLIP_LEFT_RIGHT: (width - x, y),
        kinds.FLIP_TOP_BOTTOM: (x, height - y),
        kinds.ROTATE_180: (width - x, height - y),
        kinds.TRANSPOSE: (y, x),
        kinds.TRANSVERSE: (height - y, width - x),
        kinds.ROTATE_90: (y, width - x),
        kinds.ROTATE_270: (height - y, x),
    }
    return np.stack(ways[turn], axis=1)
