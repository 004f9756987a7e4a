"""A training that has come to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.runs.result import RunResult
from finetune.training.module import TaskModule
from finetune.training.session import Images, Session


@dataclass(frozen=True)
class Trained:
    """What is exported, and what is known of it.

    Attributes:
        model: With the weights.
        data_config: timm's, as the model was evaluated with.
        module: What was trained: `model`, or its classifier.
        loader: What on.
        session: Its training and evaluations.
        result: Its numbers, without `evaluation`.
        predictions: Of `validation` and `test`; in the first process alone.
        remarks: What the user should know of how it went; in the first process alone.
    """

    model: nn.Module
    data_config: dict[str, Any]
    module: TaskModule
    loader: Images
    session: Session
    result: RunResult
    predictions: dict[str, Any]
    remarks: list[str]
