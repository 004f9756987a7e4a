"""Outlines of objects (polygons, run lengths, bitmaps, drawings) -> masks, by COCO's own code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from PIL import Image as PILImage

from finetune.data import images

if TYPE_CHECKING:
    from finetune.tasks.detection.reads.columns import Where
    from finetune.tasks.detection.reads.frame import Frame


class RLE(TypedDict):
    """Run lengths as COCO compresses them (pycocotools, faster-coco-eval); `size` is height and width."""

    size: list[int]
    counts: bytes


class BadMaskError(ValueError):
    """An outline that is none, or not of its image; the message says what is wrong."""


def size_of(outline: Any) -> tuple[int, int] | None:
    """Width and height that run lengths, or a bitmap in memory, declare."""
    if isinstance(outline, dict) and outline.get("size") and not is_missing(outline):
        height, width = outline["size"]
        return int(width), int(height)
    if isinstance(outline, np.ndarray):
        return outline.shape[1], outline.shape[0]
    return None


def is_missing(outline: Any) -> bool:
    """Whether nothing is outlined."""
    if isinstance(outline, dict):
        return all(one is None or (isinstance(one, list | str | bytes) and len(one) == 0) for one in outline.values())
    return outline is None or len(outline) == 0


def polygons(outline: Any) -> list[list[float]]:
    """Polygons as flat lists of coordinates, of any of the forms that they are written in; none of other outlines.

    Args:
        outline: `[x, y, x, y, ...]`, a list of such, `[[x, y], ...]`, or a list of such.
    """
    if not isinstance(outline, list) or not outline:
        return []
    first = outline[0]
    if isinstance(first, int | float):
        found = [outline]
    elif first and isinstance(first[0], list):
        found = [[one for point in part for one in point] for part in outline]
    elif len(outline) >= 3 and all(len(part) == 2 for part in outline):
        found = [[one for point in outline for one in point]]
    else:
        found = outline
    return [[float(one) for one in part] for part in found if len(part) >= 6 and len(part) % 2 == 0]


def extents(outlines: Sequence[Any]) -> np.ndarray:
    """float64 `[n, 4]`, xyxy of polygons as they are written; NaN of other outlines."""
    found = np.full((len(outlines), 4), np.nan)
    for place, outline in enumerate(outlines):
        if parts := polygons(outline):
            points = np.concatenate([np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts])
            found[place] = [*points.min(0), *points.max(0)]
    return found


def check(outlines: Sequence[Any], frame: Frame) -> None:
    """Whether masks are of the size of their image, without decoding them.

    Raises:
        BadMaskError: One is not.
    """
    for outline in outlines:
        if _is_picture(outline) and not is_missing(outline):
            with _opened(outline) as image:
                size: tuple[int, int] | None = image.size
        else:
            size = size_of(outline)
        if size not in (None, frame.size):
            raise _other_size(size or (0, 0), frame.size)


def _other_size(size: tuple[int, int], image: tuple[int, int]) -> BadMaskError:
    return BadMaskError(f"a mask of {size[0]} x {size[1]} pixels, and the image has {image[0]} x {image[1]}")


def rles(outlines: Sequence[Any], frame: Frame, normalised: bool) -> list[RLE]:
    """Masks in the upright image; empty ones where nothing is outlined.

    Args:
        outlines: Of each object.
        frame: Of the image.
        normalised: Whether polygons are in parts of the image.

    Raises:
        BadMaskError: An outline is none, or of another size than the image.
    """
    return [_upright(_rle(outline, frame, normalised), frame) for outline in outlines]


def _upright(rle: RLE, frame: Frame) -> RLE:
    return rle if not frame.stored else encoded(frame.turned_mask(decoded(rle)))


def _rle(outline: Any, frame: Frame, normalised: bool) -> RLE:
    from faster_coco_eval import mask as coco

    width, height = frame.size
    if is_missing(outline):
        return encoded(np.zeros((height, width), dtype=np.uint8))
    if isinstance(outline, np.ndarray) or _is_picture(outline):
        return encoded(_bitmap(outline, (width, height)))
    if isinstance(outline, dict):
        return _of_runs(outline, (width, height))
    parts = polygons(outline)
    if not parts:
        return encoded(np.zeros((height, width), dtype=np.uint8))
    if normalised:
        scale = np.tile([width, height], 1)
        parts = [(np.array(part).reshape(-1, 2) * scale).ravel().tolist() for part in parts]
    merged: RLE = coco.merge(coco.frPyObjects(parts, height, width))
    return merged


def _of_runs(outline: dict[str, Any], size: tuple[int, int]) -> RLE:
    from faster_coco_eval import mask as coco

    counts, declared = outline.get("counts") or outline.get("runs"), size_of(outline)
    if counts is None or declared is None:
        raise BadMaskError(f"run lengths need size and counts, got {sorted(outline)}")
    if declared != size:
        raise _other_size(declared, size)
    width, height = declared
    if isinstance(counts, list):
        if sum(counts) != width * height:
            raise BadMaskError(f"run lengths of {sum(counts)} pixels, the image has {width * height}")
        found: RLE = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return found
    return RLE(size=[height, width], counts=counts if isinstance(counts, bytes) else counts.encode("ascii"))


def _is_picture(outline: Any) -> bool:
    return isinstance(outline, PILImage.Image) or (isinstance(outline, dict) and set(outline) == {"bytes", "path"})


def _bitmap(outline: Any, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[h, w]`, 1 where a picture is not black."""
    values: Any = outline if isinstance(outline, np.ndarray) else pixels(outline)
    if values.ndim == 3:
        values = values[..., :3].any(-1)
    if (values.shape[1], values.shape[0]) != size:
        raise _other_size((values.shape[1], values.shape[0]), size)
    made: np.ndarray = (values > 0).astype(np.uint8)
    return made


