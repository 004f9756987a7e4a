"""What is said of a detector besides its scores, and a dataset as a detector sees it that was not trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from finetune.console import log
from finetune.errors import ModelError, listing
from finetune.runs.result import RunResult
from finetune.tasks.detection.judging import assess
from finetune.tasks.detection.judging.detected import Detected


def assessed(result: RunResult, predictions: Mapping[str, Detected], data: Any) -> RunResult:
    """The result with its `evaluation`."""
    classes = data.schema.classes
    entry = assess.assess(predictions["validation"], predictions["test"], classes, result.seed)
    return dataclasses.replace(result, evaluation=result.evaluation | entry)


def aligned(data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
    """A dataset whose objects have the model's class indices, matched by name.

    Raises:
        ModelError: The dataset has a class that the model does not know.
    """
    described: Any = network
    known: list[str] = list(described.label_names)
    theirs = list(data.schema.classes)
    missing = [name for name in theirs if name not in known]
    if missing:
        raise ModelError(
            f"the dataset's classes {listing(missing)} are not among the model's ({listing(known)}): evaluate on a "
            "dataset of the same classes, by the same names"
        )
    log.info(f"classes: {len(theirs)} of the model's {len(known)}, by name")
    return (
        dataclasses.replace(data, schema=data.schema.numbered(known)),
        len(known),
        {"classes": len(theirs), "classes_by": "name"},
    )
