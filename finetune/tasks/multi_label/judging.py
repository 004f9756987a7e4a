"""What result.json says of a multi-label classifier beyond its scores, and how that is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.data.splits import SplitRows, Splits
from finetune.errors import listing
from finetune.evaluation import calibration as common
from finetune.evaluation import labels, spread
from finetune.evaluation.intervals import LEVEL
from finetune.networks.linear_probe import Epoch0
from finetune.runs.result import RunResult
from finetune.tasks.multi_label.measures import calibration, intervals, metrics, precision
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions
from finetune.tasks.multi_label.values import UNKNOWN

FEW = 100
"""Validation images below which thresholds and temperature are said to be rough."""
LARGEST_MATRIX = 100
"""Classes up to which result.json says which classes are taken for which."""


def add(
    result: RunResult,
    predictions: Mapping[str, MultiLabelPredictions],
    data: LabelledImages,
    epoch0: Epoch0 | None = None,
    theirs: MultiLabelPredictions | None = None,
) -> RunResult:
    """A run's result with its `evaluation` entry.

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
    validation, test = predictions["validation"], predictions["test"]
    answered = precision.thresholds(*validation.arrays())
    entry, drawn = assess(validation, test, answered, data.schema.classes, result.seed)
    if epoch0 is not None and theirs is not None:
        entry["probe"] = _probe(epoch0, theirs, test, drawn, answered)
    return dataclasses.replace(result, evaluation=result.evaluation | entry)


