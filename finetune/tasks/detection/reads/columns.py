"""The features of a dataset -> where in a row its objects are: boxes, classes, areas, outlines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import ClassLabel, Value

from finetune.data.columns import is_image, the_image
from finetune.data.features import Leaf, leaves, never_the_target
from finetune.tasks.detection.reads import second
from finetune.tasks.detection.reads.second import Picture

Path = tuple[str, ...]
ClassKind = Literal["class-label", "string", "integer", "none"]

_CLASS = re.compile(r"(.*_)?(categor|catagor|class|label|name|species|kind|type)", re.IGNORECASE)
_CLASS_ID = re.compile(r"(categor|catagor|class|label|cls).*ids?", re.IGNORECASE)
_NO_CLASS = re.compile(r"super.*|.*(score|conf|prob|quality).*|file.*|.*path|image.*", re.IGNORECASE)
_OUTLINE = re.compile(r".*(mask|segment|polygon|rle)", re.IGNORECASE)
_AREA = ("area", "areas")
_CROWD = ("iscrowd", "iscrowds", "is_crowd", "crowd", "crowds")
_PER_OBJECT = re.compile(
    r".*(box|area|crowd|segment|polygon|mask|rle|categor|catagor|class|label|name)|(.*_)?ids?", re.IGNORECASE
)
_CORNERS: dict[tuple[str, str, str, str], str] = {
    ("x", "y", "w", "h"): "xywh",
    ("x", "y", "width", "height"): "xywh",
    ("left", "top", "width", "height"): "xywh",
    ("xmin", "ymin", "width", "height"): "xywh",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("x0", "y0", "x1", "y1"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("xcenter", "ycenter", "width", "height"): "cxcywh",
    ("xcenter", "ycenter", "w", "h"): "cxcywh",
}


@dataclass(frozen=True)
class Boxes:
    """Where boxes are.

    Attributes:
        paths: Names that lead from the row to them, through lists: one path to four numbers, or four to one each.
        container: What their siblings lie in; empty at the top level.
        form: What the names of the numbers say: `xywh`, `xyxy` or `cxcywh`; empty where they say nothing.
    """

    paths: tuple[Path, ...]
    container: Path
    form: str = ""


@dataclass(frozen=True)
class Where:
    """Where a row has its objects; each path leads, through lists, to one value an object.

    Attributes:
        image: Column of the images.
        target: Column that stands for the reading: that of the boxes, or of the masks.
        boxes: None where masks alone say where objects are.
        classes: None where objects have no class of their own.
        kind: How the classes are written.
        names: Of a ClassLabel.
        area: Of each object.
        crowd: Whether an object stands for many.
        outlines: Polygons, run lengths or bitmaps, the first that an object has counts.
        picture: Column of a second image in which the objects are drawn.
        drawn: How: `panoptic`, by ids R + 256 G + 65536 B; `classes`, R is the class and G the object; `index`, the
            n-th object has the value n.
        ids: Of each object in a panoptic picture; or the column of classes' ids, by name.
        things: Whether each is a thing, or stuff, which is no object.
        size: Columns of the declared width and height.
        explains: Columns that are part of the reading.
    """

    image: str
    target: str
    boxes: Boxes | None
    classes: Path | None
    kind: ClassKind
    names: tuple[str, ...] = ()
    area: Path | None = None
    crowd: Path | None = None
    outlines: tuple[Path, ...] = ()
    picture: str | None = None
    drawn: Picture | None = None
    ids: Path | None = None
    size: tuple[str, str] | None = None
    explains: tuple[str, ...] = ()
    things: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the dataset, that have to be read beside the image."""
        paths = [*(self.boxes.paths if self.boxes else ()), self.classes, self.area, self.crowd, *self.outlines]
        heads = [path[0] for path in (*paths, self.ids, self.things) if path]
        return tuple(dict.fromkeys([*heads, *([self.picture] if self.picture else []), *(self.size or ())]))


def find(features: Mapping[str, Any], image: str | None = None, target: str | None = None) -> list[Where]:
    """All places in which a dataset has objects; the most telling first.

    Args:
        features: Of the dataset.
        image: Column of the images, where the caller knows it.
        target: Column of the boxes, or of the masks, where the caller knows it.

    Raises:
        SchemaError: Several columns could hold the images.
    """
    names = [name for name in features if not name.startswith("__")]
    found = [leaf for name in names if name != image for leaf in leaves((name,), features[name])]
    boxes = [one for one in _boxes(found) if target in (None, one.paths[0][0])]
    drawn = second.column(features, image)
    readings = [_around(one, features, found, image, drawn) for one in boxes]
    if not boxes and (reading := _masks_alone(features, found, image, drawn)):
        readings = [reading] if target in (None, reading.target) else []
    return sorted(readings, key=_telling)


