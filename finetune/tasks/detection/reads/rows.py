"""All rows of a split, read once before the training: what is wrong is an error, or counted; both name the rows."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from datasets import Dataset, Image

from finetune.data import images
from finetune.errors import SchemaError, listing
from finetune.tasks.detection.reads import frame
from finetune.tasks.detection.reads.annotations import BadRowError, Raw, parse, placed
from finetune.tasks.detection.reads.boxformat import Evidence, to_xyxy
from finetune.tasks.detection.reads.columns import Where
from finetune.tasks.detection.reads.frame import Frame
from finetune.tasks.detection.reads.masks import BadMaskError

_CHUNK = 256  # rows that are in memory at a time
_ROWS = 5  # in a message


def read(split: Dataset, where: Where) -> list[Raw | None]:
    """The objects of each row as they are written; of the images nothing but the headers.

    Args:
        split: The images are encoded, or by their paths.
        where: Where the objects are.

    Raises:
        SchemaError: Rows that make no sense; it names them.
    """
    columns = [name for name in where.columns if name in split.column_names]
    encoded = split.cast_column(where.image, Image(decode=False)).select_columns([where.image, *columns])
    table, name = encoded.with_format("arrow"), str(split.split or "")
    found: list[Raw | None] = []
    wrong: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(split), _CHUNK):
            part = table[start : start + _CHUNK]
            frames = pool.map(opened, part[where.image].to_pylist())
            rows = part.select(columns).to_pylist()
            called = [f"{n} of {name!r}" if name else str(n) for n in range(start, start + len(rows))]
            # Pictures of masks are decoded here: all of COCO's, one after the other, would take an hour.
            for one in pool.map(_parsed, rows, frames, called, repeat(where)):
                if isinstance(one, str):
                    wrong.append(one)
                else:
                    found.append(one)
    if wrong:
        raise SchemaError(
            f"column {where.target!r} has {len(wrong)} rows that cannot be read: {_some(wrong)}. Correct them, or "
            "leave them out (Dataset.filter)"
        )
    return found


def _parsed(row: dict[str, Any], of_image: Frame | None, called: str, where: Where) -> Raw | str | None:
    """The objects of a row, without their outlines; or what is wrong with it."""
    try:
        raw = parse(row, where, of_image, called)
        return raw and raw.light()
    except (BadRowError, BadMaskError) as error:
        return f"row {called}: {error}"


def opened(value: Any) -> Frame | None:
    """The frame of an encoded image; None where it does not open, which the search for such images says."""
    try:
        with images.opened(value) as image:
            return frame.of_image(image)
    except Exception:  # Pillow's readers raise whatever they like on broken input
        return None


def _some(texts: Sequence[str]) -> str:
    shown = "; ".join(texts[:_ROWS])
    return f"{shown}; ..." if len(texts) > _ROWS else shown


def check_numbers(found: Sequence[Raw]) -> None:
    """Whether all coordinates are numbers.

    Raises:
        SchemaError: Some are NaN or infinite.
    """
    wrong = [f"row {raw.name}: box {_box(raw, n)}" for raw in found for n in _rows(~np.isfinite(raw.boxes).all(1), raw)]
    if wrong:
        raise SchemaError(f"{len(wrong)} boxes are not numbers ({_some(wrong)}): correct them, or leave them out")


def _rows(bad: np.ndarray, raw: Raw) -> list[int]:
    return np.flatnonzero(bad).tolist() if raw.frame is not None else []


def _box(raw: Raw, number: int) -> str:
    return "[" + ", ".join(f"{one:g}" for one in raw.boxes[number]) + "]"


def check_sides(found: Sequence[Raw], form: str) -> None:
    """Whether no box ends before it begins.

    Raises:
        SchemaError: Some do.
    """
    wrong = []
    for raw in found:
        corners = to_xyxy(raw.boxes, np.ones(2), form)
        bad = (corners[:, 2:] < corners[:, :2]).any(1)
        wrong += [f"row {raw.name}: {_box(raw, n)}" for n in np.flatnonzero(bad).tolist()]
    if wrong:
        raise SchemaError(
            f"{len(wrong)} boxes have a negative width or height as {form} ({_some(wrong)}): correct them, leave them "
            "out, or say by --box-format what they are"
        )


def check_labels(found: Sequence[Raw], known: Collection[Any], expected: str) -> None:
    """Whether every object has a class that exists.

    Raises:
        SchemaError: Some have not.
    """
    wrong = [f"row {raw.name}: {label!r}" for raw in found for label in raw.labels if label not in known]
    if wrong:
        raise SchemaError(
            f"{len(wrong)} objects have an unknown class ({_some(wrong)}): expected {expected}; correct them, or leave "
            "them out"
        )


def evidence(found: Sequence[Raw]) -> Evidence:
    """What is known of all boxes whose images open."""
    told = [raw for raw in found if raw.frame is not None and len(raw.labels)]
    if not told:
        raise SchemaError("no image with boxes opens: their form cannot be told; say it by --box-format")
    sizes = [np.tile(np.array(raw.frame.size, dtype=np.float64), (len(raw.labels), 1)) for raw in told if raw.frame]
    extents = np.concatenate([raw.extents for raw in told])
    boxes = np.concatenate([raw.boxes for raw in told])
    whole = np.concatenate(sizes)
    if np.isfinite(extents).any() and np.nanmax(extents) <= 1.05:  # polygons in parts of the image, too
        extents = extents * np.concatenate([whole, whole], axis=1)
    return Evidence(boxes, whole, np.concatenate([raw.areas for raw in told]), extents)


def left_out(found: Sequence[Raw], form: str, with_masks: bool) -> Iterator[str]:
    """What of the objects is not learnt, and what of the images is odd, a line each."""
    empty: list[str] = []
    outside: list[str] = []
    cut = crowds = bare = turned = stored = 0
    for raw in found:
        boxes, is_outside, is_empty = placed(raw, form)
        empty += [raw.name] * int(is_empty.sum())
        outside += [raw.name] * int(is_outside.sum())
        whole = to_xyxy(raw.boxes, np.array((raw.frame or Frame(1, 1)).size, dtype=np.float64), form)
        areas = (whole[:, 2:] - whole[:, :2]).prod(1), (boxes[:, 2:] - boxes[:, :2]).prod(1)
        cut += int(((areas[0] > areas[1] + 1.0) & ~is_outside & ~is_empty).sum()) if raw.frame else 0
        crowds += int(raw.crowd.sum())
        bare += int((~raw.masked & ~is_outside & ~is_empty).sum())
        turned += bool(raw.frame and raw.frame.turn is not None and len(raw.labels))
        stored += bool(raw.frame and raw.frame.stored and len(raw.labels))
    if empty:
        yield f"left out: {len(empty)} boxes without an area (rows {listing(dict.fromkeys(empty), _ROWS)})"
    if outside:
        yield f"left out: {len(outside)} boxes outside of their image (rows {listing(dict.fromkeys(outside), _ROWS)})"
    if with_masks and bare:
        yield f"left out: {bare} objects without a mask"
    if cut:
        yield f"{cut} boxes reach beyond their image: they are cut at its edge"
    if crowds:
        yield f"{crowds} crowd regions: not learnt, and ignored in the evaluation"
    if turned:
        frames = f"{stored} of them are declared as they are stored, and their boxes turn with them; " if stored else ""
        yield f"{turned} images are turned upright by their EXIF; {frames}other boxes are taken as of the upright image"
