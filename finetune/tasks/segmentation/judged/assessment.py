"""What result.json says of a segmentation beyond the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from finetune.evaluation import calibration, intervals
from finetune.evaluation.assessment import LARGEST_MATRIX
from finetune.tasks.segmentation.judged.collector import MaskPredictions
from finetune.tasks.segmentation.scores import matrix, of_counts

METHOD = "percentile bootstrap over images"
_CHUNK = 2_000_000
"""Numbers of a block of resamples."""


def add(result: Any, predictions: Mapping[str, MaskPredictions], data: Any) -> Any:
    """A run's result with its `evaluation`.

    Args:
        result: Without it.
        predictions: By role.
        data: With the splits and the classes.

    Raises:
        RuntimeError: The predictions are not those of the splits' rows, which would be a bug of ours.
    """
    for role, found in predictions.items():
        if int(found.images) != len(data.splits.parts[role].rows):
            raise RuntimeError(f"{int(found.images)} predictions of the images of {role}")
    pixels = data.targets("train").sum(axis=0)
    entry = assess(predictions["validation"], predictions["test"], pixels, data.schema.classes, result.seed)
    return dataclasses.replace(result, evaluation=result.evaluation | entry)


def assess(
    validation: MaskPredictions, test: MaskPredictions, pixels: np.ndarray, classes: Sequence[str], seed: int
) -> dict[str, Any]:
    """The `evaluation` entry of result.json, without the pictures.

    Args:
        validation: The temperature is fitted on its sampled pixels.
        test: Everything is measured on it.
        pixels: int64 `[K]`, of the training masks.
        classes: Names.
        seed: Of the bootstrap.
    """
    rows = per_class(test, classes)
    entry: dict[str, Any] = {
        "majority_class": floor(pixels, classes, {"validation": validation, "test": test}),
        "intervals": {
            "level": intervals.LEVEL,
            "resamples": intervals.RESAMPLES,
            "seed": seed,
            "method": METHOD,
            "test": {name: list(ends) for name, ends in bootstrap(test, seed).items()},
        },
        "per_class": {"test": rows},
        "absent": {"test": [row["class"] for row in rows if not row["pixels"]]},
        "figures": {},
    }
    if len(classes) <= LARGEST_MATRIX:
        entry["confusion"] = {"test": matrix(test.pairs[:, 1:], len(classes)).tolist()}
    temperature = calibration.fit_temperature(validation.sample)
    if temperature is not None and len(test.targets) and torch.isfinite(test.logits).all():
        found = calibration.summary(test.sample, temperature)
        entry["calibration"] = found | {"pixels": {"validation": len(validation.targets), "test": len(test.targets)}}
    return entry


def floor(pixels: np.ndarray, classes: Sequence[str], splits: Mapping[str, MaskPredictions]) -> dict[str, Any]:
    """The class of most training pixels, and the mean IoU and pixel accuracy of always answering it."""
    index = int(pixels.argmax())
    found: dict[str, Any] = {"class": classes[index], "pixel_accuracy": {}}
    for role, of in splits.items():
        scores = always(of, index)
        found[role], found["pixel_accuracy"][role] = scores["mean_iou"], scores["pixel_accuracy"]
    return found


def always(found: MaskPredictions, index: int) -> dict[str, float]:
    """Scores of answering one class everywhere."""
    true = found.counts()[1].sum(axis=0, keepdims=True)
    right, answered = np.zeros_like(true), np.zeros_like(true)
    right[0, index], answered[0, index] = true[0, index], true.sum()
    return {name: float(value[0]) for name, value in of_counts(right, true, answered).items()}


def bootstrap(
    found: MaskPredictions, seed: int, resamples: int = intervals.RESAMPLES
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the scores: images are drawn again, with all their pixels, which are no chance of their own.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    counts = found.counts()
    images, classes = counts[0].shape
    if not images:
        return {}
    together = np.concatenate(counts, axis=1).astype(np.float64)  # whole numbers, exact to 2^53
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // max(images, 3 * classes))
    values: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=size) @ together
        for name, of in of_counts(*np.split(drawn, 3, axis=1)).items():
            values.setdefault(name, []).append(of)
    tails = [(1 - intervals.LEVEL) / 2, (1 + intervals.LEVEL) / 2]
    ends = {name: np.quantile(np.concatenate(of), tails) for name, of in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def resampler(found: MaskPredictions) -> Callable[[np.ndarray], np.ndarray]:
    """Mean IoU by how often each image counts, as `finetune.task.Judging.resampler` has it."""
    together = np.concatenate(found.counts(), axis=1).astype(np.float64)

    def mean_iou(weights: np.ndarray) -> np.ndarray:
        return of_counts(*np.split(weights @ together, 3, axis=1))["mean_iou"]

    return mean_iou


def per_class(found: MaskPredictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    """IoU, Dice, precision and recall of each class, in pixels; null where there are none to say it of."""
    per_image = found.counts()
    shown = (per_image[1] > 0).sum(axis=0)
    right, true, answered = (of.sum(axis=0).tolist() for of in per_image)
    return [
        {
            "class": name,
            "iou": _share(right[i], true[i] + answered[i] - right[i]) if true[i] else None,
            "dice": _share(2 * right[i], true[i] + answered[i]) if true[i] else None,
            "precision": _share(right[i], answered[i]),
            "recall": _share(right[i], true[i]),
            "pixels": true[i],
            "answered": answered[i],
            "images": int(shown[i]),
        }
        for i, name in enumerate(classes)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def of_images(found: MaskPredictions) -> np.ndarray:
    """float64 `[N]`: the mean IoU of each image over the classes that it shows; NaN of one that is void."""
    counts = found.counts()
    scores = of_counts(*counts)["mean_iou"]
    return np.where(counts[1].sum(axis=1) > 0, scores, np.nan)
