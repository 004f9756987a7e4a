"""Features -> what there is to learn: which column holds the image, which the class, and the classes' names.

Pure functions of the dataset's features and values; nothing here opens a file or the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Image, Value

from finetune.errors import SchemaError, listing, suggest

TargetKind = Literal["class-label", "integer", "boolean", "string"]

TARGET_NAMES = ("label", "labels", "class", "target", "category", "cls")
UNLABELLED = -1


@dataclass(frozen=True)
class DatasetSchema:
    """What a dataset holds.

    Attributes:
        task: Hub's name of the task, for instance `image-classification`.
        image_column: Column of the images.
        target_column: Column of the classes.
        target_kind: How the classes are written there.
        classes: Names, in the order of the class indices; empty until the values have been seen, see `with_values`.
        values: What stands in the column for each class; the class index itself for a ClassLabel.
    """

    task: str
    image_column: str
    target_column: str
    target_kind: TargetKind
    classes: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()

    def with_values(self, columns: Iterable[Sequence[Any]]) -> DatasetSchema:
        """The same schema, with the classes that occur in the target columns of all splits.

        Args:
            columns: The values of the target column of each split.

        Raises:
            SchemaError: Fewer than two classes.
        """
        schema = self
        if self.target_kind != "class-label":
            splits = [{_plain(value) for value in column} for column in columns]
            # A split of nothing but -1 is one without labels, also where -1 is no ClassLabel's.
            seen = {value for split in splits if not split <= {UNLABELLED, None} for value in split}
            values = tuple(sorted(value for value in seen if not _is_missing(value)))
            schema = dataclasses.replace(self, values=values, classes=tuple(str(value) for value in values))
        if len(schema.classes) < 2:
            raise SchemaError(
                f"column {self.target_column!r} has {len(schema.classes)} class"
                f"{'' if len(schema.classes) == 1 else 'es'} ({listing(schema.classes)}); expected at least 2. "
                "Name another column by --target-column"
            )
        return schema

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Class indices of a target column.

        Args:
            column: Values as they stand in the dataset.

        Returns:
            int64 `[len(column)]`; `UNLABELLED` where there is no label (null, NaN, or -1 of a ClassLabel).
        """
        index = {value: i for i, value in enumerate(self.values)}
        return np.array([index.get(_plain(value), UNLABELLED) for value in column], dtype=np.int64)


