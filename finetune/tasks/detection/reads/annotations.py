"""What stands in a row -> its objects: boxes as they are written, classes, areas, outlines; then as they are meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.tasks.detection.reads import masks
from finetune.tasks.detection.reads.boxformat import to_xyxy
from finetune.tasks.detection.reads.columns import Path, Where
from finetune.tasks.detection.reads.frame import Frame

ALONE = "object"
"""Name of the only class, where objects have none of their own."""


class BadRowError(ValueError):
    """What stands in a row makes no sense; the message says what is wrong, without the row."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Objects of an image as they are written.

    Attributes:
        boxes: float64 `[n, 4]`.
        alone: Whether masks alone say where the objects are; boxes are then NaN until they are `light`.
        labels: What stands there as the class of each.
        crowd: bool `[n]`.
        areas: float64 `[n]`; NaN where there is none.
        frame: Of the image; None where it does not open.
        outlines: What outlines each object, as it stands; empty where there are none, and of `light` ones.
        masked: bool `[n]`, whether something outlines it.
        extents: float64 `[n, 4]` of polygons, as they are written; NaN where there are none.
        name: The row, for messages.
        stuff: Classes of segments that are no things, which are none of the objects.
    """

    boxes: np.ndarray
    alone: bool
    labels: tuple[Any, ...]
    crowd: np.ndarray
    areas: np.ndarray
    frame: Frame | None
    outlines: tuple[Any, ...]
    masked: np.ndarray
    extents: np.ndarray
    name: str = ""
    stuff: tuple[Any, ...] = ()

    def light(self) -> Raw:
        """The same without outlines, which for all rows together may not fit into memory; boxes that they say stay."""
        boxes, frame = self.boxes, self.frame
        if frame is not None and self.alone and self.outlines:
            boxes = masks.boxes(masks.rles(self.outlines, frame, False))
            frame = dataclasses.replace(frame, stored=False)
        return dataclasses.replace(self, boxes=boxes, frame=frame, outlines=())


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of an image as they are meant, in the upright image.

    Attributes:
        boxes: float32 `[n, 4]`, xyxy in pixels, within the image.
        labels: int64 `[n]`, class indices.
        crowd: bool `[n]`.
        areas: float32 `[n]`, in pixels.
        rles: Masks as run lengths of pycocotools `{"size": [h, w], "counts": bytes}`; empty where boxes alone are asked
            for.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    rles: tuple[masks.RLE, ...]


NOTHING = Objects(
    np.zeros((0, 4), dtype=np.float32),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=bool),
    np.zeros(0, dtype=np.float32),
    (),
)
"""The objects of an image without any."""


def gather(value: Any, path: Path) -> Any:
    """What a path of names leads to in a row, through lists of structs and structs of lists.

    Args:
        value: A row's, or what is inside.
        path: Names that are left.
    """
    if not path or value is None:
        return value
    if isinstance(value, list):
        return [gather(one, path) for one in value]
    return gather(value.get(path[0]), path[1:])


def per_object(value: Any) -> list[Any]:
    """One value an object: of a struct of lists structs, of nothing nothing."""
    if value is None:
        return []
    if isinstance(value, dict):
        held = {name: inner for name, inner in value.items() if isinstance(inner, list)}
        if not held:
            return [value]
        if _is_one_rle(value):
            return [value]
        count = max(len(inner) for inner in held.values())
        return [{name: inner[n] if n < len(inner) else None for name, inner in held.items()} for n in range(count)]
    return value if isinstance(value, list) else [value]


def _is_one_rle(value: dict[str, Any]) -> bool:
    size = value.get("size")
    return isinstance(size, list) and len(size) == 2 and not isinstance(size[0], list)


def parse(row: Mapping[str, Any], where: Where, frame: Frame | None, name: str = "") -> Raw | None:
    """The objects of a row; None where nothing was said of it.

    Args:
        row: Its columns.
        where: Where the objects are.
        frame: Of its image.
        name: Of the row, for messages.

    Raises:
        BadRowError: Lists of different lengths, boxes of other than four numbers, ...
    """
    head = row.get(where.target)
    if head is None:
        return None
    frame = _declared(row, where, frame)
    row, stuff = _things(row, where)
    boxes = _boxes(row, where)
    outlines = _outlines(row, where)
    outlines = masks.apart(outlines)
    drawn = masks.drawn(row, where) if where.picture else None
    if drawn is not None:
        labels, ids = drawn
        outlines = ids
    else:
        labels = _labels(row, where, len(boxes) if boxes is not None else len(outlines))
    count = len(labels)
    alone = boxes is None
    if boxes is None:
        boxes = np.full((count, 4), np.nan)
    if len(boxes) != count:
        raise BadRowError(f"{len(boxes)} boxes and {count} classes")
    if outlines and len(outlines) != count:
        raise BadRowError(f"{len(outlines)} outlines and {count} {'boxes' if where.boxes else 'classes'}")
    frame = _framed(frame, outlines)
    if frame is not None:
        masks.check(outlines, frame)
    return Raw(
        boxes,
        alone,
        labels,
        np.nan_to_num(_numbers(row, where.crowd, count)) > 0,
        _numbers(row, where.area, count),
        frame,
        tuple(outlines),
        np.array([not masks.is_missing(one) for one in outlines] or [False] * count, dtype=bool),
        masks.extents(outlines) if outlines else np.full((count, 4), np.nan),
        name,
        stuff,
    )


def _things(row: Mapping[str, Any], where: Where) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """The row without segments that are stuff, and the classes of those."""
    if where.things is None:
        return row, ()
    *container, thing = where.things
    segments = per_object(gather(row, tuple(container)))
    things = [one for one in segments if one.get(thing) is None or one[thing]]
    stuff = [one for one in segments if not (one.get(thing) is None or one[thing])]
    if not stuff:
        return row, ()
    inner = where.classes[len(container) :] if where.classes else ()
    return _with(row, tuple(container), things), tuple(gather(stuff, inner)) if inner else (ALONE,) * len(stuff)


def _with(row: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """The same with another value at a path of names."""
    return {**row, path[0]: value if len(path) == 1 else _with(row[path[0]], path[1:], value)}


def _declared(row: Mapping[str, Any], where: Where, frame: Frame | None) -> Frame | None:
    """The frame by the width and height that the row declares."""
    if frame is None or where.size is None:
        return frame
    size = [row.get(name) for name in where.size]
    numbers = [int(one) for one in size if isinstance(one, int | float) and one == one]
    return frame.declared((numbers[0], numbers[1])) if len(numbers) == 2 else frame


def _framed(frame: Frame | None, outlines: Sequence[Any]) -> Frame | None:
    """The frame by the size that run lengths declare."""
    size = next((masks.size_of(one) for one in outlines if masks.size_of(one)), None)
    return frame if frame is None or size is None else frame.declared(size)


def _boxes(row: Mapping[str, Any], where: Where) -> np.ndarray | None:
    if where.boxes is None:
        return None
    found = [gather(row, path) for path in where.boxes.paths]
    if len(found) == 4:
        sides = [per_object(one) for one in found]
        if len({len(side) for side in sides}) > 1:
            raise BadRowError(f"lists of {', '.join(str(len(side)) for side in sides)} numbers for the sides of boxes")
        values: list[Any] = [list(box) for box in zip(*sides, strict=True)]
    else:
        values = per_object(found[0])
        if values and not isinstance(values[0], list | tuple | np.ndarray):
            values = [values]  # one box an image
    for box in values:
        if box is None or len(box) != 4 or any(not isinstance(one, int | float | np.number) for one in box):
            raise BadRowError(f"box {_short(box)}: expected four numbers")
    made: np.ndarray = np.array(values, dtype=np.float64).reshape(-1, 4)
    return made


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:60] + "..."


def _labels(row: Mapping[str, Any], where: Where, count: int) -> tuple[Any, ...]:
    if where.classes is None:
        return (ALONE,) * count
    value = gather(row, where.classes)
    if not isinstance(value, list):  # one class for all objects of an image
        return (value,) * count
    return tuple(one[0] if isinstance(one, list) and len(one) == 1 else one for one in value)


def _outlines(row: Mapping[str, Any], where: Where) -> list[Any]:
    """Of each object the first outline that is there."""
    sources = [per_object(gather(row, path)) for path in where.outlines]
    sources = [source for source in sources if source]
    if not sources:
        return []
    if len({len(source) for source in sources}) > 1:
        raise BadRowError(f"{' and '.join(str(len(source)) for source in sources)} outlines")
    return [next((one for one in found if not masks.is_missing(one)), None) for found in zip(*sources, strict=True)]


def _numbers(row: Mapping[str, Any], path: Path | None, count: int) -> np.ndarray:
    """float64 `[count]`; NaN where nothing stands."""
    value = per_object(gather(row, path)) if path else []
    if len(value) != count:
        return np.full(count, np.nan)
    return np.array([np.nan if one is None else float(one) for one in value], dtype=np.float64)


def placed(raw: Raw, form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes where they belong, and which of them cannot be learnt.

    Args:
        raw: As they are written.
        form: Of the boxes, one of `boxformat.FORMATS`.

    Returns:
        float64 `[n, 4]`, xyxy in pixels of the upright image, clipped to it; bool `[n]`: wholly outside of it; bool
        `[n]`: without an area, as it is written already.
    """
    frame = raw.frame or Frame(2**31, 2**31)
    whole = frame.turned(to_xyxy(raw.boxes, np.array(frame.size, dtype=np.float64), form))
    width, height = frame.upright
    boxes = whole.clip(0, np.array([width, height, width, height], dtype=np.float64))
    empty: Any = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    was_empty: Any = ~(whole[:, 2:] > whole[:, :2]).all(1)
    return boxes, empty & ~was_empty, was_empty


