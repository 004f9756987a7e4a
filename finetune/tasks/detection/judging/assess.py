"""result.json's `evaluation` of a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune.evaluation import calibration, intervals
from finetune.tasks.detection.judging import errors, precision, threshold
from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.judging.matches import match

FEW = 100
"""Validation images below which a threshold and a temperature are said to be rough."""


def assess(validation: Detected, test: Detected, classes: Sequence[str], seed: int) -> dict[str, Any]:
    """The entry, without the pictures.

    Args:
        validation: What the threshold and the temperature are fitted on.
        test: What all else is measured on.
        classes: Names, in order.
        seed: Of the bootstrap.
    """
    fitted, found = match(validation, len(classes)), match(test, len(classes))
    shown = threshold.best(fitted)
    entry: dict[str, Any] = {
        "threshold": {"score": shown, "fitted_on": "validation", "overlap": 0.5},
        "intervals": {
            "level": intervals.LEVEL,
            "resamples": precision.drawn(found),
            "seed": seed,
            "method": "percentile bootstrap over images",
            "test": ends(test, len(classes), seed),
        },
        "per_class": {"test": per_class(test, shown, classes)},
        "errors": {"test": errors.kinds(test, shown)},
        "figures": {},
    }
    temperature = threshold.fit_temperature(fitted)
    if temperature is not None:
        entry["calibration"] = {
            "temperature": temperature,
            "fitted_on": "the found objects of the validation images",
            "bins": calibration.BINS,
            "test": {"error": threshold.error(found), "error_calibrated": threshold.error(found, temperature)},
        }
    return entry


def ends(test: Detected, classes: int, seed: int) -> dict[str, list[float]]:
    """Intervals of the scores, by their names."""
    found = precision.intervals(match(test, classes), seed)
    if test.masks:
        of_masks = precision.intervals(match(test, classes, masks=True), seed)
        found |= {f"mask_{name}": pair for name, pair in of_masks.items()}
    return found


def per_class(test: Detected, shown: float, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: AP, recall at any score, and what is right at the threshold; null where nothing is there."""
    found = match(test, len(classes))
    once = np.ones((1, len(found.wanted)))
    averages = precision.average_precision(found, once)[0]
    rows = threshold.at_threshold(found, shown, classes)
    of_masks = precision.average_precision(match(test, len(classes), masks=True), once)[0] if test.masks else None
    for label, row in enumerate(rows):
        there = row["support"]
        reached = found.true[found.label == label].sum(0)
        row["ap"] = float(averages[label].mean()) if there else None
        row["ap_50"] = float(averages[label, 0]) if there else None
        row["ar"] = float((reached / there).mean()) if there else None
        if of_masks is not None:
            row["mask_ap"] = float(of_masks[label].mean()) if there else None
    return rows


def remarks(evaluation: dict[str, Any], images: int) -> Iterator[str]:
    """What the numbers of the table rest on, a line each.

    Args:
        evaluation: Of result.json.
        images: Of the validation split.
    """
    shown = evaluation["threshold"]["score"]
    rows = [row for row in evaluation["per_class"]["test"] if row["support"]]
    weakest = min(rows, key=lambda row: row["ap"], default=None)
    if weakest is not None and len(rows) > 1:
        yield f"the weakest class is {weakest['class']!r}: AP {weakest['ap']:.4f}"
    counts = evaluation["errors"]["test"]
    kinds = ", ".join(f"{name} {counts[name]}" for name in errors.KINDS if counts.get(name))
    yield f"shown from score {shown:.3f} on (the highest F1 on validation): {counts['right']} right; {kinds}"
    if found := evaluation.get("calibration"):
        of_test = found["test"]
        yield calibration.line(found["temperature"], of_test["error"], of_test["error_calibrated"])
        if of_test["error_calibrated"] > of_test["error"]:
            yield "the temperature does not help on the test images: their calibration error is higher with it"
    if images < FEW:
        yield f"threshold and temperature were fitted on {images} validation images, which are few"
