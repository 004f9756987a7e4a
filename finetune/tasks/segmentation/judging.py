"""What is said of a segmentation besides its scores, and a dataset as another model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError, listing
from finetune.evaluation import calibration, spread
from finetune.task import Inputs
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
        yield spread.line(seeds, RANKING[0])
    if found := evaluation.get("calibration"):
        test = found["test"]
        text = calibration.line(found["temperature"], test["error"], test["error_calibrated"])
        yield f"{text}, over {found['pixels']['test']:,} pixels"
        if images < FEW:
            yield f"it was fitted on {images} validation images, which are few: it would differ with others"
        if "note" in found:
            yield f"temperature {found['note']}"


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


@dataclass(frozen=True)
class RenumberedImages(LabelledImages):
    """A dataset whose masks are to have a model's outputs in place of its own class indices.

    Attributes:
        table: uint8 `[256]`.
    """

    table: np.ndarray = field(default_factory=lambda: np.arange(256, dtype=np.uint8))


class RenumberedInputs:
    """`finetune.task.Inputs` whose masks are renumbered; for evaluation.

    Args:
        inputs: The dataset's.
        table: uint8 `[256]`.
    """

    def __init__(self, inputs: Inputs, table: np.ndarray) -> None:
        self.inputs, self.table, self.columns = inputs, torch.from_numpy(table), inputs.columns

    def training(self, image: Image.Image, target: Any) -> tuple[Tensor, Any]:
        """As the dataset's."""
        return self.inputs.training(image, target)

    def evaluation(self, image: Image.Image, target: Any) -> tuple[Tensor, Tensor]:
        """The image, and the mask in the model's outputs."""
        pixels, mask = self.inputs.evaluation(image, target)
        return pixels, self.table[mask.long()]

    def collate(self, targets: Sequence[Any]) -> Any:
        """As the dataset's."""
        return self.inputs.collate(targets)


def aligned(data: LabelledImages, network: nn.Module) -> tuple[LabelledImages, int, dict[str, Any]]:
    """A dataset's test split with the outputs of a network in its masks, matched by name.

    Returns:
        The dataset, the number of outputs, and what the evaluation says of it.

    Raises:
        ModelError: The dataset's classes are not the network's.
    """
    outputs, classes = outputs_of(network), data.schema.classes
    found = Renumbered(classes, outputs)
    log.info(f"classes: {len(classes)} of the model's {len(outputs)} outputs, by name")
    known = {of.name: getattr(data, of.name) for of in fields(data)}
    return RenumberedImages(**known, table=found.table), len(outputs), {"classes": len(classes), "classes_by": "name"}
