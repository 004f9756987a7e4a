"""Encoded images of any kind -> upright 8-bit RGB, and the search for those that do not decode."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image, config
from PIL import Image as PILImage
from tqdm.auto import tqdm

from finetune.console import interactive, is_main_process

_DECODER = Image()
_JPEG = b"\xff\xd8\xff"  # what a file begins with


@dataclass(frozen=True)
class BadImage:
    """An image that does not decode: its row in the source split, and why."""

    row: int
    reason: str


def decode(value: dict[str, Any] | str | PILImage.Image | None) -> PILImage.Image:
    """Decode one image.

    Args:
        value: What a `datasets.Image(decode=False)` column holds (`bytes`, `path`), or an image.

    Returns:
        Mode RGB, 8 bits a channel, turned upright by its EXIF orientation; the first frame of an animation. Alpha is
        dropped, as `PIL.Image.convert` does. 16-bit and floating point greys are scaled to 8 bits, where `convert`
        would clip them.

    Raises:
        ValueError: There is no image.
        OSError: It does not decode.
    """
    if value is None:
        raise ValueError("no image")
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    return to_rgb(_DECODER.decode_example(value))


def open_jpeg(value: dict[str, Any] | str | PILImage.Image | None) -> PILImage.Image:
    """Open a JPEG without decoding it, so that it can be decoded at a fraction of its size; others as `decode` does.

    Args:
        value: As `decode` takes it.

    Returns:
        A JPEG as it is stored, of any mode and orientation; of another format, upright 8-bit RGB.

    Raises:
        ValueError: There is no image.
        OSError: It does not open.
    """
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    if isinstance(value, dict):
        content, path = value["bytes"], value["path"]
        if content is None and path is not None and os.path.isfile(path):
            content = Path(path).read_bytes()
            value = {"path": path, "bytes": content}
        if content is not None and content.startswith(_JPEG):
            return PILImage.open(io.BytesIO(content))
    return decode(value)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Convert a decoded image of any mode to RGB, see `decode`."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        # A dark image of 16 bits is dark, whatever its brightest pixel; the other modes do not say their range.
        top = 65535 if image.mode.startswith("I;16") else None
        return PILImage.fromarray(_to_uint8(np.asarray(image), top)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about a direct conversion, and gives the same colours
    return image.convert("RGB")


def _to_uint8(pixels: np.ndarray, top: float | None = None) -> np.ndarray:
    """Greys up to about `top` -> uint8: 0 to 1 and 16 bits are scaled by their full range, 8 bits stay as they are."""
    pixels = np.nan_to_num(pixels.astype(np.float64))
    top = pixels.max(initial=0) if top is None else top
    if top <= 1:
        scale = 255.0
    elif top <= 255:
        scale = 1.0
    else:
        scale = 255 / 65535 if top <= 65535 else 255 / top
    return (pixels * scale).clip(0, 255).round().astype(np.uint8)


def find_bad(dataset: Dataset, column: str, rows: Sequence[int]) -> list[BadImage]:
    """Decode every image once, in parallel, and report those that fail; the answer is cached.

    Args:
        dataset: A split.
        column: Its images.
        rows: Which of its rows to look at.

    Returns:
        The bad ones, by row.
    """
    cache = _cache_file(dataset, column, rows)
    if cache.is_file():
        return [BadImage(**entry) for entry in json.loads(cache.read_text(encoding="utf-8"))]
    encoded = dataset.cast_column(column, Image(decode=False))
    bad = sorted(_scan(encoded, column, rows), key=lambda image: image.row)
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps([asdict(image) for image in bad]), encoding="utf-8")
    temporary.replace(cache)
    return bad


def _scan(encoded: Dataset, column: str, rows: Sequence[int]) -> Iterator[BadImage]:
    def check(row: int) -> BadImage | None:
        # Rows are read from an Arrow table and Pillow decodes outside the interpreter's lock: threads are enough.
        try:
            decode(encoded[row][column])
        except Exception as error:  # Pillow's decoders raise whatever they like on broken input
            reason = re.sub(r" <\S+ object at 0x\w+>", "", " ".join(str(error).split()))
            return BadImage(row, f"{type(error).__name__}: {reason[:200]}")
        return None

    quiet = not (interactive() and is_main_process())
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        rows = [int(row) for row in rows]
        for bad in tqdm(pool.map(check, rows), total=len(rows), desc="checking images", disable=quiet, leave=False):
            if bad is not None:
                yield bad


def _cache_file(dataset: Dataset, column: str, rows: Sequence[int]) -> Path:
    key = hashlib.sha256(f"{dataset._fingerprint} {column} ".encode())
    key.update(np.asarray(rows, dtype=np.int64).tobytes())
    return Path(config.HF_DATASETS_CACHE) / "finetune-checked-images" / f"{key.hexdigest()[:32]}.json"
