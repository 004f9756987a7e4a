"""Objects of the images of a folder, whatever files said so, and the columns that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Features, Image, List, Value

from finetune.data.folder import references
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing


@dataclass
class Drawn:
    """One object.

    Attributes:
        box: Four numbers, in the form of `Annotations`.
        label: Name of its class.
        area: In pixels, where the file says it.
        crowd: Whether it stands for many.
        polygons: Flat lists of coordinates.
        rle: Run lengths, `size` and `counts`, as COCO has them.
        number: Its id in the file; in a picture of ids its colour.
        mask: Path of the picture of its mask.
    """

    box: Sequence[float]
    label: str
    area: float | None = None
    crowd: bool = False
    polygons: list[list[float]] = field(default_factory=list)
    rle: Mapping[str, Any] | None = None
    number: int | None = None
    mask: str | None = None


@dataclass
class Annotations:
    """What files say of the images of a folder.

    Attributes:
        kind: For the line that is printed: `COCO JSON`, `YOLO`, ...
        form: Of the boxes: `xywh`, `xyxy` or `cxcywh-normalised`.
        objects: By place of the image in the list of all; a place that is not there has not been annotated.
        names: Classes in their order; empty where they are sorted.
        roles: Split of images, as far as the files say it.
        sizes: Declared width and height.
        pictures: In which the objects of an image are drawn, by their ids.
        used: Paths of the files that were read.
        left: What was left out, for the line that says it.
    """

    kind: str
    form: str
    objects: dict[int, list[Drawn]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    roles: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    pictures: dict[int, File] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def classes(self) -> list[str]:
        """Names of the classes, in their order."""
        seen = {one.label for of_image in self.objects.values() for one in of_image}
        if not self.names:
            return sorted(seen)
        if lost := sorted(seen - set(self.names)):
            raise DatasetError(f"{self.kind}: classes without a name: {listing(lost)}; there are {listing(self.names)}")
        return self.names


def columns(found: Annotations, places: Sequence[int]) -> dict[str, tuple[Any, pa.Array]]:
    """Feature and values of the columns that annotations become, for some images.

    Args:
        found: Of all images.
        places: Of the images, in their order.

    Returns:
        `objects` (null for an image that was not annotated), or `segments_info` where they are drawn, with the pictures
        as `mask`; and `width` and `height` where they are declared.
    """
    classes = found.classes()
    index = {name: number for number, name in enumerate(classes)}
    masked = any(one.polygons or one.rle for of_image in found.objects.values() for one in of_image)
    box = f"bbox_{found.form.replace('-', '_')}"
    feature: dict[str, Any] = {
        box: List(List(Value("float64"))),
        "category": List(ClassLabel(names=classes)),
        "area": List(Value("float64")),
        "iscrowd": List(Value("bool")),
    }
    if masked:
        feature["polygons"] = List(List(List(Value("float64"))))
        feature["rles"] = List({"size": List(Value("int64")), "counts": Value("string"), "runs": List(Value("int64"))})
    if any(one.mask for of_image in found.objects.values() for one in of_image):
        feature["masks"] = List(Image())
    if found.pictures:
        feature["id"] = List(Value("int64"))
    rows = [_row(found.objects.get(place), index, box, masked) for place in places]
    head = "segments_info" if found.pictures else "objects"
    kind = Features({head: feature}).arrow_schema.field(head).type
    made = {head: (feature, pa.array([row and {name: row[name] for name in feature} for row in rows], kind))}
    if found.pictures:
        made["mask"] = Image(), references.some([found.pictures.get(place) for place in places])
    if found.sizes:
        for axis, head in enumerate(("width", "height")):
            values = [found.sizes[place][axis] if place in found.sizes else None for place in places]
            made[head] = (Value("int64"), pa.array(values, pa.int64()))
    return made


def _row(of_image: list[Drawn] | None, index: Mapping[str, int], box: str, masked: bool) -> dict[str, Any] | None:
    if of_image is None:
        return None
    row: dict[str, Any] = {
        box: [list(map(float, one.box)) for one in of_image],
        "category": [index[one.label] for one in of_image],
        "area": [one.area for one in of_image],
        "iscrowd": [one.crowd for one in of_image],
        "id": [one.number for one in of_image],
        "masks": [one.mask and {"bytes": None, "path": one.mask} for one in of_image],
    }
    if masked:
        row["polygons"] = [one.polygons for one in of_image]
        row["rles"] = [None if one.rle is None else _runs(one.rle) for one in of_image]
    return row


def _runs(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Run lengths whose counts are numbers are kept beside those that are text."""
    counts = rle.get("counts")
    listed = isinstance(counts, list)
    return {"size": rle.get("size"), "counts": None if listed else counts, "runs": counts if listed else None}
