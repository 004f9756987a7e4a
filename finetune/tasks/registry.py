"""The tasks there are, and which one a dataset or a model is of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import (
    ConfigError,
    RunFolderError,
    SchemaError,
    SeveralReadingsError,
    listing,
    suggest,
)
from finetune.examining import Flagged
from finetune.export import described
from finetune.optional import Guessing
from finetune.runs import model_files, reading
from finetune.settings import of_tasks
from finetune.study import Studying
from finetune.task import Reading, Schema, Task
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.tasks.detection.task import DETECTION, INSTANCES
from finetune.tasks.multi_label.task import MULTI_LABEL
from finetune.tasks.regression.task import REGRESSION
from finetune.tasks.segmentation.task import SEGMENTATION

if TYPE_CHECKING:
    from torch import nn

_TASKS: dict[str, Task] = {}
_BY_PROBLEM = {"regression": REGRESSION.name, "multi_label_classification": MULTI_LABEL.name}
"""By transformers' `problem_type`; an exported file of what transformers does not name has the task's own name."""


def register(task: Task) -> None:
    """Let there be a task; one of the same name is replaced."""
    _TASKS[task.name] = task


for _task in (CLASSIFICATION, REGRESSION, MULTI_LABEL, SEGMENTATION, DETECTION, INSTANCES):
    register(_task)


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
    """The task of a run's, or its model's, folder, by result.json or finetune.json.

    Of any other model by the `problem_type` in its config.json, or an exported file's metadata; else classification.

    Raises:
        RunFolderError: A run's result.json is damaged, or of a task that this version does not have.
    """
    place = Path(str(model).removeprefix("local-dir:")).expanduser()
    own = (place / model_files.OURS, place.parent / model_files.OURS)  # of a model's folder alone, or a file in it
    for path in (place / "result.json", place.parent / "result.json", *own):
        if path.is_file():
            try:
                return get(json.loads(path.read_text(encoding="utf-8"))["task"])
            except (ValueError, KeyError, TypeError) as error:
                if (path.parent / "config.yaml").is_file():
                    raise RunFolderError(f"{path} is damaged: it does not say the task; {reading.ADVICE}") from error
                continue  # not one of ours
    said = described.problem_type(model) or ""
    return _TASKS.get(_BY_PROBLEM.get(said, said), CLASSIFICATION)


def open_model(task: Task, name: str, image_size: int | None = None) -> nn.Module:
    """A finished model: by its task where that has a form of its own, else by timm.

    Args:
        task: The model's.
        name: As `finetune.networks.models.build` takes it.
        image_size: Side that timm's model is checked for.

    Raises:
        ModelError: It cannot be built.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and model_files.is_ours(folder):
        return task.load(folder)
    from finetune.networks import models  # with timm, which to know a task does not take

    return models.build(name, None, pretrained=True, image_size=image_size)


@dataclass(frozen=True)
class _Reading:
    """`finetune.task.Reading` of all tasks together: what a dataset holds is what exactly one of them recognises.

    Attributes:
        only: The one task that is asked; all when None.
        flags: That say how to read, see `finetune.settings.of_tasks.READING`.
    """

    only: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)

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
            read = task.guess if self.only is None and isinstance(task, Guessing) else task.recognise
            try:
                found.append(read(features, image_column, target_column))
            except SeveralReadingsError as error:
                unclear.append(error)
            except SchemaError as error:
                reasons.append(error)
        found = _distinct(found)
        if len(found) > 1 or (found and unclear and found[0].sure):
            readings = [
                f"{one.task} ({one.described()}; --task {one.task}{_naming(one)})"
                for one in sorted(found, key=lambda one: one.task)
            ]
            raise SeveralReadingsError(
                f"this dataset can be read as {' or as '.join(readings)}{''.join(f'; besides, {e}' for e in unclear)}: "
                "choose by the flags of one reading"
            )
        if not found or unclear:
            raise [*unclear, *reasons][0]
        chosen = found[0]
        flags = of_tasks.of_task(self.flags, chosen.task)
        return chosen.flagged(flags) if flags and isinstance(chosen, Flagged) else chosen


def _distinct(found: Sequence[Schema]) -> list[Schema]:
    """Without what is part of another reading, and without guesses where something is sure."""
    sure = [one for one in found if one.sure] or found
    parts = {id(one): {name for other in sure if other is not one for name in other.explains} for one in sure}
    return [one for one in sure if one.target_column not in parts[id(one)]] or list(sure)


def _naming(one: Schema) -> str:
    """The flag that names the columns of a reading, where it is one column."""
    return f" --target-column {one.target_column}" if one.columns == (one.target_column,) else ""


def reader(task: str | None = None, settings: Any = None) -> Reading:
    """What recognises a dataset: as the task that the user names, or as whatever it is.

    Args:
        task: Its name.
        settings: Of the run or verb, or those of config.yaml by name: some flags say how to read.

    Raises:
        ConfigError: There is no such task.
    """
    flags = of_tasks.reading(settings)
    if task is None:
        return _Reading(None, flags)
    if task not in _TASKS:
        hint = suggest(task, _TASKS) or "."
        raise ConfigError(f"--task: no task {task!r}{hint} Tasks: {listing(_TASKS)}")
    return _Reading(task, flags)


READING = _Reading()
