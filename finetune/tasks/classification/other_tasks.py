"""Datasets that hold something else than one class an image: what they are, said by the name of their task.

Walks the features, whatever they are nested in: `datasets` has boxes as lists of structs, structs of lists, or at the
top level, with strings, numbers and pictures beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Value

from finetune.data.columns import TARGET_NAMES, is_image
from finetune.errors import SchemaError, listing

_NEVER = re.compile(
    r"licen[cs]e|height|width|area|index|idx|(.*[_\-. ])?ids?|(image|img|file|photo|object|sample|patient)ids?|date.*"
    r"|.*[_\-. ]date|timestamp|(.*[_\-. ])?(url|uri|path|md5|hash)|(file|image|img)[_\-. ]?(name|path|file)|file"
    r"|filepath|split|sha\d+|iscrowd",
    re.IGNORECASE,
)
_LISTS = ("categor", "catagor", "class", "label", "name", "tag")
_MASKS = ("mask", "segment", "annotation", "label", "semantic")
_OUTLINES = ("mask", "segment", "polygon", "rle")
_NUMBERS = ("int", "uint", "float", "double")


@dataclass(frozen=True)
class _Leaf:
    """A feature that holds no others.

    Attributes:
        path: Names that lead to it.
        feature: Itself.
        lists: How many lists it lies in.
    """

    path: tuple[str, ...]
    feature: Any
    lists: int

    @property
    def name(self) -> str:
        return self.path[-1].lower()

    @property
    def is_number(self) -> bool:
        return isinstance(self.feature, Value) and self.feature.dtype.startswith(_NUMBERS)


def never_the_target(name: str) -> bool:
    """Whether a column of this name is no class by itself: a licence, a size, an identity, a place, a split.

    Args:
        name: Of the column.
    """
    return _NEVER.fullmatch(name) is not None


def refuse(features: Mapping[str, Any], classes: bool = False) -> None:
    """Raise for a dataset of another task.

    Args:
        features: Of the dataset.
        classes: Whether a column of classes is there too, so that it could be meant.

    Raises:
        SchemaError: It is one; the message names the task and the flag that reads it as classification.
    """
    leaves = [leaf for name, feature in features.items() for leaf in _leaves((name,), feature, 0)]
    boxes = [leaf for leaf in leaves if _is_box(leaf)]
    if boxes:
        nested = next((leaf for leaf in boxes if len(leaf.path) > 1), boxes[0])
        outlines = [leaf.path[0] for leaf in leaves if _is_outline(leaf)]
        if outlines:
            raise _other(
                "an instance segmentation dataset", "instance-segmentation", f"masks in column {outlines[0]!r}"
            )
        raise _other("an object detection dataset", "object-detection", f"boxes in column {nested.path[0]!r}")
    if classes:
        return
    images = [name for name, feature in features.items() if is_image(feature)]
    masks = [name for name in images if any(word in name.lower() for word in _MASKS)]
    if len(images) > 1 and masks:
        raise SchemaError(
            f"this is a segmentation dataset (masks in column {masks[0]!r}); semantic-segmentation is not supported "
            "yet, only image classification. To classify whole images, name --image-column and --target-column"
        )
    for name, feature in features.items():
        if _is_list_of_classes(name, feature):
            raise _other(
                "a multi-label dataset",
                "multi-label-classification",
                f"column {name!r} holds several classes per image",
            )
        if isinstance(feature, dict) and len(feature) > 1 and all(_is_bool(inner) for inner in feature.values()):
            raise _other(
                "a multi-label dataset",
                "multi-label-classification",
                f"column {name!r} holds yes or no for {len(feature)}",
            )


def refuse_flags(features: Mapping[str, Any]) -> None:
    """Raise where several columns of yes or no are the classes.

    Raises:
        SchemaError: They are.
    """
    flags = [name for name, feature in features.items() if _is_bool(feature)]
    if len(flags) > 1:
        held = f"{len(flags)} columns of yes or no: {listing(flags, 6)}"
        raise _other("a multi-label dataset", "multi-label-classification", held)


def _other(kind: str, task: str, why: str) -> SchemaError:
    return SchemaError(
        f"this is {kind} ({why}); {task} is not supported yet, only one class per image. To classify whole images, "
        "name a column of classes by --target-column"
    )


def _leaves(path: tuple[str, ...], feature: Any, lists: int) -> Iterator[_Leaf]:
    if isinstance(feature, dict) and not is_image(feature):
        for name, inner in feature.items():
            yield from _leaves((*path, name), inner, lists)
    elif (inner := _element(feature)) is not None:
        yield from _leaves(path, inner, lists + 1)
    else:
        yield _Leaf(path, feature, lists + len(getattr(feature, "shape", ())))


def _element(feature: Any) -> Any:
    if isinstance(feature, list):
        return feature[0] if feature else None
    return getattr(feature, "feature", None)


def _is_box(leaf: _Leaf) -> bool:
    if "box" not in leaf.name or leaf.name.endswith("_id"):
        return False
    numbers = leaf.is_number or hasattr(leaf.feature, "shape")
    nested = len(leaf.path) > 1 and leaf.lists > 0
    return (numbers and leaf.lists >= 2) or nested


def _is_outline(leaf: _Leaf) -> bool:
    names = ".".join(leaf.path).lower()
    if not any(word in names for word in _OUTLINES):
        return False
    return leaf.lists > 0


def _is_list_of_classes(name: str, feature: Any) -> bool:
    inner = _element(feature)
    if isinstance(inner, ClassLabel):
        return True
    if not isinstance(inner, Value) or inner.dtype.startswith(("float", "double")):
        return False
    return any(word in name.lower() for word in _LISTS) or name.lower() in TARGET_NAMES


def _is_bool(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype == "bool"
