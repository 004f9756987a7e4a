"""Image classification as `finetune.task.Task` has it; what is costly to import is imported where it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluation.resampled import of_means
from finetune.study import Studying
from finetune.task import Answers, Learner, Record, Schema, Score
from finetune.tasks.timm_format import TimmFormat

if TYPE_CHECKING:
    import lightning as L
    import numpy as np
    from torch import nn

    from finetune.evaluation.comparing.judged import Judged
    from finetune.serving.predictor import Predictor


class Classification(TimmFormat):
    """One class an image."""

    name = "image-classification"

    # --- Reading

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """A column of classes, see `finetune.tasks.classification.reading.infer`; whole numbers in floats, too."""
        from finetune.tasks.classification.reading import infer

        return infer(features, image_column, target_column, asked=True)

    def guess(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """The same without floats, and without many numbers in text."""
        from finetune.tasks.classification.reading import infer

        return infer(features, image_column, target_column)

    # --- Learning

    @property
    def scores(self) -> tuple[Score, ...]:
        """Accuracy first."""
        from finetune.evaluation.metrics import SCORES

        return SCORES

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Accuracy, then loss."""
        from finetune.evaluation.metrics import RANKING

        return RANKING

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """The common ones were made for it."""
        return {}

    @property
    def refused(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """A timm model with as many outputs as there are classes."""
        from finetune.tasks.classification import learning

        return learning.network(settings, schema, pretrained)

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """The network on images, or its classifier on the features of a frozen backbone."""
        from finetune.tasks.classification import learning

        return learning.learner(settings, images, network, baseline)

    def collector(self) -> Any:
        """Logits and class indices."""
        from finetune.training.callbacks.predictions import CollectPredictions

        return CollectPredictions()

    @property
    def study(self) -> Studying:
        """Linear probe, nearest neighbours, and confident learning."""
        from finetune.tasks.classification.study import ClassStudy

        return ClassStudy()

    # --- Judging

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """Scores over the model's outputs."""
        from finetune.tasks.classification.image_classification import ImageClassificationTask

        return ImageClassificationTask(network, num_classes=outputs)

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """The dataset with the model's outputs as targets, by the names of the classes."""
        from finetune.tasks.classification import judging

        return judging.aligned(data, network)

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """Intervals, classes, calibration, and the probe."""
        from finetune.evaluation import assessment

        theirs = baseline.predictions.get("test")
        return assessment.add(result, dict(predictions), data, baseline.epoch0, theirs)

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """Confusion, reliability, mistakes, curves, and the table of classes."""
        from finetune.evaluation.figures import drawing

        return drawing.add(result, predictions, data, folder)

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """The most frequent class, and the linear probe."""
        from finetune.tasks.classification import judging

        return judging.floors(result.evaluation)

    def remarks(self, result: Any) -> Iterator[str]:
        """What these stand for, the seeds, and calibration."""
        from finetune.tasks.classification import judging

        return judging.remarks(result.evaluation, result.dataset["splits"]["validation"])

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Accuracy."""
        return of_means(found.correct.double().numpy())

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """Intervals, the most frequent class, calibration."""
        from finetune.tasks.classification import judging

        return judging.reassess(found, result, model)

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """Right or wrong, image by image."""
        from finetune.tasks.classification import judging

        return judging.judged(found, classes)

    # --- Saving

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """Timm's folder, with the temperature."""
        from finetune.export import model_folder

        temperature = result.evaluation.get("calibration", {}).get("temperature")
        model_folder.save(network, folder, data.schema.classes, data_config, temperature)

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """Classes, temperature, and how logits become probabilities."""
        from finetune.evaluation import labels
        from finetune.serving.predictor import fitted_temperature

        return {
            "classes": json.dumps(labels.names(network)),
            "temperature": json.dumps(fitted_temperature(f"local-dir:{folder}") or 1.0),
        }

    # --- Answering

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """Names and calibrated probabilities."""
        from finetune.serving.predictor import Predictor

        predictor = Predictor(
            model,
            accelerator=options.accelerator,
            precision=options.precision,
            batch_size=options.batch_size,
            images=images,
        )
        return ClassAnswers(predictor)

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """Bars of the most probable classes, and what split attention prefers."""
        from finetune.serving import page
        from finetune.serving.predictor import Predictor

        return page.build(Predictor(model, accelerator=accelerator), uploads)


class ClassAnswers:
    """What `predict` says of images: `label` (None where it abstains), `confidence`, `abstained`, and `top`.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.transform = predictor, predictor.transform
        self.says = [f"{len(predictor.classes)} classes, temperature {predictor.temperature:.4g}"]
        if not predictor.calibrated:
            self.says.append("the model has no calibration: probabilities are the model's own (temperature 1)")

    def records(self, pixels: Any, options: Any) -> list[Record]:
        """Of prepared images."""
        from finetune.serving.predictor import TOP

        found = self.predictor.predict(pixels, options.top_k or TOP, options.min_confidence)
        return [
            {
                "label": prediction.label,
                "confidence": round(prediction.confidence, 6),
                "abstained": prediction.abstained,
                "top": [{"label": name, "probability": round(p, 6)} for name, p in prediction.top],
            }
            for prediction in found
        ]

    def brief(self, record: Record) -> str:
        """The classes and their probabilities, the most probable first."""
        top = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in record["top"])
        return f"(abstains) {top}" if record["abstained"] else top

    def columns(self, options: Any) -> Sequence[str]:
        """label, confidence, abstained, error, then label_1, probability_1, label_2, ..."""
        from finetune.serving.predictor import TOP

        ranks = min(options.top_k or TOP, len(self.predictor.classes))
        pairs = ((f"label_{rank}", f"probability_{rank}") for rank in range(1, ranks + 1))
        return ["label", "confidence", "abstained", "error", *(name for pair in pairs for name in pair)]

    def flat(self, record: Record) -> Record:
        """A record by these columns."""
        row = {name: value for name, value in record.items() if name != "top"}
        for rank, entry in enumerate(record.get("top", ()), 1):
            row |= {f"label_{rank}": entry["label"], f"probability_{rank}": entry["probability"]}
        return row


CLASSIFICATION = Classification()
