"""What result.json says beyond the scores: how sure they are, where the model fails, what its confidence means."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores

from finetune.data.dataset import LabelledImages
from finetune.evaluation import calibration, intervals
from finetune.evaluation.predictions import Predictions
from finetune.networks.linear_probe import Epoch0
from finetune.runs.result import RunResult
from finetune.runs.runfolder import write_text
from finetune.text import cell

LARGEST_MATRIX = 100
"""Classes up to which result.json has the whole confusion matrix."""
MISTAKES_SHOWN = 24


def add(
    result: RunResult,
    predictions: dict[str, Predictions],
    data: LabelledImages,
    epoch0: Epoch0 | None = None,
    theirs: Predictions | None = None,
) -> RunResult:
    """A run's result with its `evaluation` entry, see `assess`.

    Args:
        result: Without it.
        predictions: By role.
        data: With the splits.
        epoch0: The linear probe, if there is one.
        theirs: Its predictions of the test images.

    Raises:
        RuntimeError: The predictions are not in the order of the splits' rows, which would be a bug of ours.
    """
    for role, found in predictions.items():
        if not np.array_equal(found.targets.numpy(), data.splits.parts[role].targets):
            raise RuntimeError(f"the predictions of {role} are not those of its rows in their order")
    labels, classes = data.splits.parts["train"].targets, data.schema.classes
    entry = assess(predictions["validation"], predictions["test"], labels, classes, result.seed)
    if epoch0 is not None and theirs is not None:
        entry["probe"] = probe(epoch0, theirs, predictions["test"], result.seed)
    return dataclasses.replace(result, evaluation=result.evaluation | entry)


def assess(
    validation: Predictions, test: Predictions, train_labels: np.ndarray, classes: Sequence[str], seed: int
) -> dict[str, Any]:
    """The `evaluation` entry of result.json, without the pictures.

    Args:
        validation: The calibration is fitted on it.
        test: Everything is measured on it.
        train_labels: int64, class indices of the training images.
        classes: Names, in order.
        seed: Of the bootstrap.
    """
    entry: dict[str, Any] = {
        "majority_class": majority_class(train_labels, classes, {"validation": validation, "test": test}),
        "intervals": {
            "level": intervals.LEVEL,
            "resamples": intervals.RESAMPLES,
            "seed": seed,
            **score_intervals(test, seed),
        },
        "per_class": {"test": per_class(test, classes)},
        "mistakes": {"count": int((~test.correct).sum()), "shown": 0},
        "figures": {},
    }
    if len(classes) <= LARGEST_MATRIX:
        matrix = multiclass_confusion_matrix(test.labels, test.targets, num_classes=len(classes))
        entry["confusion"] = {"test": matrix.tolist()}
    temperature = calibration.fit_temperature(validation)
    if temperature is not None and torch.isfinite(test.logits).all():
        entry["calibration"] = calibration.summary(test, temperature)
    return entry


def probe(found: Epoch0, theirs: Predictions, ours: Predictions, seed: int) -> dict[str, Any]:
    """The linear probe's numbers, and what the model has over it.

    Args:
        found: The probe.
        theirs: Its predictions of the test images.
        ours: The model's.
        seed: Of the bootstrap.
    """
    entry: dict[str, Any] = {
        "images": found.probe.images,
        "strength": found.probe.strength,
        "chosen_by": found.probe.chosen_by,
        **found.scores,
        "intervals": {"level": intervals.LEVEL, **score_intervals(theirs, seed)},
        "seconds": round(found.seconds, 3),
    }
    if not torch.equal(theirs.labels, ours.labels):
        gain, ends = intervals.paired(ours.correct.numpy(), theirs.correct.numpy(), seed)
        entry["difference"] = {"accuracy": gain, "interval": list(ends)}
    return entry


def majority_class(
    train_labels: np.ndarray, classes: Sequence[str], splits: dict[str, Predictions]
) -> dict[str, str | float]:
    """The class of most training images (the first of several), and the accuracy of always answering it."""
    index = int(np.bincount(train_labels, minlength=len(classes)).argmax())
    shares = {role: float((of.targets == index).double().mean()) for role, of in splits.items()}
    return {"class": classes[index], **shares}


def score_intervals(test: Predictions, seed: int) -> dict[str, Any]:
    """Method and ends of the test scores' intervals."""
    found = intervals.bootstrap(test.pairs(), test.num_classes, seed)
    return {"method": found.method, "test": {name: list(ends) for name, ends in found.ends.items()}}


def per_class(predictions: Predictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1, and how many images are of a class and predicted as it; null where there are none.

    Args:
        predictions: Of C classes.
        classes: Names, C of them.
    """
    counts = multiclass_stat_scores(
        predictions.labels, predictions.targets, num_classes=len(classes), average=None
    ).tolist()  # [C][5]: true positives, false positives, true negatives, false negatives, support
    return [
        {
            "class": name,
            "precision": _share(right, right + wrong),
            "recall": _share(right, support),
            "f1": _share(2 * right, right + wrong + support),
            "support": support,
            "predicted": right + wrong,
        }
        for name, (right, wrong, _, _, support) in zip(classes, counts, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table as CSV; what is null is empty, and text that a spreadsheet would compute begins with '."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def mistakes(test: Predictions, temperature: float, data: LabelledImages) -> list[dict[str, Any]]:
    """All mistakes on the test images, the most sure first: where the image is, its class, what it was taken for."""
    found = worst(test, temperature, len(test.targets))
    part, classes = data.splits.parts["test"], data.schema.classes
    files = data.files("test", [place for place, _, _ in found])
    return [
        {
            "split": part.source,
            "row": int(part.rows[place]),
            "file": file,
            "class": classes[int(test.targets[place])],
            "predicted": classes[label],
            "confidence": f"{confidence:.4f}",
        }
        for (place, label, confidence), file in zip(found, files, strict=True)
    ]


def worst(test: Predictions, temperature: float, count: int = MISTAKES_SHOWN) -> list[tuple[int, int, float]]:
    """The most confident mistakes: index in the split, predicted class, its calibrated probability; most sure first."""
    confidences = test.confidences(temperature)
    wrong = (~test.correct).nonzero()[:, 0]
    order = wrong[confidences[wrong].argsort(descending=True, stable=True)][:count]
    return [(int(i), int(test.labels[i]), float(confidences[i])) for i in order]
