"""Encoded images of any kind -> upright 8-bit RGB."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import re
import stat
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from huggingface_hub import constants
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from finetune.data import file_kinds
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.text import unquoted

with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif.HeifImagePlugin")  # HEIC photos of phones, where the plugin is installed

Encoded = dict[str, Any] | str | PILImage.Image | None

MARK = "outside:"
"""How the path of a file begins that is not read, see `finetune.data.outside`."""
VARIABLE = "FINETUNE_IMAGE_ROOTS"
"""Folders, besides the dataset's own, in which rows may name files; as PATH lists them."""
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF", "HEIF"),
    *("TGA", "PCX", "SGI", "ICO", "ICNS", "DDS", "QOI", "PSD", "XBM", "XPM", "IM", "SPIDER", "MSP", "PIXAR", "SUN"),
)
"""Of Pillow's; the frequent ones first."""

_ORIENTATION = 0x0112  # EXIF's tag, and how to turn what it says upright
_UPRIGHT: dict[Any, PILImage.Transpose] = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = (np.arange(65536) * (255 / 65535)).round().astype(np.uint8)
_LONGEST = 4096  # characters of a path, on all systems we know
_BLOCK = 2**20  # pixels that are scaled at once


class ImageError(OSError):
    """There is no image that may be decoded; the message says what there is instead, and what to do."""


