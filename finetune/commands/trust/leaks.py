"""The reported numbers without test images that training has seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.checks import quick
from finetune.data.checks.copies import Copies
from finetune.data.dataset import LabelledImages
from finetune.runs.result import RunResult
from finetune.task import Task


def add(
    result: RunResult, predictions: Mapping[str, Any], task: Task, data: LabelledImages, found: Copies | None
) -> RunResult:
    """A result with `evaluation.leaks`, where test images are training images too, or near copies of some.

    Args:
        result: With its `evaluation`.
        predictions: By role, as the task's collector keeps them.
        task: Of the run.
        data: Of the run.
        found: Of the run's images, where it was looked for them.
    """
    places = quick.leaked_places(found) if found else np.zeros(0, dtype=np.int64)
    part = data.splits.parts["test"]
    if found is None or not len(places):
        return result
    entry = {
        "images": len(places),
        "share": len(places) / len(part.rows),
        "kinds": quick.kinds(found),
        "split": part.source,
        "rows": part.rows[places].tolist(),
        "metrics": _without(predictions.get("test"), np.isin(np.arange(len(part.rows)), places), task),
    }
    return dataclasses.replace(result, evaluation=result.evaluation | {"leaks": entry})


def again(result: RunResult, found: Any, task: Task, data: LabelledImages, split: str) -> dict[str, Any] | None:
    """What `evaluate` says of a run's test split without them; None where there are none.

    Args:
        result: Of the run.
        found: What the task's collector kept.
        task: Of the run.
        data: With the images to evaluate as its test split.
        split: Role of these images in the run.
    """
    entry = result.evaluation.get("leaks")
    if split != "test" or not entry:
        return None
    leaked = np.isin(data.splits.parts["test"].rows, entry["rows"])
    return {"images": int(leaked.sum()), "metrics": _without(found, leaked, task)}


def _without(predictions: Any, leaked: np.ndarray, task: Task) -> dict[str, float]:
    """The scores that a task has of some of its images: all where it says how, else the first."""
    if predictions is None or leaked.all():
        return {}
    study = getattr(task, "study", None)  # the only part that a task may lack
    if study is not None:
        return dict(study.without(predictions, ~leaked))
    return {task.scores[0].key: float(task.resampler(predictions)((~leaked).astype(np.int64)[None])[0])}
