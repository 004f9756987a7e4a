"""Datasets of tasks that this version does not have: what they are, said by the name of their task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.columns import is_image
from finetune.data.features import MASK_NAMES, is_box, is_flag, is_list_of_classes, is_outline, leaves
from finetune.errors import SchemaError, listing


def refuse(features: Mapping[str, Any], classes: bool = False) -> None:
    """Raise for a dataset of another task.

    Args:
        features: Of the dataset.
        classes: Whether a column of classes is there too, so that it could be meant.

    Raises:
        SchemaError: It is one; the message names the task and the flag that reads it as classification.
    """
    if classes:
        return
    _refuse_objects(features)
    images = [name for name, feature in features.items() if is_image(feature)]
    masks = [name for name in images if any(word in name.lower() for word in MASK_NAMES)]
    if len(images) > 1 and masks:
        raise SchemaError(
            f"this is a segmentation dataset (masks in column {masks[0]!r}); semantic-segmentation is not supported "
            "yet, only image classification. To classify whole images, name --image-column and --target-column"
        )
    for name, feature in features.items():
        if is_list_of_classes(name, feature):
            raise _other(
                "a multi-label dataset",
                "multi-label-classification",
                f"column {name!r} holds several classes per image",
            )
        if isinstance(feature, dict) and len(feature) > 1 and all(is_flag(inner) for inner in feature.values()):
            raise _other(
                "a multi-label dataset",
                "multi-label-classification",
                f"column {name!r} holds yes or no for {len(feature)}",
            )


def _refuse_objects(features: Mapping[str, Any]) -> None:
    """Raise where boxes, or outlines, are what the dataset is about."""
    found = [leaf for name, feature in features.items() for leaf in leaves((name,), feature)]
    boxes = [leaf for leaf in found if is_box(leaf)]
    if not boxes:
        return
    nested = next((leaf for leaf in boxes if len(leaf.path) > 1), boxes[0])
    outlines = [leaf.path[0] for leaf in found if is_outline(leaf)]
    kind, task, what, column = "an object detection", "object-detection", "boxes", nested.path[0]
    if outlines:
        kind, task, what, column = "an instance segmentation", "instance-segmentation", "masks", outlines[0]
    raise SchemaError(
        f"this is {kind} dataset ({what} in column {column!r}); --task {task} reads it, and so does no --task at all. "
        "To classify whole images, name a column of classes by --target-column"
    )


def refuse_flags(features: Mapping[str, Any]) -> None:
    """Raise where several columns of yes or no are the classes.

    Raises:
        SchemaError: They are.
    """
    flags = [name for name, feature in features.items() if is_flag(feature)]
    if len(flags) > 1:
        held = f"{len(flags)} columns of yes or no: {listing(flags, 6)}"
        raise _other("a multi-label dataset", "multi-label-classification", held)


def _other(kind: str, task: str, why: str) -> SchemaError:
    return SchemaError(
        f"this is {kind} ({why}); {task} is not supported yet, only one class per image. To classify whole images, "
        "name a column of classes by --target-column"
    )
