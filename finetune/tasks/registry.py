"""The tasks there are, and which one a dataset or a model is of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError, RunFolderError, SchemaError, SeveralReadingsError, listing, suggest
from finetune.runs import reading
from finetune.study import Studying
from finetune.task import Reading, Schema, Task
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


def study_of(task: Task, verb: str) -> Studying:
    """What a task brings for verbs that look at data by frozen features.

    Raises:
        ConfigError: It brings nothing of the kind.
    """
    found: Studying | None = getattr(task, "study", None)  # the only part that a task may lack
    if found is None:
        having = [name for name, one in _TASKS.items() if getattr(one, "study", None) is not None]
        raise ConfigError(
            f"{verb} is not for {task.name} yet, only for {listing(having)}: where the dataset has such a column too, "
            "name it by --target-column"
        )
    return found


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


@dataclass(frozen=True)
class _Reading:
    """`finetune.task.Reading` of all tasks together: what a dataset holds is what exactly one of them recognises.

    Attributes:
        only: The one task that is asked; all when None.
    """

    only: str | None = None

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """What there is to learn, by whatever task.

        Raises:
            SchemaError: No task recognises anything (classification's reason is the one given), or several do.
        """
        found: list[Schema] = []
        unclear: list[SchemaError] = []
        reasons: list[SchemaError] = []
        for task in _TASKS.values() if self.only is None else [_TASKS[self.only]]:
            try:
                found.append(task.recognise(features, image_column, target_column))
            except SeveralReadingsError as error:
                unclear.append(error)
            except SchemaError as error:
                reasons.append(error)
        found = _distinct(found)
        if len(found) > 1 or (found and unclear and found[0].sure):
            readings = [f"{one.task} ({one.described()}; --task {one.task}{_naming(one)})" for one in found]
            raise SeveralReadingsError(
                f"this dataset can be read as {' or as '.join(readings)}{''.join(f'; besides, {e}' for e in unclear)}: "
                "choose by the flags of one reading"
            )
        if not found or unclear:
            raise [*unclear, *reasons][0]
        return found[0]


def _distinct(found: Sequence[Schema]) -> list[Schema]:
    """Without what is part of another reading, and without guesses where something is sure."""
    sure = [one for one in found if one.sure] or found
    parts = {id(one): {name for other in sure if other is not one for name in other.explains} for one in sure}
    return [one for one in sure if one.target_column not in parts[id(one)]] or list(sure)


def _naming(one: Schema) -> str:
    """The flag that names the columns of a reading, where it is one column."""
    return f" --target-column {one.target_column}" if one.columns == (one.target_column,) else ""


def reader(task: str | None = None) -> Reading:
    """What recognises a dataset: as the task that the user names, or as whatever it is.

    Raises:
        ConfigError: There is no such task.
    """
    if task is None:
        return READING
    if task not in _TASKS:
        hint = suggest(task, _TASKS) or "."
        raise ConfigError(f"--task: no task {task!r}{hint} Tasks: {listing(_TASKS)}")
    return _Reading(task)


READING = _Reading()
