"""What a task may bring for verbs that look at data by simple models on frozen features; Protocols alone, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from finetune.task import Schema


@dataclass(frozen=True)
class Bar:
    """A simple model on frozen features, which a training has to beat, and how good it is.

    Attributes:
        title: `linear probe`, `nearest neighbours`.
        scores: By `validation` and `test`, as the task's own.
        intervals: Ends by score, of test.
        each: float64 `[N]`, of every test image: its mean is the task's first score.
        said: What else there is to say of it.
    """

    title: str
    scores: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    each: np.ndarray
    said: str = ""


@dataclass(frozen=True)
class Suspect:
    """An image whose label is perhaps wrong.

    Attributes:
        place: Among the images that were given.
        margin: Of the given label over the suggested one, -1 to 1; the lowest first is the ranking.
        given: For people.
        suggested: For people.
        likely: Whether it is counted as an error.
    """

    place: int
    margin: float
    given: str
    suggested: str
    likely: bool


class Studying(Protocol):
    """For `probe`, `labels` and `doctor`: what targets mean to simple models on frozen features. A task's `study`.

    A task without one is refused by `probe` and `labels` in one line (`finetune.tasks.registry.study_of`).
    """

    def bars(
        self, features: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], schema: Schema, seed: int
    ) -> Iterator[Bar]:
        """Simple models fitted to `train`; the first is the linear probe.

        Args:
            features: By role, float32 `[N, D]`.
            targets: By role, `[N, ...]`.
            schema: Of the dataset.
            seed: Of folds and resamples.

        Raises:
            ValueError: There is nothing to fit; the message says why.
        """

    def suspects(self, features: np.ndarray, targets: np.ndarray, schema: Schema, seed: int) -> list[Suspect]:
        """All images, the least credible target first.

        Raises:
            ValueError: There is nothing to judge by; the message says why.
        """

    def named(self, schema: Schema, target: Any) -> str:
        """A target, for people."""

    def without(self, predictions: Any, kept: np.ndarray) -> Mapping[str, float]:
        """Scores over some of the images that the task's collector kept, bool `[N]`."""
