"""A model that answers with names and calibrated probabilities: load once, call with images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from finetune.errors import ModelError
from finetune.export.exported import ExportedModel
from finetune.serving.runner import Runner, config_of

TOP = 5
"""Classes that are named where nobody says how many."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        label: Name of the most probable class; None where its probability is below what was asked for.
        confidence: That class's calibrated probability.
        top: Names and calibrated probabilities of the most probable classes, highest first.
    """

    label: str | None
    confidence: float
    top: tuple[tuple[str, float], ...]

    @property
    def abstained(self) -> bool:
        """Whether no class was probable enough."""
        return self.label is None


class Predictor(Runner):
    """A classifier in its inference form, with the preprocessing of its evaluation and its calibration.

        predictor = Predictor("RUN")
        for prediction in predictor(["cat.jpg", Image.open("dog.jpg")], top_k=3):
            print(prediction.label, prediction.confidence)

    Probabilities are those of the model as evaluated, in float32, within 1e-4: BatchNorms are folded, see
    `resnest_timm.optimize`.

    Args:
        model: As `finetune.serving.runner.Runner` takes it.
        options: Of that.

    Attributes:
        temperature: What logits are divided by; fitted on the run's validation split.
        calibrated: Whether the model has such a temperature; else it is 1.
        problem: What the model says it is for, as transformers' `problem_type`.

    Raises:
        ModelError: The model cannot be built or the file not be run, its calibration is not a positive number, or its
            outputs are something else than one class an image.
        ConfigError: There is no such device, or the file's library is not installed.
    """

    problem = "single_label_classification"

    def calibrate(self, config: Mapping[str, Any]) -> None:
        """Take the temperature."""
        self._check(config.get("problem_type"))
        temperature = _temperature(config, self.name)
        self.calibrated = temperature is not None
        self.temperature = 1.0 if temperature is None else temperature

    def calibrate_file(self, found: ExportedModel) -> None:
        """Take the temperature."""
        self._check(found.metadata.get("problem_type"))
        self.temperature, self.calibrated = found.temperature, found.temperature != 1  # export writes 1 where none is

    def _check(self, problem: str | None) -> None:
        """Whether the outputs mean what is made of them: a softmax of anything looks like probabilities."""
        if problem not in (None, self.problem):
            raise ModelError(
                f"{self.name}: expected a model with problem_type {self.problem!r}, got {problem!r}, whose outputs "
                "mean something else: `finetune.predict` and `python -m finetune predict` answer for each kind of model"
            )

    def __call__(
        self, pictures: Iterable[Image.Image | str | Path], top_k: int = TOP, min_confidence: float = 0.0
    ) -> list[Prediction]:
        """Classify images of any mode and orientation.

        Args:
            pictures: Images, or paths of image files.
            top_k: How many classes to name; at most all.
            min_confidence: Abstain where the most probable class is less probable.

        Returns:
            One for each image, in their order.

        Raises:
            DatasetError: An image cannot be read.
        """
        batches = self.prepared(list(pictures))
        return [one for batch in batches for one in self.predict(batch, top_k, min_confidence)]

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Calibrated probabilities.

        Args:
            pixels: float32 `[B, 3, H, W]`, of `transform`.

        Returns:
            float64 `[B, classes]`, on the CPU.

        Raises:
            ModelError: An output is not finite.
        """
        return self.answer(self.outputs(pixels))

    def answer(self, logits: Tensor) -> Tensor:
        """Probabilities of float64 logits `[B, classes]`."""
        probabilities: Tensor = (logits / self.temperature).softmax(dim=1)
        return probabilities

    def shown(self, probabilities: Tensor) -> list[int]:
        """The classes of one image, `[classes]`, that a page shows, the most probable first."""
        found: list[int] = probabilities.topk(min(TOP, len(self.classes))).indices.tolist()
        return found

    def predict(self, pixels: Tensor, top_k: int = TOP, min_confidence: float = 0.0) -> list[Prediction]:
        """The same as a call, of images that have been prepared; see `probabilities`."""
        highest, indices = self.probabilities(pixels).topk(min(top_k, len(self.classes)))
        return [self._prediction(p, i, min_confidence) for p, i in zip(highest.tolist(), indices.tolist(), strict=True)]

    def _prediction(self, highest: Sequence[float], indices: Sequence[int], min_confidence: float) -> Prediction:
        top = tuple((self.classes[i], p) for i, p in zip(indices, highest, strict=True))
        label, confidence = top[0]
        return Prediction(label if confidence >= min_confidence else None, confidence, top)


def fitted_temperature(name: str) -> float | None:
    """The temperature in a model's config.json, if there is one.

    Args:
        name: As `finetune.networks.models.build` takes it; timm's own models have none.

    Raises:
        ModelError: It is not a positive number.
    """
    return _temperature(config_of(name), name)


def _temperature(config: Mapping[str, Any], name: str) -> float | None:
    calibration = config.get("calibration")
    if calibration is None:
        return None
    temperature: Any = calibration.get("temperature") if isinstance(calibration, dict) else calibration
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ModelError(
            f'{name}: expected "calibration": {{"temperature": a positive number}} in config.json, got {calibration!r}'
        )
    return float(temperature)
