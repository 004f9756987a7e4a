"""A multi-label classifier's answers, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.evaluation.comparing.judged import Judged, in_words
from finetune.task import Score
from finetune.tasks.multi_label.measures import intervals, metrics
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions

WORTH = Score("image_f1", "F1 of an image")


def judged(found: MultiLabelPredictions, classes: Sequence[str], thresholds: np.ndarray) -> Judged:
    """Predictions as statistics take them: an image is worth the F1 of its classes.

    Args:
        found: Outputs over `classes`.
        classes: Names of the outputs.
        thresholds: float64 `[K]`, logits from which on a class is answered.
    """
    logits, targets = found.arrays()
    answered = metrics.answers(logits, thresholds) & (targets >= 0)
    return Judged(
        scores=intervals.weighted(logits, targets, thresholds),
        values=of_images(answered, targets),
        worth=WORTH,
        right=None,
        said=in_words(answered, classes),
        true=in_words(targets > 0, classes),
        shows=targets > 0,
        names=classes,
    )


def of_images(answered: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 `[N]`: F1 over the classes of each image; 1 where it shows none and none is answered.

    Args:
        answered: Bool `[N, K]`, of what is known.
        targets: int8 `[N, K]`, -1 where it is not known; NaN of an image of which nothing is known.
    """
    shown = targets > 0
    right, both = (answered & shown).sum(axis=1), answered.sum(axis=1) + shown.sum(axis=1)
    found: np.ndarray = np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0)
    return np.where((targets >= 0).any(axis=1), found, np.nan)
