"""Names of the values in masks: from columns, or from a small file in the folder or repository of the dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset
from huggingface_hub import DatasetCard

from finetune.data.features import element
from finetune.errors import SchemaError

FILES = ("id2label.json", "label2id.json", "classes.txt", "codes.txt")
"""Files that name the values, in the order in which they are looked for."""
CARD = "README.md"
"""The dataset's card, whose head may name them where nothing else does."""

_ROWS = 1000  # that are asked for names, where each row holds some
_LARGEST = 2**20  # bytes


@dataclass(frozen=True)
class Names:
    """What the values of the masks are called.

    Attributes:
        of: Name by value.
        where: What says so, for the line that is printed.
    """

    of: Mapping[int, str]
    where: str


def of_feature(features: Mapping[str, Any]) -> Names | None:
    """Those that a list of classes declares, as `classes_on_image` beside the masks."""
    for name, feature in features.items():
        inner = element(feature)
        if isinstance(inner, ClassLabel) and inner.names:
            return Names(dict(enumerate(inner.names)), f"column {name!r}")
    return None


def of_rows(split: Dataset, column: str) -> Names:
    """Those of a column with a dict of name and value in each row.

    Args:
        split: Of a dataset.
        column: The dicts; `datasets` has filled up what a row lacks by nulls.

    Raises:
        SchemaError: Rows contradict each other.
    """
    found: dict[int, str] = {}
    for row in split.select_columns([column])[:_ROWS][column]:
        for name, value in _pairs(row):
            if found.setdefault(value, name) != name:
                raise SchemaError(
                    f"column {column!r} calls {value} both {found[value]!r} and {name!r}: expected one name for each "
                    "value"
                )
    return Names(found, f"column {column!r}")


def _pairs(row: Any) -> list[tuple[str, int]]:
    if isinstance(row, str):
        row = json.loads(row)
    if isinstance(row, Mapping):
        row = row.items()
    return [(str(name), int(value)) for name, value in row or () if value is not None]


def of_file(path: Path) -> Names:
    """Those in one of `FILES`.

    Raises:
        SchemaError: It holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("larger than 1 MiB")
        text = path.read_text(encoding="utf-8-sig")
        found = _of_json(json.loads(text)) if path.suffix == ".json" else _of_lines(text)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SchemaError(
            f"cannot read the names of the classes in {path.name}: {error}; expected a JSON object of value and name "
            "as id2label.json has it, or a line for each value from 0 on"
        ) from error
    if not found:
        raise SchemaError(f"{path.name} names no class: expected at least 2; or take the file away")
    return Names(found, path.name)


def of_card(path: Path, config: str | None = None) -> Names | None:
    """Those in the head of a dataset's card: `id2label`, `label2id`, or a list of classes in its `dataset_info`.

    Args:
        path: Of the card.
        config: Configuration whose `dataset_info` counts, where there are several; the first when not given.

    Returns:
        None where it names none, or cannot be read: a card is for people.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return None
        head = DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict()
        found = next((head[key] for key in ("id2label", "label2id") if isinstance(head.get(key), dict)), None)
        of = _of_json({str(key): value for key, value in found.items()}) if found else _of_features(head, config)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, yaml.YAMLError):
        return None
    return Names(of, f"the head of {path.name}") if of else None


def _of_features(head: Mapping[str, Any], config: str | None) -> dict[int, str]:
    """Of the first list of classes; one class an image says nothing of the pixels."""
    infos = head.get("dataset_info") or []
    infos = infos if isinstance(infos, list) else [infos]
    info: Any = next((of for of in infos if config in (None, of.get("config_name"))), {})
    for feature in info.get("features") or []:
        inner = feature.get("sequence", feature.get("list"))
        declared = inner.get("class_label") if isinstance(inner, dict) else None
        if declared:
            return _of_json(declared["names"])
    return {}


def _of_json(found: Any) -> dict[int, str]:
    if isinstance(found, list):
        return {place: _text(name) for place, name in enumerate(found)}
    if all(key.lstrip("-").isdigit() for key in found):
        return {int(key): _text(name) for key, name in found.items()}
    return {int(value): name for name, value in found.items()}  # label2id


def _text(name: Any) -> str:
    return str(name["name"]) if isinstance(name, dict) else str(name)


def _of_lines(text: str) -> dict[int, str]:
    return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