def decode(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """Decode one image.

    Args:
        value: What a `datasets.Image(decode=False)` column holds (`bytes`, `path`), or an image.
        max_pixels: An image of more pixels is refused before it is decoded.

    Returns:
        Mode RGB, 8 bits a channel, turned upright by its EXIF orientation; the first frame of an animation. Alpha is
        dropped, as `PIL.Image.convert` does. 16-bit and floating point greys are scaled to 8 bits, where `convert`
        would clip them.

    Raises:
        ValueError: There is no image.
        OSError: It does not decode.
    """
    with opened(value, max_pixels) as image:
        return decoded(image)


def decoded(image: PILImage.Image) -> PILImage.Image:
    """The second half of `decode`: an opened image, upright and RGB."""
    return to_rgb(upright(image))


@contextlib.contextmanager
def opened(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> Iterator[PILImage.Image]:
    """The first half of `decode`: nothing but the header has been read. The file is closed afterwards."""
    allow(max_pixels)
    if value is None:
        raise ValueError("no image")
    if isinstance(value, PILImage.Image):
        yield value
        return
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    try:
        image = _open(value)
    except PILImage.DecompressionBombError as error:
        raise ImageError(_too_large(str(error).partition(")")[0].rpartition("(")[2], max_pixels)) from error
    except UnidentifiedImageError as error:
        kind = file_kinds.describe(_head(value))
        if kind is None:
            raise
        raise ImageError(kind) from error
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} = {image.width * image.height} pixels"
            raise ImageError(_too_large(size, max_pixels))
        yield image


def allow(max_pixels: int) -> None:
    """Raise the limit that Pillow itself has: above it, it warns, and from twice as many pixels on it refuses."""
    if PILImage.MAX_IMAGE_PIXELS is not None and max_pixels > PILImage.MAX_IMAGE_PIXELS:
        PILImage.MAX_IMAGE_PIXELS = max_pixels


def _too_large(size: str, max_pixels: int) -> str:
    return f"{size}, more than the {max_pixels} allowed; to use it raise --max-image-pixels"


def _open(value: dict[str, Any]) -> PILImage.Image:
    path, content = value["path"], value["bytes"]
    if content is not None:
        return PILImage.open(BytesIO(content), formats=formats())
    if path is None:
        raise ValueError("no image")
    if len(path) > _LONGEST:
        raise ImageError(
            f"{len(path)} characters of text, and no path: expected paths, encoded images or base64 of them"
        )
    if path.startswith(MARK):
        raise ImageError(
            f"{path.removeprefix(MARK)} lies outside of the dataset's folder, and is not read; move it there, or name "
            f"its folder in {VARIABLE}"
        )
    if "://" in path:
        _check_address(path)
        return PILImage.open(BytesIO(_fetched(path)), formats=formats())
    check_regular(path)
    return PILImage.open(path, formats=formats())


def check_regular(path: str) -> None:
    """Raise for what is no file: a pipe or a device would be waited for.

    Raises:
        ImageError: It says what there is.
        OSError: There is nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ImageError("a link that leads back to itself") from error
        raise
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        raise ImageError(f"{kinds.get(stat.S_IFMT(mode), 'a device')}, no regular file: it is not opened")


@functools.cache
def formats() -> tuple[str, ...]:
    """What is decoded, of that which this Pillow knows: others start programs, as PostScript does, or are no images."""
    PILImage.init()
    return tuple(name for name in FORMATS if name in PILImage.OPEN)


def _check_address(path: str) -> None:
    """Raise unless an address is one of a file on the Hub, and there may be a network.

    Raises:
        ImageError: It is not, or there may not.
    """
    scheme = path.partition("://")[0].lower()
    if "::" in path or scheme not in ("hf", "http", "https"):
        raise ImageError(f"an address ({scheme}://...) and no image: addresses in rows are not followed")
    if scheme != "hf":
        ours, theirs = urlsplit(constants.ENDPOINT), urlsplit(path)
        if (ours.scheme, ours.netloc) != (theirs.scheme.lower(), theirs.netloc.lower()):
            raise ImageError("a web address and no image: download the images first")
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ImageError("a file on the Hub, which is not asked: HF_HUB_OFFLINE is set")


def _fetched(path: str) -> bytes:
    """A file of the Hub, read by `datasets`, which knows the user's token."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb", download_config=DownloadConfig()) as stream:
        content: bytes = stream.read()
    return content


def _head(value: dict[str, Any]) -> bytes:
    if value["bytes"] is not None:
        return bytes(value["bytes"][: file_kinds.HEAD])
    if "://" in value["path"]:
        return b"?\xff"  # says nothing
    with open(value["path"], "rb") as file:
        return file.read(file_kinds.HEAD)


def upright(image: PILImage.Image) -> PILImage.Image:
    """Decode the pixels and turn them. `ImageOps.exif_transpose` would fail where it cannot write damaged EXIF anew."""
    image.load()
    turn = turn_of(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    for tag in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # they say it were still to be turned
        turned.info.pop(tag, None)
    return turned


def turn_of(image: PILImage.Image) -> PILImage.Transpose | None:
    """What turns an opened image upright, by its EXIF orientation; None where nothing has to be done."""
    return _UPRIGHT.get(orientation(image))


def orientation(image: PILImage.Image) -> int:
    """An opened image's EXIF orientation, 1 to 8; 1 where nothing is said, or nothing that makes sense."""
    if isinstance(image, JpegImageFile) and not {"exif", "xmp"} & image.info.keys():
        return 1  # without building an empty Exif, which takes as long as reading the header
    said = image.getexif().get(_ORIENTATION, 1)
    return said if isinstance(said, int) and 1 <= said <= 8 else 1


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Convert a decoded image of any mode to RGB, see `decode`."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # A dark image of 16 bits is dark, whatever its brightest pixel; the other modes do not say their range.
        return PILImage.fromarray(_SIXTEEN_BITS[np.asarray(image)]).convert("RGB")
    if image.mode.startswith(("I", "F")):
        return PILImage.fromarray(_to_uint8(np.asarray(image))).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about a direct conversion, and gives the same colours
    return image.convert("RGB")


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Greys `[H, W]` -> uint8: 0 to 1 and 16 bits are scaled by their full range, 8 bits stay as they are."""
    blocks = np.array_split(pixels, max(1, pixels.size // _BLOCK))  # float64 of the whole would be 8 times the memory
    top = max(np.nan_to_num(block.astype(np.float64)).max(initial=0) for block in blocks)
    if top <= 1:
        scale = 255.0
    elif top <= 255:
        scale = 1.0
    else:
        scale = 255 / 65535 if top <= 65535 else 255 / top
    scaled = (np.nan_to_num(block.astype(np.float64)) * scale for block in blocks)
    return np.concatenate([block.clip(0, 255).round().astype(np.uint8) for block in scaled])


def reason(error: Exception) -> str:
    """Why an image does not decode, in one line that repeats from run to run."""
    text = unquoted(re.sub(r" <\S+ object at 0x\w+>", "", " ".join(str(error).split())))[:200]
    return text if isinstance(error, ImageError) else f"{type(error).__name__}: {text}"
