"""A model that answers with a number and its interval: load once, call with images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from finetune.errors import ModelError
from finetune.export.exported import ExportedModel
from finetune.serving.runner import Runner
from finetune.tasks.regression import saving
from finetune.tasks.regression.saving import Interval


@dataclass(frozen=True)
class NumberPrediction:
    """What a model says of one image.

    Attributes:
        value: In the dataset's unit.
        low: Lower end of the interval; None of a model without one.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


class NumberPredictor(Runner):
    """A regression in its inference form, with the preprocessing of its evaluation and its interval.

        predictor = NumberPredictor("RUN")
        for prediction in predictor(["cat.jpg", Image.open("dog.jpg")]):
            print(prediction.value, prediction.low, prediction.high)

    Args:
        model: As `finetune.serving.runner.Runner` takes it.
        options: Of that.

    Attributes:
        interval: How far a prediction may be off; None of a model without one.

    Raises:
        ModelError: The model cannot be built, or gives something else than one number.
    """

    interval: Interval | None

    def calibrate(self, config: Mapping[str, Any]) -> None:
        """Take the interval."""
        if len(self.classes) != 1:
            raise ModelError(f"{self.name}: expected a model with one output, a number, got {len(self.classes)}")
        self.interval = saving.interval_of(config, self.name)

    def calibrate_file(self, found: ExportedModel) -> None:
        """Take the interval."""
        self.calibrate({"calibration": json.loads(found.metadata.get("calibration", "null"))})

    def __call__(self, pictures: Iterable[Image.Image | str | Path]) -> list[NumberPrediction]:
        """Answer for images of any mode and orientation, or paths of image files; in their order.

        Raises:
            DatasetError: An image cannot be read.
        """
        return [one for batch in self.prepared(list(pictures)) for one in self.predict(batch)]

    def predict(self, pixels: Tensor) -> list[NumberPrediction]:
        """What is said of prepared images, float32 `[B, 3, H, W]`.

        Raises:
            ModelError: An output is not finite.
        """
        width = None if self.interval is None else self.interval.half_width
        return [
            NumberPrediction(value, None if width is None else value - width, None if width is None else value + width)
            for value in self.outputs(pixels)[:, 0].tolist()
        ]
