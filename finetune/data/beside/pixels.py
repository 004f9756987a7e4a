"""A mask's file -> the values that stand in it, as they stand there."""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage

from finetune.data.images import Encoded, ImageError, opened
from finetune.settings.limits import MAX_IMAGE_PIXELS

VOID = 255
"""Class index of pixels that are neither learnt nor counted, in uint8 maps of class indices."""

_SCALED = {"L;2": 85, "L;4": 17}  # Pillow stretches greys of few bits to 8, and indices with them
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")


def decode(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[np.ndarray, bool]:
    """Decode a mask.

    Args:
        value: As `finetune.data.images.decode` takes it.
        max_pixels: A larger one is refused.

    Returns:
        What `of` gives.

    Raises:
        ValueError: There is no mask.
        OSError: It does not decode, or holds no classes.
    """
    with opened(value, max_pixels) as image:
        return of(image)


def of(image: PILImage.Image) -> tuple[np.ndarray, bool]:
    """Values of an opened mask, and whether they are colours.

    Of a palette image they are the indices: its colours, which `PIL.Image.convert` would give, are for people to look
    at. An orientation of the mask's own is ignored, as everybody else does.

    Returns:
        Integers `[H, W]`: greys and indices as they are, colours as `R + 256 G + 65536 B`.

    Raises:
        OSError: It holds floats.
    """
    factor = _SCALED.get(_raw_mode(image), 1)
    if image.mode in ("PA", "LA", "La"):
        return np.asarray(image.getchannel(0)), False
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        values = values.astype(np.uint8) if values.dtype == bool else values
        return (values // factor if factor > 1 else values), False
    if image.mode == "F":
        raise ImageError("a mask of floating point numbers: expected a class in each pixel, as an integer")
    channels = np.asarray(image if image.mode == "RGB" else image.convert("RGB")).astype(np.int32)
    return channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16), True


def is_lossy(image: PILImage.Image) -> bool:
    """Whether the format of an opened mask changes values a little, so that they are classes no more."""
    return image.format in _LOSSY


def is_grey(colours: np.ndarray) -> np.ndarray:
    """Bool, of which packed colours all three channels are equal."""
    found: np.ndarray = colours == (colours & 255) * 0x10101
    return found


def channels(colour: int) -> tuple[int, int, int]:
    """Red, green and blue of a packed colour."""
    return colour & 255, colour >> 8 & 255, colour >> 16 & 255


def packed(red: int, green: int, blue: int) -> int:
    """A colour as `of` has it."""
    return red + (green << 8) + (blue << 16)


def _raw_mode(image: PILImage.Image) -> str:
    """How the pixels of a PNG are stored."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments if isinstance(arguments, str) else arguments[0])
