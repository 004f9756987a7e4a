"""Which column of a dataset holds the images, whatever there is to learn; pure functions of its features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Image, Value

from finetune.errors import SchemaError, listing, suggest

UNLABELLED = -1
"""Class index of a row without a label."""
TARGET_NAMES = ("label", "labels", "class", "target", "category", "cls")
"""Names of a column that tell that it is the one to learn."""


_MASKS = {"mask", "label", "annotation", "gt", "seg", "segmap", "segment", "segmentation", "semantic", "groundtruth"}


def check_named(features: Mapping[str, Any], image_column: str | None, target_column: str | None) -> None:
    """Whether columns that the caller names exist, and the first of them can hold images.

    Raises:
        SchemaError: They do not, or it cannot.
    """
    for name, option in ((image_column, "--image-column"), (target_column, "--target-column")):
        if name is not None and name not in features:
            hint = suggest(name, features) or "."
            raise SchemaError(f"{option}: no column {name!r}{hint} Columns: {listing(features)}")
    if image_column is not None:
        check_matrices(image_column, features[image_column])
    if image_column is not None and not may_hold_images(features[image_column]):
        raise SchemaError(
            f"--image-column: column {image_column!r} has type {type_name(features[image_column])}; expected images, "
            f"encoded images or paths. Columns: {listing(features)}"
        )


def check_matrices(name: str, feature: Any) -> None:
    """Whether a column of lists of numbers has rows of pixels, from which alone the shape of an image is known.

    Raises:
        SchemaError: It has flat lists, which the library would take for images one pixel high.
    """
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    if isinstance(inner, Value):
        length = getattr(feature, "length", -1)
        size = f" of {length}" if length > 0 else ""
        raise SchemaError(
            f"--image-column: column {name!r} holds flat lists{size} of {inner.dtype}; expected rows of pixels, "
            "H x W or H x W x 3. Reshape them first, for instance "
            "ds.map(lambda row: {'image': np.reshape(row['image'], (28, 28))})"
        )


def find_image_column(features: Mapping[str, Any], name: str | None = None) -> str:
    """The column of the images, where no labels are asked for.

    Args:
        features: Of the dataset.
        name: The column, where the caller knows it.

    Raises:
        SchemaError: No or several candidate columns, or one that holds no images.
    """
    if name is None:
        return the_image(features)
    if name not in features or not may_hold_images(features[name]):
        hint = suggest(name, features) if name not in features else ""
        raise SchemaError(f"--image-column: no column {name!r} of images{hint or '.'} Columns: {listing(features)}")
    return name


def is_image(feature: Any) -> bool:
    """Whether a column is declared to hold images."""
    # Parquet written without the datasets library has images as plain structs.
    return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def may_hold_images(feature: Any) -> bool:
    """Whether a column can hold images, if somebody says so: paths, encoded images, lists of pixels."""
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return not isinstance(feature, ClassLabel)


def the_image(features: Mapping[str, Any]) -> str:
    """The one column of images.

    Raises:
        SchemaError: There is none, or there are several.
    """
    found = [name for name, feature in features.items() if is_image(feature)]
    if len(found) == 1:
        return found[0]
    pictures = [name for name in found if not is_mask_name(name)]
    if len(pictures) == 1:  # the others are what is to be learnt of it
        return pictures[0]
    videos = [name for name, feature in features.items() if type(feature).__name__ == "Video"]
    if not found and videos:
        raise SchemaError(f"this is a dataset of videos (column {videos[0]!r}): save frames of them as images first")
    if not found:
        raise SchemaError(
            f"no image column among {listing(features)}: name the column of encoded images or paths by --image-column"
        )
    raise SchemaError(f"{len(found)} image columns ({', '.join(found)}): pick one by --image-column")


def is_mask_name(name: str) -> bool:
    """Whether a column of images is called as one of masks is: `mask`, `label`, `annotation`, `seg_map`, `gt`.

    Args:
        name: Of the column.
    """
    words = {word.removesuffix("s") for word in re.split(r"[\W_\d]+", name.lower())}
    return bool(words & _MASKS)


def type_name(feature: Any) -> str:
    """A column's type, for messages."""
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__