def pixels(value: Any, colours: bool = False) -> np.ndarray:
    """The numbers of a picture as they are stored: `[h, w]` or `[h, w, c]`.

    Args:
        value: The picture.
        colours: Whether a palette stands for its colours; else for its indices.

    Raises:
        BadMaskError: It does not open.
    """
    with _opened(value) as image:
        return np.array(image.convert("RGB") if colours and image.mode == "P" else image)


@contextlib.contextmanager
def _opened(value: Any) -> Iterator[PILImage.Image]:
    """A picture that the dataset holds, or whose path may be read."""
    try:
        with images.opened(value) as image:
            yield image
    except FileNotFoundError as error:
        raise BadMaskError(f"the mask {value['path']} is not there") from error
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow's readers raise on broken input
        if isinstance(error, BadMaskError):
            raise
        path = str(value["path"] or "") if isinstance(value, dict) else ""
        if path.startswith(images.MARK):
            raise BadMaskError(str(error)) from error
        named = f" ({path})" if path and path not in str(error) else ""
        raise BadMaskError(f"a mask that cannot be read{named}: {error}") from error


def apart(outlines: list[Any]) -> list[Any]:
    """The same with the objects of one picture told apart, where several name the same one: n is the n-th's value.

    Raises:
        BadMaskError: The picture does not have the value of one of its objects.
    """
    paths = [one["path"] for one in outlines if _is_picture(one) and isinstance(one, dict) and not one["bytes"]]
    shared = {path for path in paths if path is not None and paths.count(path) > 1}
    made = list(outlines)
    for path in shared:
        places = [n for n, one in enumerate(outlines) if isinstance(one, dict) and one.get("path") == path]
        values = pixels(outlines[places[0]])
        plane = values[..., 0] if values.ndim == 3 else values
        if lost := [number + 1 for number in places if not (plane == number + 1).any()]:
            raise BadMaskError(
                f"{len(places)} objects name one mask ({path}), which has no pixel of {lost[:5]}: expected the value n "
                "in the n-th object, or a mask for each"
            )
        for number in places:
            made[number] = plane == number + 1
    return made


def drawn(row: Mapping[str, Any], where: Where) -> tuple[tuple[Any, ...], list[np.ndarray]]:
    """Classes and masks of the objects that a second image of a row shows.

    Args:
        row: Its columns.
        where: How they are drawn.

    Returns:
        The class of each as it stands, and bool `[h, w]` of each.

    Raises:
        BadMaskError: Segments that the image does not have.
    """
    from finetune.tasks.detection.reads.annotations import gather, per_object

    values = pixels(row[where.picture or ""], where.drawn == "panoptic")
    if where.drawn == "classes":
        return _by_class(values, row[where.ids[0]] if where.ids else {})
    labels = tuple(per_object(gather(row, where.classes))) if where.classes else ()
    if where.drawn == "index":
        plane = values[..., 0] if values.ndim == 3 else values
        return labels, [plane == number + 1 for number in range(len(labels))]
    if values.ndim != 3:
        raise BadMaskError("a panoptic picture of one channel: expected ids in three, R + 256 G + 65536 B")
    ids = (
        values[..., 0].astype(np.int64)
        + 256 * values[..., 1].astype(np.int64)
        + 65536 * values[..., 2].astype(np.int64)
    )
    segments = per_object(gather(row, where.ids or ()))
    present = set(np.unique(ids).tolist())
    if lost := [one for one in segments if one not in present]:
        raise BadMaskError(f"segments {lost[:5]} are not in the panoptic picture")
    return labels, [ids == one for one in segments]


def _by_class(values: np.ndarray, numbers: Mapping[str, int]) -> tuple[tuple[Any, ...], list[np.ndarray]]:
    """Objects of a picture whose first channel is the class and second the object; 0 is none of either."""
    if values.ndim != 3:
        raise BadMaskError("a picture of one channel: expected classes in the first, objects in the second")
    names = {number: name for name, number in numbers.items() if number}
    pairs = np.unique(values[..., :2].reshape(-1, 2), axis=0)
    kept = [(int(kind), int(number)) for kind, number in pairs if number and int(kind) in names]
    found = [(values[..., 0] == kind) & (values[..., 1] == number) for kind, number in kept]
    return tuple(names[kind] for kind, _ in kept), found


def encoded(mask: np.ndarray) -> RLE:
    """Run lengths of a mask `[h, w]`."""
    from faster_coco_eval import mask as coco

    made: RLE = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return made


def decoded(rle: RLE) -> np.ndarray:
    """uint8 `[h, w]` of run lengths."""
    from faster_coco_eval import mask as coco

    mask: np.ndarray = coco.decode(rle)
    return mask


def area(rle: RLE) -> int:
    """Pixels of a mask."""
    from faster_coco_eval import mask as coco

    return int(coco.area(rle))


def boxes(found: Sequence[RLE]) -> np.ndarray:
    """float64 `[n, 4]`, xyxy, of masks."""
    from faster_coco_eval import mask as coco

    sides = np.array(coco.toBbox(list(found)), dtype=np.float64).reshape(-1, 4)
    return np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
