"""Datasets of objects, or of several classes an image, where one answer an image was looked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.features import is_box, is_flag, is_outline, leaves
from finetune.errors import SchemaError, listing


def refuse(features: Mapping[str, Any]) -> None:
    """Raise where boxes, or outlines, are what the dataset is about.

    Args:
        features: Of the dataset.

    Raises:
        SchemaError: They are; the message names the task, and the flags that read whole images.
    """
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
        f"this is {kind} dataset ({what} in column {column!r}): give --task {task}, which reads it or says what is in "
        "the way. To learn from whole images, name a column of classes or numbers by --target-column, or take the "
        "classes that an image shows by --task multi-label-classification"
    )


def refuse_flags(features: Mapping[str, Any]) -> None:
    """Raise where several columns of yes or no are the classes together.

    Raises:
        SchemaError: They are.
    """
    flags = [name for name, feature in features.items() if is_flag(feature)]
    if len(flags) > 2:
        raise SchemaError(
            f"this is a multi-label dataset ({len(flags)} columns of yes or no: {listing(flags, 6)}): read it by "
            "--task multi-label-classification; for one class an image name a column of classes by --target-column"
        )
