"""JPEGs in training: not decoded before a crop is drawn; then no larger than needed, and straight into a tensor."""

from __future__ import annotations

import contextlib
import os
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile
from simplejpeg import decode_jpeg
from torch import Tensor

from finetune.data import images
from finetune.data.images import Encoded
from finetune.settings.limits import MAX_IMAGE_PIXELS

_MAGIC = b"\xff\xd8\xff"  # what a file begins with


def open_jpeg(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """Open a JPEG without decoding it, so that it can be decoded as a crop of it wants; others as `images.decode` does.

    Args:
        value: As `images.decode` takes it.
        max_pixels: A larger image is refused.

    Returns:
        A JPEG as it is stored, of any mode and orientation, with its bytes in memory; of another format, upright 8-bit
        RGB.

    Raises:
        ValueError: There is no image.
        OSError: It does not open.
    """
    value = _in_memory(value)
    return _undecoded(value, max_pixels) or images.decode(value, max_pixels)


def open_stored(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """The same, but an image of another format is as it is stored too: for those who turn more than the image.

    Args:
        value: As `images.decode` takes it.
        max_pixels: A larger image is refused.

    Returns:
        Of any mode and orientation; a JPEG is not decoded, another one is.

    Raises:
        ValueError: There is no image.
        OSError: It does not open.
    """
    value = _in_memory(value)
    if (undecoded := _undecoded(value, max_pixels)) is not None:
        return undecoded
    with images.opened(value, max_pixels) as image:
        image.load()
        return image


def _in_memory(value: Encoded) -> Encoded:
    """A file's bytes, which are read once, beside its path."""
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    if not isinstance(value, dict) or value["bytes"] is not None:
        return value
    path = value["path"]
    if path is None or not os.path.isfile(path):  # a pipe or a device is not read
        return value
    return {"path": path, "bytes": Path(path).read_bytes()}


def _undecoded(value: Encoded, max_pixels: int) -> JpegImageFile | None:
    content = value["bytes"] if isinstance(value, dict) else None
    if content is None or not content.startswith(_MAGIC):
        return None
    images.allow(max_pixels)
    with contextlib.suppress(Exception):  # `images` says what is wrong
        image = PILImage.open(BytesIO(content))
        if isinstance(image, JpegImageFile) and image.width * image.height <= max_pixels:
            return image
    return None


def draft(image: PILImage.Image, *factors: int) -> int:
    """Have an undecoded JPEG decoded at 1/n of its size.

    Args:
        image: Nothing happens unless it is a JPEG that is not decoded yet.
        factors: By which its axes may be reduced.

    Returns:
        n: 8, 4 or 2, not above any of the factors, or 1. Sizes are rounded up.
    """
    n = next((n for n in (8, 4, 2) if n <= min(factors)), 1)
    # Pillow takes the largest n at which the image is at least as large as asked for: this one.
    if n == 1 or image.draft(None, (image.width // n, image.height // n)) is None:
        return 1
    return n


def crop(image: PILImage.Image, box: tuple[int, int, int, int]) -> Tensor:
    """Part of an image.

    Args:
        image: Of any mode, decoded or not.
        box: Its left, top, right and bottom, within the image, in pixels of what `draft` makes of it.

    Returns:
        Uint8 `[1, 3, H, W]`, RGB, channels last in memory.

    Raises:
        OSError: The image does not decode.
    """
    left, top, right, bottom = box
    pixels = _decoded(image)
    if pixels is not None:
        pixels = pixels[top:bottom, left:right]
    else:
        content = images.to_rgb(image).crop(box).tobytes()
        pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(bottom - top, right - left, 3)
    # The batch's axis before the permutation: only with that axis's stride does torch see channels last.
    return pixels[None].permute(0, 3, 1, 2)


def _decoded(image: PILImage.Image) -> Tensor | None:
    """A JPEG by libjpeg-turbo without Pillow, uint8 `[H, W, 3]`; None: it is for Pillow to decode.

    The pixels are Pillow's, to the bit where both have the same libjpeg, without copies between Pillow and torch.
    """
    if not isinstance(image, JpegImageFile) or not isinstance(image.fp, BytesIO) or image.mode not in ("RGB", "L"):
        return None  # another format; decoded already, or not in memory; CMYK, which it converts in its own way
    try:  # at the size to which `draft` has brought it
        pixels = decode_jpeg(image.fp.getbuffer(), min_height=image.height, min_width=image.width)
    except ValueError:  # damaged, or too rare a kind: Pillow decodes it, or says what is wrong
        return None
    return torch.from_numpy(pixels) if pixels.shape[:2] == (image.height, image.width) else None
