"""What is said of a classifier besides its scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.data.splits import SplitRows, Splits
from finetune.evaluation import calibration, intervals, labels, spread
from finetune.evaluation.comparing.judged import Judged, one_of
from finetune.evaluation.metrics import SCORES, TOP_K
from finetune.evaluation.predictions import Predictions
from finetune.runs.result import RunResult

FEW = 100
"""Validation images below which a temperature is said to be rough."""


def aligned(data: LabelledImages, model: nn.Module) -> tuple[LabelledImages, int, dict[str, Any]]:
    """A dataset's test split with the outputs of any model as targets, matched by name.

    Returns:
        The dataset, the number of outputs, and what the evaluation says of it.

    Raises:
        ModelError: The dataset's classes are not the model's.
    """
    count = len(data.schema.classes)
    mapping = labels.match(data.schema.classes, model)
    log.info(f"classes: {count} of the model's {mapping.num_outputs} outputs, by {mapping.rule}")
    part = data.splits.parts["test"]
    mapped = SplitRows(part.source, part.rows, mapping.outputs[part.targets], part.whole)
    target = dataclasses.replace(data, splits=Splits({"test": mapped}))
    return target, mapping.num_outputs, {"classes": count, "classes_by": mapping.rule}


def reassess(found: Predictions, result: RunResult, model: Path) -> dict[str, Any]:
    """What result.json says of the test split besides the scores, of any split; as `Evaluation` takes it."""
    drawn = intervals.bootstrap(found.pairs(), found.num_classes, result.seed)
    assessed: dict[str, Any] = {"bootstrapped": drawn.ends}
    if "majority_class" in result.evaluation:
        name = result.evaluation["majority_class"]["class"]
        share = (found.targets == result.dataset["classes"].index(name)).double().mean().item()
        assessed["majority_class"] = {"class": name, "accuracy": share}
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if "calibration" in config:
        temperature = config["calibration"]["temperature"]
        assessed["calibration"] = {
            "temperature": temperature,
            "error": calibration.calibration_error(found),
            "error_calibrated": calibration.calibration_error(found, temperature),
        }
    return assessed


def judged(found: Predictions, classes: Sequence[str]) -> Judged:
    """Predictions as statistics take them: an image is right or wrong.

    Args:
        found: Logits over `classes`.
        classes: Names of the outputs.
    """
    labels, targets = found.labels.numpy(), found.targets.numpy()
    return Judged(
        scores=_weighted(found),
        values=found.correct.double().numpy(),
        worth=SCORES[0],
        right=found.correct.numpy(),
        said=[classes[label] for label in labels],
        true=[classes[target] for target in targets],
        shows=one_of(targets, len(classes)),
        names=classes,
    )


def _weighted(found: Predictions) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The scores of resamples, see `Judged.scores`; the same definitions as in `finetune.evaluation.metrics`."""
    targets, labels, classes = found.targets.numpy(), found.labels.numpy(), found.num_classes
    losses = torch.nn.functional.cross_entropy(found.logits.double(), found.targets, reduction="none").numpy()
    top = found.logits.topk(min(TOP_K, classes), dim=1).indices
    near = (top == found.targets[:, None]).any(dim=1).double().numpy()

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        accuracy, balanced, f1 = intervals.weighted(weights, targets, labels, classes)
        total = weights.sum(axis=1)
        values = {"accuracy": accuracy, "macro_f1": f1, "balanced_accuracy": balanced, "loss": weights @ losses / total}
        return values if classes <= TOP_K else values | {"top5_accuracy": weights @ near / total}

    return scores


def floors(evaluation: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """Rows of the table that ends a run: title, test, its interval, validation."""
    if floor := evaluation.get("majority_class"):
        yield "always one class", floor["test"], "", floor["validation"]
    if probe := evaluation.get("probe"):
        low, high = probe["intervals"]["test"]["accuracy"]
        yield "linear probe", probe["test"]["accuracy"], f"[{low:.4f}, {high:.4f}]", probe["validation"]["accuracy"]


def remarks(evaluation: dict[str, Any], images: int) -> Iterator[str]:
    """What the numbers of the table rest on.

    Args:
        evaluation: Of result.json.
        images: Of the validation split.
    """
    if "majority_class" in evaluation:
        yield _floor_line(evaluation)
    if probe := evaluation.get("probe"):
        yield probe_line(probe)
    if seeds := evaluation.get("seeds"):
        yield spread.line(seeds)
    if found := evaluation.get("calibration"):
        test = found["test"]
        yield calibration.line(found["temperature"], test["error"], test["error_calibrated"])
        if test["error_calibrated"] > test["error"]:
            yield "the temperature does not help on the test images: their calibration error is higher with it"
        if images < FEW:
            yield f"it was fitted on {images} validation images, which are few: it would differ with others"
        if "note" in found:
            yield f"temperature {found['note']}"


def _floor_line(evaluation: dict[str, Any]) -> str:
    """What the floor is, and whether the model is shown to be above it."""
    floor = evaluation["majority_class"]
    text = f"always one class: the accuracy of answering {floor['class']!r} every time"
    ends = evaluation.get("intervals", {}).get("test", {}).get("accuracy")
    if ends is None:
        return text
    return f"{text}; the model is {'above it' if ends[0] > floor['test'] else 'NOT shown to be above it'}"


def probe_line(probe: dict[str, Any]) -> str:
    """One line on the linear probe, for people."""
    text = f"linear probe: the accuracy of a logistic regression on the frozen features of {probe['images']} images"
    if "difference" not in probe:
        return text
    difference = probe["difference"]
    low, high = difference["interval"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "not to be told apart"
    return f"{text}; against it {difference['accuracy']:+.4f} [{low:+.4f}, {high:+.4f}] on test: {verdict}"
