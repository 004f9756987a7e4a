"""The one reader of the files that a run or a model consists of: whole and of the right shape, or one line says why.

Such folders come from strangers and from disks that fail. What is looked at here cannot end in a traceback later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import FinetuneError, RunFolderError

ADVICE = "put back a copy of it, or make the run again by its config.yaml"


@dataclass(frozen=True)
class Each:
    """An object whose values are all of one kind, whatever their keys."""

    of: Any


NUMBER = (int, float)
TEXT_OR_NULL = (str, type(None))


def _rows(value: Any) -> str | None:
    if value == "all":
        return None
    if not isinstance(value, list) or any(type(row) is not int for row in value):
        return "must be 'all' or a list of row numbers"
    if any(row < 0 for row in value):
        return f"has the row {min(value)}: rows count from 0"
    if len(set(value)) != len(value):
        return "names a row twice"
    return None


RESULT = {
    "task": str,
    "model": {"name": str, "architecture": str},
    "dataset": {"id": str, "classes": [str], "splits": Each(int)},
    "metrics": {"validation": Each(NUMBER), "test": Each(NUMBER)},
    "training": dict,
    "seed": int,
    "evaluation?": dict,
    "environment?": dict,
    "command?": [str],
}
"""Of result.json, besides its version: a key with `?` may be missing."""
SPLITS = {key: {"source": str, "rows": _rows} for key in ("train", "validation", "test")}
SETTINGS = {
    "dataset": TEXT_OR_NULL,
    "dataset_config?": TEXT_OR_NULL,
    "revision?": TEXT_OR_NULL,
    "image_column?": TEXT_OR_NULL,
    "target_column?": TEXT_OR_NULL,
    "seeds?": int,
}
"""Of config.yaml: what is read of it besides the flags, which the command line checks."""
MODEL = {
    "architecture": str,
    "num_classes?": int,
    "label_names?": (list, dict),
    "model_args?": (dict, type(None)),
    "pretrained_cfg?": dict,
}
OURS = {"task": str, "classes": [str]}
"""Of finetune.json, what every task writes."""
COMPLETE = {"files": Each(str)}
LOCK = {"packages": Each(str), "data": Each(str), "weights": Each(TEXT_OR_NULL), "settings": dict}


def problem(value: Any, schema: Any, at: str = "") -> str | None:
    """What is wrong with a value, or None.

    Args:
        value: As JSON or YAML gave it.
        schema: A type or some; an object's keys with their schemas, those with `?` may be missing; a list of one schema
            for each of its entries; `Each`; or a function that says what is wrong.
        at: Where the value stands, for the words.
    """
    where = repr(at) if at else "it"
    if isinstance(schema, dict | Each):
        if not isinstance(value, dict):
            return f"{where} must be an object, got {_kind(value)}"
        if isinstance(schema, Each):
            entries = [(key, schema.of) for key in value]
        else:
            missing = [key for key in schema if not key.endswith("?") and key not in value]
            if missing:
                return f"{where} has no {', '.join(map(repr, missing))}"
            entries = [(name, of) for key, of in schema.items() if (name := key.removesuffix("?")) in value]
        found = (problem(value[key], of, f"{at}.{key}" if at else str(key)) for key, of in entries)
        return next((text for text in found if text), None)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{where} must be a list, got {_kind(value)}"
        return next((text for n, one in enumerate(value) if (text := problem(one, schema[0], f"{at}[{n}]"))), None)
    if callable(schema) and not isinstance(schema, type):
        text = schema(value)
        return f"{where} {text}" if text else None
    kinds = schema if isinstance(schema, tuple) else (schema,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return f"{where} must be {' or '.join(_NAMES.get(kind, kind.__name__) for kind in kinds)}, got {_kind(value)}"
    return None


_NAMES = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list", type(None): "null"}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def read(
    path: Path,
    schema: Any,
    advice: str = ADVICE,
    error: type[FinetuneError] = RunFolderError,
    parse: Callable[[str], Any] = json.loads,
) -> dict[str, Any]:
    """Read a JSON or YAML file.

    Args:
        path: The file.
        schema: What it must hold, see `problem`.
        advice: What to do about one that does not.
        error: To raise.
        parse: Its text -> what it holds.

    Raises:
        FinetuneError: `error`: it is missing, no text, cut short, or lacks something.
    """
    try:
        value: dict[str, Any] = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path} is missing: {advice}") from cause
    except OSError as cause:
        raise error(f"cannot read {path}: {cause.strerror or cause}") from cause
    except (ValueError, RecursionError, yaml.YAMLError) as cause:  # of no text, too
        kind = "JSON" if parse is json.loads else "YAML"
        raise error(f"{path} is damaged: expected {kind}, got {_unparsed(path, cause)}; {advice}") from cause
    found = problem(value, schema)
    if found:
        raise error(f"{path} is damaged: {found}; {advice}")
    return value


def settings(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml.

    Raises:
        RunFolderError: It is missing or damaged.
    """
    return read(path, SETTINGS, parse=yaml.safe_load)


def whole(path: Path, schema: Any) -> bool:
    """Whether a JSON file is there and as it should be."""
    try:
        read(path, schema)
    except FinetuneError:
        return False
    return True


def _unparsed(path: Path, cause: Exception) -> str:
    """What a file holds instead; its bytes are never shown, for they may be of anything."""
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    if isinstance(cause, UnicodeDecodeError):
        return f"{size} bytes that are no text"
    line = getattr(cause, "lineno", None)
    return f"{size} bytes that end or change within it" + (f" (line {line})" if line else "")


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def compare(path: Path, expected: Mapping[str, Any], key: str, said_by: str, advice: str) -> None:
    """Make sure that a file is the one whose hash somebody has written down, where they have.

    Raises:
        RunFolderError: It is another one.
    """
    digest = expected.get(key)
    if isinstance(digest, str) and (found := sha256(path)) != digest:
        raise RunFolderError(
            f"{path} is not the file that the run has written: its SHA-256 begins with {found[:12]}, that in {said_by} "
            f"with {digest[:12]}; {advice}"
        )
