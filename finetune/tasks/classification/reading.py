"""Which columns of a dataset hold images and one class an image; pure functions of its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Value

from finetune.data.columns import TARGET_NAMES, check_named, is_image, the_image, type_name
from finetune.data.features import element, never_the_target
from finetune.errors import SchemaError, SeveralReadingsError, listing
from finetune.tasks import unread
from finetune.tasks.classification.schema import DatasetSchema, TargetKind


def infer(
    features: Mapping[str, Any],
    image_column: str | None = None,
    target_column: str | None = None,
    asked: bool = False,
) -> DatasetSchema:
    """Find out what a dataset holds.

    Args:
        features: Of the dataset.
        image_column: The images' column, where the caller knows it.
        target_column: The classes' column, where the caller knows it.
        asked: Whether the user named the task; else neither floats nor many numbers in text are classes.

    Returns:
        A schema whose `classes` are known only if the target is a ClassLabel; else see `DatasetSchema.with_values`.

    Raises:
        SchemaError: No or several candidate columns, or a task that is not supported yet.
    """
    if one_hot := _one_hot(features, image_column, target_column):
        return one_hot
    check_named(features, image_column, target_column)
    if target_column is None and not any(isinstance(feature, ClassLabel) for feature in _candidates(features).values()):
        unread.refuse(features)
    image_column = image_column or the_image(features)
    named, target_column = target_column, target_column or _find_target(features, image_column, asked)
    kind = _target_kind(features[target_column])
    if kind is None and asked and _is_float(features[target_column]):
        kind = "float"
    if kind is None:
        raise _wrong_target(target_column, features[target_column])
    names = tuple(features[target_column].names) if kind == "class-label" else ()
    values = tuple(range(len(names)))
    sure = bool(named or names) or target_column.lower() in TARGET_NAMES
    return DatasetSchema("image-classification", image_column, target_column, kind, names, values, sure, asked)


def _one_hot(features: Mapping[str, Any], image_column: str | None, target: str | None) -> DatasetSchema | None:
    """The reading of a named list or struct of numbers, or of named columns of them: a 1 among zeros."""
    from finetune.tasks.classification.one_hot import OneHotSchema

    if target is None:
        return None
    columns = (target,) if target in features else tuple(name.strip() for name in target.split(","))
    held = [features[name] for name in columns if name in features]
    several = len(columns) > 1 and len(held) == len(columns)
    if several or (held and _holds_numbers(held[0])):
        check_named(features, image_column, columns[0])
        image = image_column or the_image(features)
        return OneHotSchema("image-classification", image, target, "one-hot", sources=columns)
    return None


def _holds_numbers(feature: Any) -> bool:
    """Whether it is a list of numbers or of yes or no, or a struct of them."""
    inner = list(feature.values()) if isinstance(feature, dict) else [element(feature)]
    kinds = ("bool", "int", "uint", "float", "double")
    return all(isinstance(of, Value) and of.dtype.startswith(kinds) for of in inner)


def _wrong_target(column: str, feature: Any) -> SchemaError:
    pandas = "If missing values made floats of integers, as in pandas, write astype('Int64'). "
    return SchemaError(
        f"column {column!r} has type {type_name(feature)}; expected one class per image: a ClassLabel, an integer, a "
        f"boolean or a string. {pandas if _is_float(feature) else ''}Name another column by --target-column"
    )


def _is_float(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("float", "double"))


def _candidates(features: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that may be the target without being named."""
    return {
        name: feature
        for name, feature in features.items()
        if not name.startswith("__") and not is_image(feature) and not never_the_target(name)
    }


def _find_target(features: Mapping[str, Any], image_column: str, asked: bool) -> str:
    others = {name: feature for name, feature in _candidates(features).items() if name != image_column}
    labels = [name for name, feature in others.items() if isinstance(feature, ClassLabel)]
    plain = [name for name, feature in others.items() if _target_kind(feature) is not None]
    named = [name for name in plain if name.lower() in TARGET_NAMES]
    if not labels and not named:
        unread.refuse_flags(others)
    floats = [name for name, feature in others.items() if asked and _is_float(feature)]
    for candidates in (labels, named, plain, floats):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            together = len(candidates) > 2 and all(_target_kind(others[name]) == "integer" for name in candidates)
            raise (SchemaError if together else SeveralReadingsError)(  # of 0 and 1 they are one target together
                f"{len(candidates)} columns could hold the classes ({listing(candidates)}): pick one by "
                f"--target-column{_readings(features, candidates)}"
            )
    aside = [name for name, feature in features.items() if _target_kind(feature) is not None and name != image_column]
    aside = [name for name in aside if not name.startswith("__")]
    never = f"; {listing(aside, 5)} are taken only when named" if aside else ""
    raise SchemaError(
        f"no column holds classes: columns are {', '.join(f'{n} ({type_name(f)})' for n, f in features.items())}{never}"
        ". In a folder of images put each class into a folder of its own, or a table (train.csv with columns file_name "
        "and label) beside them; else name the column by --target-column"
    )


def _readings(features: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The classes that each column declares, as far as any does."""
    shown = [f"{name} ({listing(names, 4)})" for name in columns if (names := getattr(features[name], "names", None))]
    return f": {listing(shown, 5)}" if shown else ""


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


class _Reading:
    """`finetune.task.Reading` of this task."""

    recognise = staticmethod(infer)


READING = _Reading()
