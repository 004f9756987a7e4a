"""What is said of a regression besides its scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError
from finetune.evaluation import intervals as classes_intervals
from finetune.evaluation import labels, spread
from finetune.evaluation.comparing.judged import Judged
from finetune.networks.linear_probe import Epoch0
from finetune.runs.result import RunResult
from finetune.tasks.regression import conformal, intervals
from finetune.tasks.regression.metrics import RANKING
from finetune.tasks.regression.predictions import NumberPredictions

FEW = 100
"""Validation images below which an interval for single predictions is said to be rough."""


def assess(
    result: RunResult,
    predictions: dict[str, NumberPredictions],
    data: LabelledImages,
    epoch0: Epoch0 | None = None,
    theirs: NumberPredictions | None = None,
) -> RunResult:
    """A run's result with its `evaluation` entry, without the pictures.

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
    test, validation = predictions["test"], predictions["validation"]
    entry: dict[str, Any] = {
        "median": median(data.splits.parts["train"].targets, predictions),
        "intervals": {
            "level": classes_intervals.LEVEL,
            "resamples": classes_intervals.RESAMPLES,
            "seed": result.seed,
            "method": intervals.METHOD,
            "test": _ends(test, result.seed),
        },
        "mistakes": {"count": len(test.values), "shown": 0},
        "figures": {},
    }
    calibration = conformal.summary(validation.errors, test.errors)
    if calibration is not None:
        entry["calibration"] = calibration
    if epoch0 is not None and theirs is not None:
        entry["probe"] = probe(epoch0, theirs, test, result.seed)
    return dataclasses.replace(result, evaluation=result.evaluation | entry)


def median(train: np.ndarray, predictions: dict[str, NumberPredictions]) -> dict[str, float]:
    """The median of the training numbers, and the mean absolute error of always answering it."""
    value = float(np.median(train.astype(np.float64)))
    return {"value": value, **{role: _mae(of.targets, value) for role, of in predictions.items()}}


def _mae(targets: torch.Tensor, value: float) -> float:
    return float((targets.double() - value).abs().mean())


def _ends(found: NumberPredictions, seed: int) -> dict[str, list[float]]:
    drawn = intervals.bootstrap(found.values.double().numpy(), found.targets.double().numpy(), seed)
    return {name: list(ends) for name, ends in drawn.items()}


def probe(found: Epoch0, theirs: NumberPredictions, ours: NumberPredictions, seed: int) -> dict[str, Any]:
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
        "intervals": {"level": classes_intervals.LEVEL, "method": intervals.METHOD, "test": _ends(theirs, seed)},
        "seconds": round(found.seconds, 3),
    }
    if not torch.allclose(theirs.values, ours.values, rtol=1e-4, atol=0):
        gain, ends = intervals.paired(np.abs(ours.errors), np.abs(theirs.errors), seed)
        entry["difference"] = {"mae": gain, "interval": list(ends)}
    return entry


def aligned(data: LabelledImages, model: nn.Module) -> tuple[LabelledImages, int, dict[str, Any]]:
    """A dataset as another model sees it: the number of both is taken to be the same, in the same unit.

    Raises:
        ModelError: The model gives more than one number.
    """
    described: Any = model
    outputs = int(described.num_classes)
    if outputs != 1:
        raise ModelError(f"expected a model with one output, a number, got one with {outputs}: name another model")
    return data, 1, {"number": labels.names(model)[0], "column": data.schema.target_column}


def reassess(found: NumberPredictions, result: RunResult, model: Path) -> dict[str, Any]:
    """What result.json says of the test split besides the scores, of any split; as `Evaluation` takes it."""
    assessed: dict[str, Any] = {"bootstrapped": {name: tuple(ends) for name, ends in _ends(found, result.seed).items()}}
    notes = []
    if known := result.evaluation.get("median"):
        value = known["value"]
        notes.append(f"always the median ({value:.4g}): mean absolute error {_mae(found.targets, value):.6g}")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if calibration := config.get("calibration"):
        covered = conformal.coverage(found.errors, calibration["half_width"])
        notes.append(_coverage_line(calibration, covered))
    return assessed | {"notes": notes}


def judged(found: NumberPredictions) -> Judged:
    """Predictions as statistics take them: of an image its absolute error counts."""
    values, targets = found.values.double().numpy(), found.targets.double().numpy()
    return Judged(
        scores=intervals.weighted(values, targets),
        values=np.abs(values - targets),
        worth=RANKING[0],
        right=None,
        said=[f"{value:.4g}" for value in values],
        true=[f"{value:.4g}" for value in targets],
        shows=np.zeros((len(targets), 0), dtype=bool),
        names=(),
    )


def floors(evaluation: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """Rows of the table that ends a run: title, test, its interval, validation."""
    if floor := evaluation.get("median"):
        yield "always the median", floor["test"], "", floor["validation"]
    if found := evaluation.get("probe"):
        low, high = found["intervals"]["test"]["mae"]
        yield "linear probe", found["test"]["mae"], f"[{low:.4f}, {high:.4f}]", found["validation"]["mae"]


def remarks(evaluation: dict[str, Any], images: int) -> Iterator[str]:
    """What the numbers of the table rest on.

    Args:
        evaluation: Of result.json.
        images: Of the validation split.
    """
    if "median" in evaluation:
        yield _floor_line(evaluation)
    if found := evaluation.get("probe"):
        yield _probe_line(found)
    if seeds := evaluation.get("seeds"):
        yield spread.line(seeds, RANKING[0])
    if calibration := evaluation.get("calibration"):
        yield _coverage_line(calibration, calibration["test"]["coverage"])
        if images < FEW:
            yield f"it was fitted on {images} validation images, which are few: it would differ with others"
    elif "median" in evaluation:
        yield f"no interval for single predictions: {images} validation images are too few to fit one, 9 are needed"


def _coverage_line(calibration: dict[str, Any], covered: float) -> str:
    return (
        f"single predictions: +- {calibration['half_width']:.4g} is meant to hold {100 * calibration['level']:g} % of "
        f"images, and holds {100 * covered:.1f} % of these"
    )


def _floor_line(evaluation: dict[str, Any]) -> str:
    """What the floor is, and whether the model is shown to be below it."""
    floor = evaluation["median"]
    text = f"always the median: the mean absolute error of answering {floor['value']:.4g} every time"
    ends = evaluation.get("intervals", {}).get("test", {}).get("mae")
    if ends is None:
        return text
    return f"{text}; the model is {'below it' if ends[1] < floor['test'] else 'NOT shown to be below it'}"


def _probe_line(found: dict[str, Any]) -> str:
    """What the training has brought over the linear probe, and whether it is shown."""
    text = f"linear probe: ridge regression on the frozen features of {found['images']} training images"
    difference = found.get("difference")
    if difference is None:
        return f"{text}; the model gives the same numbers"
    low, high = difference["interval"]
    sure = "lower" if high < 0 else "higher" if low > 0 else "NOT shown to be lower"
    return f"{text}; the model's error minus its: {difference['mae']:.4g} [{low:.4g}, {high:.4g}], {sure}"