def _telling(one: Where) -> tuple[bool, bool, bool]:
    """Names of classes come before their ids, classes before none, nested boxes before those of the top level."""
    return one.kind == "none", one.kind == "integer", one.boxes is not None and not one.boxes.container


def _boxes(found: Sequence[Leaf]) -> Iterator[Boxes]:
    """Four numbers in one list, or each under a name of its own."""
    for leaf in found:
        numbers = leaf.is_number or hasattr(leaf.feature, "shape")
        if "box" in leaf.name and not leaf.name.endswith(("_id", "_ids")) and numbers and leaf.lists >= 1:
            yield Boxes((leaf.path,), leaf.path[:-1], _said(leaf.name))
    parents: dict[Path, list[Leaf]] = {}
    for leaf in found:
        if leaf.is_number:
            parents.setdefault(leaf.path[:-1], []).append(leaf)
    for parent, inner in parents.items():
        plain = {re.sub(r"[\W_]", "", leaf.name): leaf for leaf in inner}
        heads = next((heads for heads in _CORNERS if all(head in plain for head in heads)), None)
        if heads is None or not all(plain[head].lists for head in heads):
            continue
        container = parent[:-1] if parent and "box" in parent[-1].lower() else parent
        yield Boxes(tuple(plain[head].path for head in heads), container, _CORNERS[heads])


def _said(name: str) -> str:
    """The form that a column's name says: `bbox_xywh`, `boxes_xyxy`, `bbox_cxcywh_normalised`."""
    form = next((form for form in ("cxcywh", "xyxy", "xywh") if form in name), "")
    if form and re.search("norm|rel", name):
        form += "-normalised"
    return form


def _around(
    boxes: Boxes, features: Mapping[str, Any], found: Sequence[Leaf], image: str | None, drawn: str | None
) -> Where:
    """What else there is of the objects whose boxes are known."""
    own = {path for path in boxes.paths}
    siblings = [leaf for leaf in found if _beside(leaf, boxes.container) and leaf.path not in own]
    top = [leaf for leaf in found if len(leaf.path) == 1 and leaf.lists == 1]
    classes = _classes(siblings, boxes.container) or (_classes(top, ()) if boxes.container else None)
    outlines = _outlines(siblings, boxes.container) or (_outlines(found, ()) if boxes.container else ())
    ids = second.ids(siblings)
    picture, how = (None, None) if outlines else second.how(boxes.container, drawn, ids)
    head = boxes.paths[0][0]
    column = image or _image(features, picture)
    listed = {
        leaf.path[0] for leaf in found if (leaf.lists and _PER_OBJECT.fullmatch(leaf.path[0])) or leaf.path in own
    }
    used = {head, *(path[0] for path in (classes.path if classes else None, *outlines) if path)}
    explains = tuple(name for name in features if name in listed | used | ({picture} if picture else set()))
    return Where(
        column,
        head,
        boxes,
        classes.path if classes else None,
        _kind(classes),
        tuple(getattr(classes.feature, "names", ())) if classes else (),
        _named(siblings, _AREA),
        _named(siblings, _CROWD),
        outlines,
        picture,
        how,
        ids if how == "panoptic" else None,
        _size(features),
        explains,
        second.things(siblings, boxes.container),
    )


def _masks_alone(
    features: Mapping[str, Any], found: Sequence[Leaf], image: str | None, drawn: str | None
) -> Where | None:
    """Objects that are drawn, or outlined, without boxes."""
    table = next((name for name, feature in features.items() if drawn and second.is_table_of_ids(name, feature)), None)
    if table is not None:
        column = image or _image(features, drawn)
        return Where(
            column, drawn or "", None, None, "string", picture=drawn, drawn="classes", ids=(table,),
            size=_size(features), explains=(drawn or "", table),
        )  # fmt: skip
    if drawn is not None and (container := second.segments(found)) is not None:
        return _segments(features, found, image, drawn, container)
    outlines = [leaf for leaf in found if _OUTLINE.match(leaf.path[-1]) or _OUTLINE.match(leaf.path[0])]
    for leaf in outlines:
        container = next((leaf.path[:n] for n, name in enumerate(leaf.path) if _OUTLINE.match(name)), leaf.path[:-1])
        if leaf.lists == 0 or (never_the_target(leaf.name) and not is_image(leaf.feature)) or _is_semantic(leaf):
            continue
        siblings = [other for other in found if _beside(other, container)]
        classes, paths = _classes(siblings, container), _outlines(siblings, container)
        if classes is None or not paths:
            continue
        head = paths[0][0]
        explains = tuple(dict.fromkeys([head, classes.path[0]]))
        return Where(
            image or _image(features, None), head, None, classes.path, _kind(classes),
            tuple(getattr(classes.feature, "names", ())), _named(siblings, _AREA), _named(siblings, _CROWD), paths,
            size=_size(features), explains=explains,
        )  # fmt: skip
    return None


