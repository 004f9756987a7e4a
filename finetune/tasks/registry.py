"""The tasks there are, and which one a dataset or a model is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import RunFolderError, SchemaError, listing
from finetune.runs import reading
from finetune.task import Schema, Task
from finetune.tasks.classification.task import CLASSIFICATION

_TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Let there be a task; one of the same name is replaced."""
    _TASKS[task.name] = task


register(CLASSIFICATION)


def get(name: str) -> Task:
    """A task by the name that result.json has.

    Raises:
        RunFolderError: This version has none of that name.
    """
    if name not in _TASKS:
        raise RunFolderError(
            f"this version has no task {name!r}, only {listing(_TASKS)}: update it, or use the one it was made with"
        )
    return _TASKS[name]


def of_model(model: str | Path) -> Task:
    """The task of a run's, or its model's, folder, by the result.json there; of any other model classification.

    Raises:
        RunFolderError: A run's result.json is damaged, or of a task that this version does not have.
    """
    place = Path(str(model).removeprefix("local-dir:")).expanduser()
    for path in (place / "result.json", place.parent / "result.json"):
        if path.is_file():
            try:
                return get(json.loads(path.read_text(encoding="utf-8"))["task"])
            except (ValueError, KeyError, TypeError) as error:
                if (path.parent / "config.yaml").is_file():
                    raise RunFolderError(f"{path} is damaged: it does not say the task; {reading.ADVICE}") from error
                continue  # not one of ours
    return CLASSIFICATION


class _Reading:
    """`finetune.task.Reading` of all tasks together: what a dataset holds is what exactly one of them recognises."""

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """What there is to learn, by whatever task.

        Raises:
            SchemaError: No task recognises anything (classification's reason is the one given), or several do.
        """
        found: list[Schema] = []
        reasons: list[SchemaError] = []
        for task in _TASKS.values():
            try:
                found.append(task.recognise(features, image_column, target_column))
            except SchemaError as error:
                reasons.append(error)
        if not found:
            raise reasons[0]
        if len(found) > 1:
            readings = " or ".join(f"{one.task} ({one.described()})" for one in found)
            raise SchemaError(f"this dataset can be read as {readings}: name another --target-column")
        return found[0]


READING = _Reading()
