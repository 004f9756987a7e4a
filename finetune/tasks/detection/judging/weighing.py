"""A detector's answers, image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune.evaluation.comparing.judged import Judged
from finetune.task import Score
from finetune.tasks.detection.judging import precision
from finetune.tasks.detection.judging.detected import Detected, Objects
from finetune.tasks.detection.judging.matches import Matches, match
from finetune.tasks.detection.scores import record

WORTH = Score("image_f1", "F1 of an image")


def judged(found: Detected, classes: Sequence[str], masks: bool, threshold: float) -> Judged:
    """Predictions as statistics take them: an image is worth the F1 of the objects that are shown.

    Args:
        found: Objects, labelled by place in `classes`.
        classes: Names.
        masks: Whether masks are matched, and not boxes.
        threshold: Score from which on an object is shown.
    """
    boxes = match(found, len(classes))
    own = match(found, len(classes), masks=True) if masks else boxes
    return Judged(
        scores=weighted(boxes, own if masks else None),
        values=of_images(own, threshold),
        worth=WORTH,
        right=None,
        said=_counted(found.found, classes, threshold),
        true=_counted(found.truth, classes, threshold),
        shows=own.wanted > 0,
        names=classes,
    )


def weighted(boxes: Matches, masks: Matches | None = None) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Average precisions by how often each image counts, as `Judged.scores` has it."""
    of_boxes = precision.weighted(boxes)
    if masks is None:
        return of_boxes
    of_masks = precision.weighted(masks)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {f"mask_{name}": values for name, values in of_masks(weights).items()} | of_boxes(weights)

    return scores


def of_images(matches: Matches, threshold: float) -> np.ndarray:
    """float64 `[N]`: F1 of what is shown at overlap 0.5; 1 where there is no object and none is shown."""
    shown = (matches.score >= threshold) & ~matches.ignored[:, 0]
    images = len(matches.wanted)
    right = np.bincount(matches.image[shown & matches.true[:, 0]], minlength=images)
    both = np.bincount(matches.image[shown], minlength=images) + matches.wanted.sum(axis=1)
    found: np.ndarray = np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0)
    return found


def _counted(objects: Objects, classes: Sequence[str], threshold: float) -> list[str]:
    """For each image how many objects of each class; crowds and what is below the threshold are left out."""
    counts, labels = objects.counts.tolist(), objects.labels.tolist()
    shown = ((objects.scores >= threshold) & ~objects.crowd).tolist()
    texts, start = [], 0
    for count in counts:
        here = range(start, start + count)
        names = Counter(classes[labels[i]] for i in here if shown[i])
        texts.append(", ".join(f"{number} {name}" for name, number in names.most_common()) or "nothing")
        start += count
    return texts


def kept(said: Sequence[Sequence[Any]], targets: Sequence[Sequence[Any]]) -> Detected:
    """Of batches at hand what `CollectDetections` keeps."""
    pairs = [pair for batch in zip(said, targets, strict=True) for pair in zip(*batch, strict=True)]
    return Detected.of([record(found, target) for found, target in pairs])