def objects(raw: Raw, form: str, values: Mapping[Any, int], with_masks: bool) -> Objects:
    """The objects of an image as they are meant; those of no use are left out.

    Args:
        raw: As they are written, with their outlines.
        form: Of the boxes, one of `boxformat.FORMATS`.
        values: Class index of what stands as a class.
        with_masks: Whether masks are asked for; objects without one are then left out.
    """
    found: list[masks.RLE] = []
    if raw.frame is not None and with_masks:
        found = masks.rles(raw.outlines, raw.frame, form.endswith("normalised"))
    if raw.alone:
        raw = raw.light()
    boxes, outside, empty = placed(raw, form)
    keep = ~outside & ~empty
    if with_masks:
        keep &= np.array([masks.area(rle) > 0 for rle in found] or [False] * len(keep), dtype=bool)
    kept = np.flatnonzero(keep)
    labels = np.array([values[label] for label in raw.labels], dtype=np.int64)
    areas = _areas(raw.areas, boxes[:, 2:] - boxes[:, :2], found)
    return Objects(
        boxes[kept].astype(np.float32),
        labels[kept],
        raw.crowd[kept],
        areas[kept].astype(np.float32),
        tuple(found[n] for n in kept) if with_masks else (),
    )


def _areas(given: np.ndarray, sides: np.ndarray, rles: Sequence[masks.RLE]) -> np.ndarray:
    """As the dataset has them, else of the mask, else of the box; in parts of the image they are not taken."""
    own = np.array([masks.area(rle) for rle in rles], dtype=np.float64) if rles else sides.prod(1)
    known = np.isfinite(given) & (given > 1)
    return np.where(known, given, own)
