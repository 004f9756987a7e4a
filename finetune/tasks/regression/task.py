"""A number an image as `finetune.task.Task` has it; what is costly to import is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluation.resampled import of_means
from finetune.task import Answers, Learner, Schema, Score
from finetune.tasks.timm_format import TimmFormat

if TYPE_CHECKING:
    import lightning as L
    import numpy as np
    from torch import nn

    from finetune.evaluation.comparing.judged import Judged


class Regression(TimmFormat):
    """A number an image."""

    name = "image-regression"

    # --- Reading

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """A column of numbers, see `finetune.tasks.regression.schema.infer`."""
        from finetune.tasks.regression.schema import infer

        return infer(features, image_column, target_column)

    def guess(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """A column of floats: integers and text may be classes."""
        from finetune.tasks.regression.schema import infer

        return infer(features, image_column, target_column, asked=False)

    # --- Learning

    @property
    def scores(self) -> tuple[Score, ...]:
        """Mean absolute error first."""
        from finetune.tasks.regression.metrics import SCORES

        return SCORES

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Mean absolute error."""
        from finetune.tasks.regression.metrics import RANKING

        return RANKING

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """No label smoothing."""
        return {"label_smoothing": 0.0}

    @property
    def refused(self) -> Mapping[str, str]:
        """What is for classes."""
        return {
            "label_smoothing": "has no classes to smooth over",
            "imbalance": "has no classes that could be unequal",
            "cutmix": "has no number for a patchwork of two images",
            "mixup": "has no number for a blend of two images",
            "classes": "has no classes",
        }

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """A timm model with one output."""
        from finetune.tasks.regression import learning

        return learning.network(settings, pretrained)

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """The network on images, or its last layer on the features of a frozen backbone."""
        from finetune.tasks.regression import learning

        return learning.learner(settings, images, network, baseline)

    def collector(self) -> Any:
        """Numbers, and what they should be."""
        from finetune.tasks.regression.predictions import NumberPredictions
        from finetune.training.callbacks.predictions import CollectPredictions

        return CollectPredictions(NumberPredictions)

    # --- Judging

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """Scores in the unit that the network answers in."""
        from finetune.tasks.regression.image_regression import ImageRegressionTask

        return ImageRegressionTask(network)

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """The dataset as it is, for a model of one number."""
        from finetune.tasks.regression import judging

        return judging.aligned(data, network)

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """Intervals of the scores and of single predictions, the median, and the probe."""
        from finetune.tasks.regression import judging

        theirs = baseline.predictions.get("test")
        return judging.assess(result, dict(predictions), data, baseline.epoch0, theirs)

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """Predicted against true, residuals, the largest errors, and curves."""
        from finetune.tasks.regression.figures import drawing

        return drawing.add(result, predictions, data, folder)

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """The median, and the linear probe."""
        from finetune.tasks.regression import judging

        return judging.floors(result.evaluation)

    def remarks(self, result: Any) -> Iterator[str]:
        """What these stand for, the seeds, and the interval."""
        from finetune.tasks.regression import judging

        return judging.remarks(result.evaluation, result.dataset["splits"]["validation"])

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Mean absolute error."""
        return of_means(abs(found.errors))

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """Intervals, the median, coverage."""
        from finetune.tasks.regression import judging

        return judging.reassess(found, result, model)

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """The absolute error of each image."""
        from finetune.tasks.regression import judging

        return judging.judged(found)

    # --- Saving

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """Timm's folder, in the dataset's unit, with the interval."""
        from finetune.tasks.regression import saving

        saving.save(network, folder, data, data_config, result)

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """The name of the number, and its interval."""
        from finetune.tasks.regression import saving

        return saving.file_metadata(network, folder)

    # --- Answering

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """Numbers and intervals."""
        from finetune.tasks.regression.answering.answers import NumberAnswers
        from finetune.tasks.regression.answering.predictor import NumberPredictor

        predictor = NumberPredictor(
            model,
            accelerator=options.accelerator,
            precision=options.precision,
            batch_size=options.batch_size,
            images=images,
        )
        return NumberAnswers(predictor)

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """The number and its interval."""
        from finetune.tasks.regression.answering import page
        from finetune.tasks.regression.answering.predictor import NumberPredictor

        return page.build(NumberPredictor(model, accelerator=accelerator), uploads)


REGRESSION = Regression()