def _plain(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def infer(
    features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
) -> DatasetSchema:
    """Find out what a dataset holds.

    Args:
        features: Of the dataset.
        image_column: The images' column, where the caller knows it.
        target_column: The classes' column, where the caller knows it.

    Returns:
        A schema whose `classes` are known only if the target is a ClassLabel; else see `DatasetSchema.with_values`.

    Raises:
        SchemaError: No or several candidate columns, or a task that is not supported yet.
    """
    for name, option in ((image_column, "--image-column"), (target_column, "--target-column")):
        if name is not None and name not in features:
            hint = suggest(name, features) or "."
            raise SchemaError(f"{option}: no column {name!r}{hint} Columns: {listing(features)}")
    if image_column is not None and not _may_hold_images(features[image_column]):
        raise SchemaError(
            f"--image-column: column {image_column!r} has type {_type_name(features[image_column])}; expected images, "
            f"encoded images or paths. Columns: {listing(features)}"
        )
    if target_column is None:
        _refuse_other_tasks(features)
    image_column = image_column or _find_image(features)
    target_column = target_column or _find_target(features, image_column)
    kind = _target_kind(features[target_column])
    if kind is None:
        raise _wrong_target(target_column, features[target_column])
    names = tuple(features[target_column].names) if kind == "class-label" else ()
    values = tuple(range(len(names)))
    return DatasetSchema("image-classification", image_column, target_column, kind, names, values)


def _wrong_target(column: str, feature: Any) -> SchemaError:
    pandas = "If missing values made floats of integers, as in pandas, write astype('Int64'). "
    return SchemaError(
        f"column {column!r} has type {_type_name(feature)}; expected one class per image: a ClassLabel, an integer, a "
        f"boolean or a string. {pandas if _is_float(feature) else ''}Name another column by --target-column"
    )


def _is_float(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith("float")


def find_image_column(features: Mapping[str, Any], name: str | None = None) -> str:
    """The column of the images, where no labels are asked for.

    Args:
        features: Of the dataset.
        name: The column, where the caller knows it.

    Raises:
        SchemaError: No or several candidate columns, or one that holds no images.
    """
    if name is None:
        return _find_image(features)
    if name not in features or not _may_hold_images(features[name]):
        hint = suggest(name, features) if name not in features else ""
        raise SchemaError(f"--image-column: no column {name!r} of images{hint or '.'} Columns: {listing(features)}")
    return name


def _is_image(feature: Any) -> bool:
    # Parquet written without the datasets library has images as plain structs.
    return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _may_hold_images(feature: Any) -> bool:
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return not isinstance(feature, ClassLabel)  # lists of pixels do


def _find_image(features: Mapping[str, Any]) -> str:
    found = [name for name, feature in features.items() if _is_image(feature)]
    if len(found) == 1:
        return found[0]
    videos = [name for name, feature in features.items() if type(feature).__name__ == "Video"]
    if not found and videos:
        raise SchemaError(f"this is a dataset of videos (column {videos[0]!r}): save frames of them as images first")
    if not found:
        raise SchemaError(
            f"no image column among {listing(features)}: name the column of encoded images or paths by --image-column"
        )
    raise SchemaError(f"{len(found)} image columns ({', '.join(found)}): pick one by --image-column")


def _find_target(features: Mapping[str, Any], image_column: str) -> str:
    others = {n: f for n, f in features.items() if n != image_column and not n.startswith("__")}
    labels = [name for name, feature in others.items() if isinstance(feature, ClassLabel)]
    plain = [name for name, feature in others.items() if _target_kind(feature) is not None]
    named = [name for name in plain if name.lower() in TARGET_NAMES]
    for candidates in (labels, named, plain):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise SchemaError(
                f"{len(candidates)} columns could hold the classes ({listing(candidates)}): pick one by --target-column"
            )
    fractions = [name for name, feature in others.items() if name.lower() in TARGET_NAMES and _is_float(feature)]
    if fractions:
        raise _wrong_target(fractions[0], others[fractions[0]])
    raise SchemaError(
        f"no column holds classes: columns are {', '.join(f'{n} ({_type_name(f)})' for n, f in features.items())}. In "
        "a folder of images put each class into a folder of its own; else name the column by --target-column"
    )


def _refuse_other_tasks(features: Mapping[str, Any]) -> None:
    if any(isinstance(feature, ClassLabel) for feature in features.values()):
        return
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
        if isinstance(inner, dict) and any("bbox" in key or "box" in key for key in inner):
            raise SchemaError(
                f"this is an object detection dataset (boxes in column {name!r}); only image classification is "
                "supported yet. To classify whole images, name a column of classes by --target-column"
            )
        if inner is not feature and isinstance(inner, ClassLabel):
            raise SchemaError(
                f"this is a multi-label dataset (column {name!r} holds several classes per image); only one class per "
                "image is supported yet. Name another column by --target-column"
            )
    images = [name for name, feature in features.items() if _is_image(feature)]
    masks = [n for n in images if any(word in n.lower() for word in ("mask", "segment", "annotation", "label"))]
    if len(images) > 1 and masks:
        raise SchemaError(
            f"this is a segmentation dataset (masks in column {masks[0]!r}); only image classification is supported "
            "yet. To classify whole images, name --image-column and --target-column"
        )


def _target_kind(feature: Any) -> TargetKind | None:
    if isinstance(feature, ClassLabel):
        return "class-label"
    if not isinstance(feature, Value):
        return None
    if feature.dtype == "bool":
        return "boolean"
    if feature.dtype in ("string", "large_string"):
        return "string"
    return "integer" if feature.dtype.lstrip("u").startswith("int") else None


def _type_name(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__
