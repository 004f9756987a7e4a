"""A second image of a row in which its objects are drawn: which column it is, and how they are drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from datasets import Value

from finetune.data.columns import is_image
from finetune.data.features import Leaf

Picture = Literal["panoptic", "classes", "index"]

_MASK_NAMES = ("mask", "segment", "annotation", "label", "semantic")
_IDS = ("id", "ids", "segment_id")
_THING = ("isthing", "is_thing", "thing")


def is_drawing(name: str) -> bool:
    """Whether a column of images is called as one of masks is, or of instances."""
    return any(word in name.lower() for word in (*_MASK_NAMES, "instance", "panoptic"))


def column(features: Mapping[str, Any], image: str | None) -> str | None:
    """A column of images in which objects are drawn: the only one beside the photographs, or that is called so."""
    others = [name for name, feature in features.items() if is_image(feature) and name != image and is_drawing(name)]
    images = [name for name, feature in features.items() if is_image(feature)]
    named = [name for name in others if "panoptic" in name.lower()]
    found = named if len(named) == 1 else others
    return found[0] if len(found) == 1 and len(images) > 1 else None


def how(container: Sequence[str], drawn: str | None, ids: Any) -> tuple[str | None, Picture | None]:
    """How the objects of a list are drawn in a second image, as far as names say that they are.

    Args:
        container: What the objects lie in; empty at the top level.
        drawn: Column of the image.
        ids: Where the id of each object is.
    """
    if drawn is None:
        return None, None
    if ids is not None and container and "segment" in container[-1].lower():
        return drawn, "panoptic"
    return (drawn, "index") if "instance" in drawn.lower() else (None, None)


def ids(siblings: Sequence[Leaf]) -> tuple[str, ...] | None:
    """Where the id of each object is."""
    return next((leaf.path for leaf in siblings if leaf.name in _IDS), None)


def things(siblings: Sequence[Leaf], container: Sequence[str]) -> tuple[str, ...] | None:
    """Where it is said whether a segment is a thing, or stuff, which is no object."""
    known = (leaf for leaf in siblings if leaf.name in _THING and isinstance(leaf.feature, Value))
    return next((leaf.path for leaf in known if leaf.path[:-1] == tuple(container)), None)


def segments(found: Sequence[Leaf]) -> tuple[str, ...] | None:
    """What segments lie in that have ids, and whose boxes nobody says."""
    heads = (leaf.path[:-1] for leaf in found if leaf.name in _IDS and leaf.lists and len(leaf.path) > 1)
    return next((path for path in heads if "segment" in path[-1].lower()), None)


def is_table_of_ids(name: str, feature: Any) -> bool:
    """Whether a column says the id of each class by its name, as `semantic_class_to_id` does."""
    if not re.search(r"class.*id|label.*id", name, re.IGNORECASE) or not isinstance(feature, dict):
        return False
    return bool(feature) and all(isinstance(inner, Value) and "int" in inner.dtype for inner in feature.values())
