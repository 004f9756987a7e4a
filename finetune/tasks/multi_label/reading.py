"""Which columns of a dataset name several classes an image; pure functions of its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Value

from finetune.data.columns import TARGET_NAMES, check_named, is_image, the_image
from finetune.data.features import (
    Leaf,
    element,
    is_box,
    is_flag,
    is_list_of_classes,
    leaves,
    never_the_target,
)
from finetune.errors import SchemaError, SeveralReadingsError, listing
from finetune.tasks.classification.reading import infer
from finetune.tasks.classification.schema import DatasetSchema
from finetune.tasks.multi_label.schema import MultiLabelSchema

LEAST_COLUMNS = 3
"""Columns of yes or no from which on they are one target together."""
_CLASSES = ("categor", "catagor", "class", "label", "name")
_SCALARS = ("bool", "int", "uint")


def recognise(
    features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
) -> MultiLabelSchema:
    """What a dataset holds, where it names several classes an image.

    Raises:
        SeveralReadingsError: Several columns do.
        SchemaError: None does.
    """
    check_named(features, image_column, None)
    image = image_column or the_image(features)
    if target_column is not None:
        return _named(features, image, target_column)
    others = {name: of for name, of in features.items() if name != image and not _aside(name, of)}
    if boxes := _boxes(image, others):
        return boxes
    plain = _plain(features, image)
    found = [*_lists(image, others, plain), *_flags(image, others, plain)]
    sure = [one for one in found if one.sure] or found
    if len(sure) > 1:
        raise SeveralReadingsError(
            f"{len(sure)} readings of several classes an image ({listing(_flag(one) for one in sure)}): pick one by "
            "--target-column"
        )
    if plain is not None and plain.target_kind == "string" and not (sure and sure[0].sure):
        return _text(plain)
    if sure:
        return sure[0]
    raise SchemaError(
        f"no column names several classes an image among {listing(features)}: expected a list of classes, "
        f"{LEAST_COLUMNS} or more columns of 0 and 1, or text with a delimiter between names; name the column by "
        "--target-column"
    )


def _flag(one: MultiLabelSchema) -> str:
    return one.target_column


def _aside(name: str, feature: Any) -> bool:
    """Whether a column is nobody's target by itself."""
    return name.startswith("__") or is_image(feature) or never_the_target(name)


def _plain(features: Mapping[str, Any], image: str, target: str | None = None) -> DatasetSchema | None:
    """The column that holds one class an image, if there is one."""
    try:
        return infer(features, image, target)
    except SchemaError:
        return None


def _text(plain: DatasetSchema) -> MultiLabelSchema:
    """A column of text, whose values tell whether they name one class or several."""
    target = plain.target_column
    return MultiLabelSchema(
        plain.image_column, target, (target,), "text", sure=plain.sure, plain=plain, task=plain.task
    )


def _lists(image: str, others: Mapping[str, Any], plain: DatasetSchema | None) -> list[MultiLabelSchema]:
    """Lists of classes, and structs of yes or no; a guess beside a ClassLabel, or where no name tells."""
    declared = plain is not None and plain.target_kind == "class-label"
    found = []
    for name, feature in others.items():
        inner, named = element(feature), name.lower() in TARGET_NAMES
        if is_list_of_classes(name, feature) or (named and isinstance(inner, Value)):
            found.append(_list(image, name, inner, isinstance(inner, ClassLabel) or named or not declared))
        elif isinstance(feature, dict) and len(feature) > 1 and all(map(is_flag, feature.values())):
            found.append(_struct(image, name, feature, sure=not declared))
    return found


def _flags(image: str, others: Mapping[str, Any], plain: DatasetSchema | None) -> list[MultiLabelSchema]:
    """Columns of yes or no together: declared as such, or of integers whose values will tell."""
    declared = tuple(name for name, feature in others.items() if is_flag(feature))
    if len(declared) > 1:
        sure = len(declared) >= LEAST_COLUMNS and (plain is None or not plain.sure)
        return [MultiLabelSchema(image, ",".join(declared), declared, "columns", declared, sure=sure)]
    numbers = tuple(name for name, feature in others.items() if _is_integer(feature))
    texts = any(_is_text(feature) or isinstance(feature, ClassLabel) for feature in others.values())
    if len(numbers) < LEAST_COLUMNS:
        return []
    sure = plain is None and not texts and not declared
    return [MultiLabelSchema(image, ",".join(numbers), numbers, "columns", sure=sure)]


