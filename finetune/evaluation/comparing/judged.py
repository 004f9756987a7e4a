"""What a model said of each image of a split, weighed: the ground of comparisons, slices and corruptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from finetune.task import Score


@dataclass(frozen=True)
class Judged:
    """A task's predictions of N images, as statistics take them.

    Attributes:
        scores: How often each image counts, int64 `[R, N]` -> the task's scores of each row, float64 `[R]`, by key.
        values: float64 `[N]`: a score of each image alone, such as 1 where it is right.
        worth: What such a value is; its mean is what slices are judged by.
        right: Bool `[N]`; None where an image is not simply right or wrong.
        said: What the model answered, `[N]`, for people.
        groups: int64 `[N]`, the class of each image; -1 for none.
        names: Of the groups.
    """

    scores: Callable[[np.ndarray], dict[str, np.ndarray]]
    values: np.ndarray
    worth: Score
    right: np.ndarray | None
    said: Sequence[str]
    groups: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.values)

    def once(self) -> dict[str, float]:
        """The scores of all images, each counted once."""
        found = self.scores(np.ones((1, len(self)), dtype=np.int64))
        return {key: float(value[0]) for key, value in found.items()}


@runtime_checkable
class Comparing(Protocol):
    """What a task brings besides where its models can be compared image by image."""

    def judged(self, found: Any, classes: Sequence[str]) -> Judged:
        """Weigh predictions.

        Args:
            found: What the task's collector keeps.
            classes: Names of the model's outputs.
        """
