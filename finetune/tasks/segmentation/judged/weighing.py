"""A segmentation's answers, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.evaluation.comparing.judged import Judged, in_words
from finetune.task import Score
from finetune.tasks.segmentation.judged import assessment, collector
from finetune.tasks.segmentation.judged.collector import MaskPredictions
from finetune.tasks.segmentation.scores import ImageCounts, of_counts

WORTH = Score("image_iou", "IoU of an image")
SPOKEN = 0.01
"""Share of an image's pixels from which on a class is named as answered."""


def judged(found: MaskPredictions, classes: Sequence[str]) -> Judged:
    """Predictions as statistics take them: an image is worth the mean IoU of the classes that it shows.

    Args:
        found: Counts over `classes`.
        classes: Names of the outputs.
    """
    _, true, answered = found.counts()
    pixels = np.maximum(true.sum(axis=1, keepdims=True), 1)
    return Judged(
        scores=weighted(found),
        values=assessment.of_images(found),
        worth=WORTH,
        right=None,
        said=in_words(answered >= SPOKEN * pixels, classes),
        true=in_words(true > 0, classes),
        shows=true > 0,
        names=classes,
    )


def weighted(found: MaskPredictions) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """All scores but the loss by how often each image counts, as `Judged.scores` has it."""
    together = np.concatenate(found.counts(), axis=1).astype(np.float64)  # whole numbers, exact to 2^53

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        return of_counts(*np.split(weights @ together, 3, axis=1))

    return scores


def kept(said: Sequence[Sequence[ImageCounts]]) -> MaskPredictions:
    """Of batches at hand, at least one image, what `CollectCounts` keeps."""
    images = [
        ImageCounts(one.pairs.cpu(), one.loss.cpu(), one.logits.cpu(), one.targets.cpu())
        for batch in said
        for one in batch
    ]
    return collector.together(images, images[0].logits.shape[1])