def _list(image: str, name: str, inner: Any, sure: bool = True) -> MultiLabelSchema:
    if isinstance(inner, ClassLabel):
        names = tuple(inner.names)
        known = tuple(range(len(names)))
        return MultiLabelSchema(image, name, (name,), "class-labels", names, known, sure=sure)
    floats = isinstance(inner, Value) and inner.dtype.startswith(("float", "double"))
    return MultiLabelSchema(image, name, (name,), "multi-hot" if floats else "classes", sure=sure)


def _struct(image: str, name: str, feature: Mapping[str, Any], sure: bool = True) -> MultiLabelSchema:
    return MultiLabelSchema(image, name, (name,), "struct", tuple(feature), sure=sure)


def _named(features: Mapping[str, Any], image: str, target: str) -> MultiLabelSchema:
    """The reading of what `--target-column` names: a column, or several with commas between.

    Raises:
        SchemaError: It holds one class an image, or none.
    """
    if target not in features:
        columns = tuple(name.strip() for name in target.split(","))
        for name in columns:
            check_named(features, None, name)
        if len(columns) > 1:
            return MultiLabelSchema(image, target, columns, "columns", columns)
    feature = features[target]
    if boxes := _boxes(image, {target: feature} if isinstance(feature, dict) or _is_struct(feature) else {}):
        return boxes
    inner = element(feature)
    if isinstance(inner, ClassLabel | Value):
        return _list(image, target, inner)
    if isinstance(feature, dict) and len(feature) > 1:
        return _struct(image, target, feature)
    plain = _plain(features, image, target)
    if plain is not None and plain.target_kind == "string":
        return _text(plain)
    raise SchemaError(
        f"column {target!r} names one class an image, or none: expected a list of classes, a list, struct or columns "
        "(with commas between) of 0 and 1, or text with a delimiter; name another by --target-column"
    )


def _boxes(image: str, others: Mapping[str, Any]) -> MultiLabelSchema | None:
    """The classes of a detection dataset's boxes: only where the user asks for this task, else a guess."""
    found = [leaf for name, feature in others.items() for leaf in leaves((name,), feature)]
    boxes = [leaf for leaf in found if is_box(leaf)]
    nested = [leaf for leaf in boxes if len(leaf.path) > 1] or boxes
    for box in nested:
        beside = [leaf for leaf in found if leaf.path[:-1] == box.path[:-1] and leaf is not box]
        classes = [leaf for leaf in beside if _names_classes(leaf) and (leaf.lists or len(leaf.path) > 1)]
        if classes:
            return _of_boxes(image, min(classes, key=_worth))
    return None


def _of_boxes(image: str, leaf: Leaf) -> MultiLabelSchema:
    column, path = leaf.path[0], leaf.path[1:]
    names = tuple(getattr(leaf.feature, "names", None) or ())
    known = tuple(range(len(names)))
    return MultiLabelSchema(image, column, (column,), "boxes", names, known, path, sure=False)


def _names_classes(leaf: Leaf) -> bool:
    readable = isinstance(leaf.feature, ClassLabel) or _is_scalar(leaf.feature)
    return readable and any(word in leaf.name for word in _CLASSES)


def _worth(leaf: Leaf) -> tuple[bool, bool]:
    """Declared names before text, and text before numbers."""
    return not isinstance(leaf.feature, ClassLabel), not _is_text(leaf.feature)


def _is_struct(feature: Any) -> bool:
    return isinstance(element(feature), dict)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _is_integer(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def _is_scalar(feature: Any) -> bool:
    """Whether a list of it may name classes; of other numbers only the user says so."""
    return _is_text(feature) or (isinstance(feature, Value) and feature.dtype.startswith(_SCALARS))
