"""What `predict` says of images: `value`, and `low` and `high`, the ends of the interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.task import Record
from finetune.tasks.regression.answering.predictor import NumberPredictor


class NumberAnswers:
    """`finetune.task.Answers` of a regression.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: NumberPredictor) -> None:
        self.predictor, self.transform = predictor, predictor.transform
        found = predictor.interval
        self.says = [f"a number each: {predictor.classes[0]}"]
        if found is None:
            self.says.append("the model has no interval: low and high are empty")
        else:
            self.says.append(f"low and high: value +- {found.half_width:.4g}, meant to hold {100 * found.level:g} %")

    def records(self, pixels: Any, options: Any) -> list[Record]:
        """Of prepared images."""
        return [
            {"value": found.value, "low": found.low, "high": found.high} for found in self.predictor.predict(pixels)
        ]

    def brief(self, record: Record) -> str:
        """The number and its interval."""
        value, low, high = record["value"], record["low"], record["high"]
        return f"{value:.6g}" if low is None else f"{value:.6g}  [{low:.6g}, {high:.6g}]"

    def columns(self, options: Any) -> Sequence[str]:
        """value, low, high, error."""
        return ["value", "low", "high", "error"]

    def flat(self, record: Record) -> Record:
        """A record by these columns."""
        return record
