"""What is said of a segmentation besides its scores, and a dataset as another model sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from finetune.console import log
from finetune.errors import ModelError, listing
from finetune.evaluation import calibration, spread
from finetune.task import Score
from finetune.tasks.segmentation import assessment
from finetune.tasks.segmentation.collector import MaskPredictions
from finetune.tasks.segmentation.network import SegmentationNetwork
from finetune.tasks.segmentation.scores import RANKING, VOID

FEW = 30
"""Validation images below which a temperature is said to be rough."""


class Renumbered:
    """Class indices of a dataset -> outputs of a model: a table for masks.

    Args:
        classes: Of the dataset.
        outputs: Names of the model's outputs.

    Raises:
        ModelError: The model lacks a class.
    """

    def __init__(self, classes: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        place = {_plain(name): number for number, name in enumerate(outputs)}
        missing = [name for name in classes if _plain(name) not in place]
        if missing or len(place) < len(outputs):
            raise ModelError(
                f"the dataset's masks have classes that are none of the model's: {listing(missing)}; the model has "
                f"{listing(outputs)}. Leave them out by --ignore-classes, or take another model"
                if missing
                else f"several of the model's classes have one name: {listing(outputs)}"
            )
        self.outputs = np.array([place[_plain(name)] for name in classes], dtype=np.int64)
        self.table = np.arange(256, dtype=np.uint8)
        self.table[: len(classes)] = self.outputs
        self.table[VOID] = VOID


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def outputs_of(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's outputs.

    Raises:
        ModelError: It is no segmentation network.
    """
    if not isinstance(network, SegmentationNetwork):
        raise ModelError(
            "this dataset has masks, and the model gives no mask: give a run of semantic segmentation, or --task for "
            "what else the dataset holds"
        )
    return network.classes


def floors(evaluation: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """Rows of the table that ends a run: title, test, its interval, validation."""
    if found := evaluation.get("majority_class"):
        yield "always one class", found["test"], "", found["validation"]


def remarks(evaluation: dict[str, Any], images: int) -> Iterator[str]:
    """What the numbers of the table rest on.

    Args:
        evaluation: Of result.json.
        images: Of the validation split.
    """
    if found := evaluation.get("majority_class"):
        yield _floor_line(found, evaluation.get("intervals", {}).get("test", {}).get("mean_iou"))
    if absent := evaluation.get("absent", {}).get("test"):
        yield f"no test mask shows {listing(absent)}: left out of the means"
    if seeds := evaluation.get("seeds"):
        yield spread.line(seeds, _first())
    if found := evaluation.get("calibration"):
        test = found["test"]
        text = calibration.line(found["temperature"], test["error"], test["error_calibrated"])
        yield f"{text}, over {found['pixels']['test']:,} pixels"
        if images < FEW:
            yield f"it was fitted on {images} validation images, which are few: it would differ with others"
        if "note" in found:
            yield f"temperature {found['note']}"


def _first() -> Score:
    return RANKING[0]


def _floor_line(found: dict[str, Any], ends: list[float] | None) -> str:
    text = f"always one class: the mean IoU of answering {found['class']!r} everywhere"
    if ends is None:
        return text
    return f"{text}; the model is {'above it' if ends[0] > found['test'] else 'NOT shown to be above it'}"


def reassess(found: MaskPredictions, result: Any, network_temperature: float | None) -> dict[str, Any]:
    """What result.json says of the test split besides the scores, of any split; as `Evaluation` takes it."""
    assessed: dict[str, Any] = {"bootstrapped": assessment.bootstrap(found, result.seed)}
    if "majority_class" in result.evaluation:
        name = result.evaluation["majority_class"]["class"]
        scores = assessment.always(found, result.dataset["classes"].index(name))
        assessed["majority_class"] = {"class": name, "accuracy": scores["mean_iou"]}
    if network_temperature is not None and len(found.targets):
        assessed["calibration"] = {
            "temperature": network_temperature,
            "error": calibration.calibration_error(found.sample),
            "error_calibrated": calibration.calibration_error(found.sample, network_temperature),
        }
    return assessed


def say_matched(count: int, outputs: int) -> None:
    """How a dataset's classes and a model's outputs belong together."""
    log.info(f"classes: {count} of the model's {outputs} outputs, by name")
