"""The scan of masks: each is decoded once, in parallel, its values counted and its size compared with its image's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from finetune.data import images, scan
from finetune.data.beside import pixels
from finetune.settings.limits import MAX_IMAGE_PIXELS

_MOST = 4096  # values of one mask; an instance in another channel makes many, a photograph far more
_VERSION = 1


@dataclass(frozen=True)
class MaskCounts:
    """What stands in one mask.

    Attributes:
        row: In the source's split.
        values: That occur, ascending; colours are packed, see `finetune.data.beside.pixels.of`.
        counts: Pixels of each.
        colours: Whether the values are colours.
        lossy: Whether the mask's format changes values.
        size: Width and height of the mask, in pixels.
        image_size: Those of the image as it is stored.
        turn: What turns the image upright, as `PIL.Image.Transpose` numbers it; None where nothing has to be done.
    """

    row: int
    values: list[int]
    counts: list[int]
    colours: bool
    lossy: bool
    size: tuple[int, int]
    image_size: tuple[int, int]
    turn: int | None = None


def count(
    dataset: Dataset,
    image_column: str,
    mask_column: str,
    rows: Sequence[int] | np.ndarray,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> tuple[list[MaskCounts], list[scan.BadImage]]:
    """Look at every mask once; the answer is cached.

    Args:
        dataset: A split.
        image_column: Its images, of which the header alone is read.
        mask_column: Its masks.
        rows: Which of its rows to look at.
        max_pixels: Larger masks are not decoded.

    Returns:
        The masks by row, and those that do not decode.
    """
    looked_at = np.asarray(rows, dtype=np.int64)
    cache = scan.cache_file(dataset, [image_column, mask_column], looked_at, "masks", _VERSION, max_pixels)
    if (known := _read(cache)) is not None:
        return known
    encoded = dataset.cast_column(image_column, Image(decode=False)).cast_column(mask_column, Image(decode=False))
    encoded = encoded.select_columns([image_column, mask_column])
    gate = scan.Gate()

    def look(chunk: np.ndarray) -> tuple[list[MaskCounts], list[scan.BadImage]]:
        found, bad = [], []
        for row in chunk.tolist():
            values = encoded[row]
            try:
                found.append(_count(row, values[image_column], values[mask_column], max_pixels, gate))
            except Exception as error:  # Pillow's decoders raise whatever they like on broken input
                path = scan.path_of(values[mask_column])
                bad.append(scan.BadImage(row, f"its mask: {images.reason(error)}", path))
        return found, bad

    parts = list(scan.in_parallel(looked_at, look, "counting masks"))
    masks, bad = [mask for part, _ in parts for mask in part], [image for _, part in parts for image in part]
    scan.remember(cache, {"masks": [asdict(mask) for mask in masks], "bad": [asdict(image) for image in bad]})
    return masks, bad


def _read(cache: Path) -> tuple[list[MaskCounts], list[scan.BadImage]] | None:
    """What was found before; None where there is nothing, or nothing whole."""
    try:
        entry = json.loads(cache.read_text(encoding="utf-8"))
        sizes = ("size", "image_size")
        masks = [MaskCounts(**mask | {name: tuple(mask[name]) for name in sizes}) for mask in entry["masks"]]
        return masks, [scan.BadImage(**image) for image in entry["bad"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _count(row: int, image: images.Encoded, mask: images.Encoded, max_pixels: int, gate: scan.Gate) -> MaskCounts:
    with images.opened(image, max_pixels) as header:
        image_size, turn = header.size, images.turn_of(header)
    with images.opened(mask, max_pixels) as opened, gate.of(opened.width * opened.height):
        lossy, size = pixels.is_lossy(opened), opened.size
        values, colours = pixels.of(opened)
        found, numbers = _unique(values)
    if len(found) > _MOST:
        raise images.ImageError(f"{len(found)} different values or colours: a picture, and no map of classes")
    return MaskCounts(row, found.tolist(), numbers.tolist(), colours, lossy, size, image_size, turn)


def _unique(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.dtype.itemsize <= 2 and values.dtype.kind == "u":  # without sorting
        counts = np.bincount(values.ravel())
        found = np.flatnonzero(counts)
        return found, counts[found]
    found, counts = np.unique(values, return_counts=True)
    return found, counts
