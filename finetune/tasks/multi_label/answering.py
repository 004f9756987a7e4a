"""A multi-label model that answers: of each image all classes above their thresholds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ModelError
from finetune.export import formats
from finetune.networks import models
from finetune.serving.predictor import Predictor
from finetune.serving.runner import Precision
from finetune.task import Record


class MultiLabelPredictor(Predictor):
    """A multi-label classifier in its inference form, with its preprocessing, temperature and thresholds.

    Args:
        model: As `finetune.serving.predictor.Predictor` takes it.
        accelerator: Where it runs.
        precision: `32` or `bf16`.
        batch_size: Images per pass through the model, in calls.
        images: How many images there will be, if that is known.

    Attributes:
        thresholds: float64 `[classes]`, probabilities from which on a class is answered.

    Raises:
        ModelError: As the base class; or there are not as many thresholds as classes.
    """

    problem = "multi_label_classification"

    def __init__(
        self,
        model: str | Path,
        *,
        accelerator: str = "auto",
        precision: Precision = "32",
        batch_size: int = 64,
        images: int | None = None,
    ) -> None:
        super().__init__(model, accelerator=accelerator, precision=precision, batch_size=batch_size, images=images)
        if formats.of_file(model) is None:
            found = models.calibration(self.name).get("thresholds")
        else:
            of_file: Any = self.model
            found = json.loads(of_file.network.metadata.get("thresholds", "null"))
        self.thresholds = torch.tensor([0.5] * len(self.classes) if found is None else found, dtype=torch.float64)
        if len(self.thresholds) != len(self.classes):
            raise ModelError(f"{self.name}: expected {len(self.classes)} thresholds, got {len(self.thresholds)}")

    def answer(self, logits: Tensor) -> Tensor:
        """float64 `[B, classes]`: a probability of each class for itself."""
        return torch.sigmoid(logits / self.temperature)

    def shown(self, probabilities: Tensor) -> list[int]:
        """The classes that are answered, the most probable first."""
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return [place for place in order if probabilities[place] >= self.thresholds[place]]


class SeveralAnswers:
    """What `predict` says of images: `labels`, the classes above their thresholds, with their probabilities.

    With `--top-k` it is as many of the most probable classes, whether above or not; with `--min-confidence` those that
    have such a probability too.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: MultiLabelPredictor) -> None:
        self.predictor, self.transform = predictor, predictor.transform
        self.says = [f"{len(predictor.classes)} classes, several an image, temperature {predictor.temperature:.4g}"]
        if not predictor.calibrated:
            self.says.append("the model has no calibration: probabilities are the model's own (temperature 1)")

    def records(self, pixels: Any, options: Any) -> list[Record]:
        """Of prepared images."""
        return [self._record(of, options) for of in self.predictor.probabilities(pixels)]

    def _record(self, probabilities: Tensor, options: Any) -> Record:
        chosen = self.predictor.shown(probabilities)
        if options.top_k is not None:
            chosen = probabilities.argsort(descending=True, stable=True)[: options.top_k].tolist()
        named = [(self.predictor.classes[i], float(probabilities[i])) for i in chosen]
        return {
            "labels": [{"label": name, "probability": round(p, 6)} for name, p in named if p >= options.min_confidence]
        }

    def brief(self, record: Record) -> str:
        """The classes and their probabilities, the most probable first."""
        return ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in record["labels"]) or "(no class)"

    def columns(self, options: Any) -> Sequence[str]:
        """labels, probabilities, error: of several, bars between."""
        return ["labels", "probabilities", "error"]

    def flat(self, record: Record) -> Record:
        """A record by these columns."""
        row = {name: value for name, value in record.items() if name != "labels"}
        if "labels" in record:
            row["labels"] = "|".join(entry["label"] for entry in record["labels"])
            row["probabilities"] = "|".join(str(entry["probability"]) for entry in record["labels"])
        return row
