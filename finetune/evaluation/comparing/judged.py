"""What a model said of each image of a split, weighed: the ground of comparisons, slices and corruptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from finetune.task import Score

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Judged:
    """A task's predictions of N images, as statistics take them.

    Attributes:
        scores: How often each image counts, int64 `[R, N]` -> the task's scores of each row, float64 `[R]`, by key.
        values: float64 `[N]`: a score of each image alone, such as 1 where it is right; NaN of one that has none.
        worth: What such a value is; its mean is what slices are judged by.
        right: Bool `[N]`; None where an image is not simply right or wrong.
        said: What the model answered, `[N]`, for people.
        true: What is right, `[N]`, for people.
        shows: Bool `[N, K]`: which of the classes an image shows.
        names: Of the classes, K; none where there are no classes.
    """

    scores: Callable[[np.ndarray], dict[str, np.ndarray]]
    values: np.ndarray
    worth: Score
    right: np.ndarray | None
    said: Sequence[str]
    true: Sequence[str]
    shows: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.values)

    def once(self) -> dict[str, float]:
        """The scores of all images, each counted once."""
        found = self.scores(np.ones((1, len(self)), dtype=np.int64))
        return {key: float(value[0]) for key, value in found.items()}

    def of(self, places: np.ndarray) -> Judged:
        """Some of the images, int64 `[M]`, in that order; each at most once."""
        whole = len(self)

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            spread = np.zeros((len(weights), whole), dtype=weights.dtype)
            spread[:, places] = weights
            return self.scores(spread)

        return Judged(
            scores,
            self.values[places],
            self.worth,
            None if self.right is None else self.right[places],
            [self.said[place] for place in places],
            [self.true[place] for place in places],
            self.shows[places],
            self.names,
        )


def one_of(targets: np.ndarray, classes: int) -> np.ndarray:
    """Bool `[N, K]`, where each image shows one class at most.

    Args:
        targets: Integers `[N]`; those below 0 are no class.
        classes: K.
    """
    found: np.ndarray = targets[:, None] == np.arange(classes)
    return found


def in_words(shows: np.ndarray, names: Sequence[str], most: int = 4) -> list[str]:
    """For each image the classes that it shows, bool `[N, K]` -> text."""
    texts = []
    for row in shows:
        places = np.flatnonzero(row)
        text = ", ".join(names[place] for place in places[:most])
        more = len(places) - most
        texts.append((f"{text} and {more} more" if more > 0 else text) or "none")
    return texts


@runtime_checkable
class Comparing(Protocol):
    """What a task brings besides where its models can be judged image by image."""

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """Weigh predictions.

        Args:
            found: What the task's collector keeps.
            classes: Names of the model's outputs.
            evaluation: Of result.json, or `decisions` of a network: from what on something is an answer.
        """

    def decisions(self, network: nn.Module) -> Mapping[str, Any]:
        """What of result.json's `evaluation` a finished network has with it; empty where it answers without."""

    def outputs(self, network: nn.Module) -> Sequence[str]:
        """Names of a finished network's outputs."""

    def kept(self, said: Sequence[Any], targets: Sequence[Any]) -> Any:
        """What the task's collector would keep.

        Args:
            said: What the evaluator's `test_step` gave for each batch.
            targets: Of each batch.
        """


@runtime_checkable
class Looking(Protocol):
    """What a task brings whose networks do not end in one linear layer, for images to be told apart by their looks."""

    def looks(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Features of normalised images float32 `[B, 3, H, W]`: float `[B, D]`."""
