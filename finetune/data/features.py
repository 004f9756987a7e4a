"""What the features of a dataset look like, whatever they are nested in; pure functions.

`datasets` has boxes as lists of structs, structs of lists, or at the top level, with strings, numbers and pictures
beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Value

from finetune.data.columns import TARGET_NAMES, is_image

_NEVER = re.compile(
    r"licen[cs]e|height|width|area|index|idx|(.*[_\-. ])?ids?|(image|img|file|photo|object|sample|patient)ids?|date.*"
    r"|.*[_\-. ]date|timestamp|(.*[_\-. ])?(url|uri|path|md5|hash)|(file|image|img)[_\-. ]?(name|path|file)|file"
    r"|filepath|split|sha\d+|iscrowd",
    re.IGNORECASE,
)
_LISTS = ("categor", "catagor", "class", "label", "name", "tag")
_OUTLINES = ("mask", "segment", "polygon", "rle")
_NUMBERS = ("int", "uint", "float", "double")


@dataclass(frozen=True)
class Leaf:
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
        """The last of the path, in small letters."""
        return self.path[-1].lower()

    @property
    def is_number(self) -> bool:
        """Whether it holds integers or floats."""
        return isinstance(self.feature, Value) and self.feature.dtype.startswith(_NUMBERS)


def never_the_target(name: str) -> bool:
    """Whether a column of this name is no class by itself: a licence, a size, an identity, a place, a split.

    Args:
        name: Of the column.
    """
    return _NEVER.fullmatch(name) is not None


def leaves(path: tuple[str, ...], feature: Any, lists: int = 0) -> Iterator[Leaf]:
    """Those of a column, `path` being its name and `lists` how many lists it lies in."""
    if isinstance(feature, dict) and not is_image(feature):
        for name, inner in feature.items():
            yield from leaves((*path, name), inner, lists)
    elif (inner := element(feature)) is not None:
        yield from leaves(path, inner, lists + 1)
    else:
        yield Leaf(path, feature, lists + len(getattr(feature, "shape", ())))


def element(feature: Any) -> Any:
    """What a list holds; None of anything else."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return getattr(feature, "feature", None)


def is_box(leaf: Leaf) -> bool:
    """Whether it holds boxes, by its name and its form."""
    if "box" not in leaf.name or leaf.name.endswith("_id"):
        return False
    numbers = leaf.is_number or hasattr(leaf.feature, "shape")
    nested = len(leaf.path) > 1 and leaf.lists > 0
    return (numbers and leaf.lists >= 2) or nested


def is_outline(leaf: Leaf) -> bool:
    """Whether it holds polygons, bitmaps or run lengths."""
    names = ".".join(leaf.path).lower()
    if not any(word in names for word in _OUTLINES):
        return False
    return leaf.lists > 0


def is_list_of_classes(name: str, feature: Any) -> bool:
    """Whether a column holds several classes an image."""
    inner = element(feature)
    if isinstance(inner, ClassLabel):
        return True
    if not isinstance(inner, Value) or inner.dtype.startswith(("float", "double")):
        return False
    return any(word in name.lower() for word in _LISTS) or name.lower() in TARGET_NAMES


def is_flag(feature: Any) -> bool:
    """Whether a column is declared to hold yes or no."""
    return isinstance(feature, Value) and feature.dtype == "bool"
