"""A mask's file -> a map of class indices, as large and as upright as its image."""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage

from finetune.data.beside import pixels
from finetune.data.beside.meaning import Meaning, turned_size
from finetune.data.beside.pixels import VOID as VOID
from finetune.data.images import Encoded
from finetune.settings.limits import MAX_IMAGE_PIXELS

# As `PIL.Image.Transpose` numbers them: arrays `[H, W]`, turned as Pillow turns images.
_TURNS = {
    PILImage.Transpose.FLIP_LEFT_RIGHT: lambda found: found[:, ::-1],
    PILImage.Transpose.FLIP_TOP_BOTTOM: lambda found: found[::-1],
    PILImage.Transpose.ROTATE_90: lambda found: np.rot90(found, 1),
    PILImage.Transpose.ROTATE_180: lambda found: np.rot90(found, 2),
    PILImage.Transpose.ROTATE_270: lambda found: np.rot90(found, 3),
    PILImage.Transpose.TRANSPOSE: lambda found: found.T,
    PILImage.Transpose.TRANSVERSE: lambda found: found[::-1, ::-1].T,
}


def decode(
    value: Encoded,
    meaning: Meaning,
    size: tuple[int, int],
    turn: PILImage.Transpose | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> np.ndarray:
    """Decode a mask.

    Args:
        value: As `finetune.data.images.decode` takes it.
        meaning: What its values mean.
        size: Width and height of its image, upright, in pixels.
        turn: What turned the image upright; the mask may lie as the image is stored.
        max_pixels: A larger one is refused.

    Returns:
        uint8 `[H, W]`, upright: class indices, and `VOID` where there is no class.

    Raises:
        ValueError: There is no mask, or it has another size than its image.
        OSError: It does not decode.
    """
    found = meaning.of(*pixels.decode(value, max_pixels))
    if turn is not None and _lies_as_stored(found, meaning, size, turn):
        found = _TURNS[turn](found)
    if found.shape != (size[1], size[0]):
        raise ValueError(
            f"the mask is {found.shape[1]} x {found.shape[0]} pixels, and its image {size[0]} x {size[1]}: expected "
            "one size; it had that when the data was checked"
        )
    return np.ascontiguousarray(found)


def _lies_as_stored(found: np.ndarray, meaning: Meaning, size: tuple[int, int], turn: PILImage.Transpose) -> bool:
    stored = turned_size(size, turn)  # the inverse of a turn swaps the sides as well
    if stored == size:
        return meaning.stored
    return (found.shape[1], found.shape[0]) == stored