def _segments(
    features: Mapping[str, Any], found: Sequence[Leaf], image: str | None, drawn: str, container: Path
) -> Where:
    """Segments of a panoptic picture, whose boxes are those of their masks."""
    siblings = [leaf for leaf in found if _beside(leaf, container)]
    classes = _classes(siblings, container)
    return Where(
        image or _image(features, drawn), container[0], None, classes.path if classes else None, _kind(classes),
        tuple(getattr(classes.feature, "names", ())) if classes else (), _named(siblings, _AREA),
        _named(siblings, _CROWD), (), drawn, "panoptic", second.ids(siblings), _size(features),
        (container[0], drawn), second.things(siblings, container),
    )  # fmt: skip


def _is_semantic(leaf: Leaf) -> bool:
    """Whether a leaf is one picture of numbers an image, and not something an object."""
    return leaf.is_number and leaf.lists == 2 and len(leaf.path) == 1 and "polygon" not in leaf.name


def _beside(leaf: Leaf, container: Path) -> bool:
    return len(leaf.path) > len(container) and leaf.path[: len(container)] == container


def _classes(siblings: Sequence[Leaf], container: Path) -> Leaf | None:
    """The leaf that says the class of each object: a ClassLabel, else names, else ids."""
    depth = len(container)
    able = [leaf for leaf in siblings if leaf.lists <= 1 + bool(depth) and _is_class(leaf, depth)]
    if not depth:  # beside boxes at the top level: a class an object, else one for all of an image
        able = [leaf for leaf in able if leaf.lists] or [leaf for leaf in able if not never_the_target(leaf.name)]

    def rank(leaf: Leaf) -> tuple[int, int, int]:
        kind = {"class-label": 0, "string": 1, "integer": 2}[_kind(leaf)]
        order = next((n for n, word in enumerate(("categ", "catag", "class", "label")) if word in leaf.name), 9)
        return kind, len(leaf.path), order

    return min(able, key=rank, default=None)


def _is_class(leaf: Leaf, depth: int) -> bool:
    if len(leaf.path) > depth + 2 or _kind(leaf) == "none":
        return False
    name = ".".join(leaf.path[depth:])
    if any(_NO_CLASS.fullmatch(part) or _OUTLINE.match(part) for part in leaf.path[depth:]):
        return False
    last = leaf.path[-1]
    if never_the_target(last) and not _CLASS_ID.fullmatch(last) and not _CLASS.match(leaf.path[-2 if depth else 0]):
        return False
    return any(_CLASS.match(part) for part in leaf.path[depth:]) and "box" not in name.lower()


def _kind(leaf: Leaf | None) -> ClassKind:
    if leaf is None:
        return "none"
    if isinstance(leaf.feature, ClassLabel):
        return "class-label"
    if not isinstance(leaf.feature, Value):
        return "none"
    if leaf.feature.dtype in ("string", "large_string"):
        return "string"
    return "integer" if leaf.feature.dtype.lstrip("u").startswith("int") else "none"


def _outlines(siblings: Sequence[Leaf], container: Path) -> tuple[Path, ...]:
    """Polygons, run lengths, bitmaps beside boxes."""
    depth, paths = len(container), []
    for leaf in siblings:
        names = leaf.path[depth:]
        place = next((n for n, name in enumerate(names) if _OUTLINE.match(name)), None)
        if place is None or leaf.lists == 0 or "box" in leaf.name:
            continue
        held = is_image(leaf.feature) or leaf.name in ("counts", "size")
        if never_the_target(names[-1]) and not is_image(leaf.feature):
            continue
        if held or (leaf.is_number and leaf.lists >= 2):
            paths.append(leaf.path[: depth + place + 1])
    return tuple(dict.fromkeys(paths))


def _named(siblings: Sequence[Leaf], names: Sequence[str]) -> Path | None:
    return next((leaf.path for leaf in siblings if leaf.name in names and leaf.lists), None)


def _size(features: Mapping[str, Any]) -> tuple[str, str] | None:
    for width, height in (("width", "height"), ("image_width", "image_height"), ("img_width", "img_height")):
        if all(isinstance(features.get(name), Value) for name in (width, height)):
            return width, height
    return None


def _image(features: Mapping[str, Any], drawn: str | None) -> str:
    """The one column of photographs; what is called as a mask is none."""
    images = [name for name, feature in features.items() if is_image(feature)]
    plain = [name for name in images if name != drawn and not second.is_drawing(name)]
    return plain[0] if len(plain) == 1 else the_image({name: f for name, f in features.items() if name != drawn})