def assess(
    validation: MultiLabelPredictions,
    test: MultiLabelPredictions,
    answered: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> tuple[dict[str, Any], intervals.Resampled]:
    """The `evaluation` entry of result.json without probe and pictures, and the resamples.

    Args:
        validation: The temperature is fitted on it.
        test: Everything is measured on it.
        answered: float64 `[K]`, logits from which on a class is answered.
        classes: Names, in order.
        seed: Of the bootstrap.
    """
    spans, drawn = intervals.summary(*test.arrays(), answered, seed)
    found = calibration.fit_temperature(validation)
    usable = found is not None and bool(torch.isfinite(test.logits).all())
    temperature = found.value if found is not None and usable else 1.0
    limits = torch.sigmoid(torch.from_numpy(answered) / temperature).tolist()
    wrong = _wrong(test, answered)
    entry: dict[str, Any] = {
        "prevalence": {role: _prevalence(of) for role, of in (("validation", validation), ("test", test))},
        "intervals": spans,
        "per_class": {"test": per_class(test, answered, limits, classes)},
        "thresholds": {"fitted_on": "validation", "by": "F1", "values": limits},
        "mistakes": {"count": int(wrong.any(axis=1).sum()), "pairs": int(wrong.sum()), "shown": 0},
        "figures": {},
    }
    if len(classes) <= LARGEST_MATRIX:
        entry["confusion"] = {"test": taken_for(test, answered).tolist()}
    if found is not None and usable:
        entry["calibration"] = calibration.summary(test, found)
    return entry, drawn


def per_class(
    found: MultiLabelPredictions, answered: np.ndarray, limits: Sequence[float], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Average precision, precision, recall, F1, counts and threshold of each class; null where there is none."""
    logits, targets = found.arrays()
    each = precision.per_class(logits, targets)
    asked, shown = metrics.answers(logits, answered) & (targets != UNKNOWN), targets > 0
    right, counts, support = (asked & shown).sum(axis=0), asked.sum(axis=0), shown.sum(axis=0)
    return [
        {
            "class": name,
            "average_precision": None if np.isnan(each[k]) else float(each[k]),
            "precision": _share(right[k], counts[k]),
            "recall": _share(right[k], support[k]),
            "f1": _share(2 * right[k], counts[k] + support[k]),
            "support": int(support[k]),
            "predicted": int(counts[k]),
            "known": int((targets[:, k] != UNKNOWN).sum()),
            "threshold": limits[k],
        }
        for k, name in enumerate(classes)
    ]


def taken_for(found: MultiLabelPredictions, answered: np.ndarray) -> np.ndarray:
    """int64 `[K, K]`: images in which the first class is missed and the second invented; on the diagonal all missed."""
    logits, targets = found.arrays()
    asked = metrics.answers(logits, answered)
    missed, invented = (targets > 0) & ~asked, (targets == 0) & asked
    matrix: np.ndarray = missed.T.astype(np.int64) @ invented.astype(np.int64)
    np.fill_diagonal(matrix, missed.sum(axis=0))
    return matrix


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _wrong(found: MultiLabelPredictions, answered: np.ndarray) -> np.ndarray:
    """Bool `[N, K]`, pairs that are known and answered wrongly."""
    logits, targets = found.arrays()
    wrong: np.ndarray = (metrics.answers(logits, answered) != (targets > 0)) & (targets != UNKNOWN)
    return wrong


def _prevalence(found: MultiLabelPredictions) -> float:
    """The mean average precision of answers that do not look: the mean share of images that show a class."""
    targets = found.targets.numpy()
    shown, known = (targets > 0).sum(axis=0), (targets >= 0).sum(axis=0)
    return float((shown / np.maximum(known, 1))[shown > 0].mean()) if shown.any() else 0.0


def _probe(
    found: Epoch0,
    theirs: MultiLabelPredictions,
    ours: MultiLabelPredictions,
    drawn: intervals.Resampled,
    answered: np.ndarray,
) -> dict[str, Any]:
    """The linear probe's numbers, and what the model has over it."""
    same = intervals.bootstrap(*theirs.arrays(), answered, drawn.seed)  # F1 of it is at other thresholds
    key = "mean_average_precision"
    entry: dict[str, Any] = {
        "images": found.probe.images,
        "strength": found.probe.strength,
        "chosen_by": found.probe.chosen_by,
        **found.scores,
        "intervals": {"level": LEVEL, "test": {key: list(same.ends()[key])}},
        "seconds": round(found.seconds, 3),
    }
    if not torch.equal(theirs.logits, ours.logits):
        gains = drawn.values[key] - same.values[key]
        low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        gain = float(
            np.nanmean(precision.per_class(*ours.arrays())) - np.nanmean(precision.per_class(*theirs.arrays()))
        )
        entry["difference"] = {key: gain, "interval": [float(low), float(high)]}
    return entry


def aligned(data: LabelledImages, model: nn.Module) -> tuple[LabelledImages, int, dict[str, Any]]:
    """A dataset's test split with the outputs of any model as targets, matched by name; other outputs are unknown.

    Raises:
        ModelError: The dataset's classes are not the model's.
    """
    count = len(data.schema.classes)
    mapping = labels.match(data.schema.classes, model)
    log.info(f"classes: {count} of the model's {mapping.num_outputs} outputs, by {mapping.rule}")
    part = data.splits.parts["test"]
    targets = np.full((len(part.rows), mapping.num_outputs), UNKNOWN, dtype=np.int8)
    targets[:, mapping.outputs] = part.targets
    mapped = SplitRows(part.source, part.rows, targets, part.whole)
    target = dataclasses.replace(data, splits=Splits({"test": mapped}))
    return target, mapping.num_outputs, {"classes": count, "classes_by": mapping.rule}


def reassess(found: MultiLabelPredictions, result: RunResult, model: Path) -> dict[str, Any]:
    """What result.json says of the test split besides the scores, of any split; as `Evaluation` takes it."""
    known = json.loads((model / "config.json").read_text(encoding="utf-8")).get("calibration", {})
    temperature = known.get("temperature", 1.0)
    answered = logits_of(known.get("thresholds"), temperature, found.logits.shape[1])
    spans, _ = intervals.summary(*found.arrays(), answered, result.seed)
    assessed: dict[str, Any] = {"bootstrapped": {name: tuple(ends) for name, ends in spans["test"].items()}}
    if "temperature" in known:
        assessed["calibration"] = {
            "temperature": temperature,
            "error": calibration.error(found),
            "error_calibrated": calibration.error(found, temperature),
        }
    return assessed


def logits_of(limits: Sequence[float] | None, temperature: float, count: int) -> np.ndarray:
    """Thresholds of probabilities as those of logits, float64 `[count]`; a half where none are given."""
    if limits is None or len(limits) != count:
        return np.zeros(count)
    shares = np.clip(np.array(limits, dtype=np.float64), 1e-300, 1 - 2**-53)
    found: np.ndarray = (np.log(shares) - np.log1p(-shares)) * temperature
    return found


# --- Words


def floors(evaluation: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """Rows of the table that ends a run: title, test, its interval, validation."""
    if floor := evaluation.get("prevalence"):
        yield "prevalence", floor["test"], "", floor["validation"]
    if probe := evaluation.get("probe"):
        key = "mean_average_precision"
        low, high = probe["intervals"]["test"][key]
        yield "linear probe", probe["test"][key], f"[{low:.4f}, {high:.4f}]", probe["validation"][key]


def remarks(evaluation: dict[str, Any], images: int) -> Iterator[str]:
    """What the numbers of the table rest on.

    Args:
        evaluation: Of result.json.
        images: Of the validation split.
    """
    if floor := evaluation.get("prevalence"):
        low = evaluation["intervals"]["test"]["mean_average_precision"][0]
        verdict = "above it" if low > floor["test"] else "NOT shown to be above it"
        yield f"prevalence: the mean average precision of answers that do not look; the model is {verdict}"
    rows = evaluation.get("per_class", {}).get("test", [])
    if absent := [row["class"] for row in rows if row["average_precision"] is None]:
        yield f"no test image shows {listing(absent)}: not in the mean"
    if probe := evaluation.get("probe"):
        yield _probe_line(probe)
    if seeds := evaluation.get("seeds"):
        yield spread.line(seeds, metrics.SCORES[0])
    yield "F1 and exact match: at each class's threshold, fitted on validation"
    if found := evaluation.get("calibration"):
        test = found["test"]
        yield common.line(found["temperature"], test["error"], test["error_calibrated"])
        if test["error_calibrated"] > test["error"]:
            yield "the temperature does not help on the test images: their calibration error is higher with it"
        if "note" in found:
            yield f"temperature {found['note']}"
    if images < FEW:
        yield f"both were fitted on {images} validation images, which are few: they would differ with others"


def _probe_line(probe: dict[str, Any]) -> str:
    """One line on the linear probe, for people."""
    text = f"linear probe: a logistic regression for each class, on the frozen features of {probe['images']} images"
    if "difference" not in probe:
        return text
    difference = probe["difference"]
    low, high = difference["interval"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "not to be told apart"
    gain = difference["mean_average_precision"]
    return f"{text}; against it {gain:+.4f} [{low:+.4f}, {high:+.4f}] on test: {verdict}"
