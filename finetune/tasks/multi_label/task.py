"""Multi-label classification as `finetune.task.Task` has it; what is costly to import is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.task import Answers, Learner, Schema, Score
from finetune.tasks.timm_format import TimmFormat

if TYPE_CHECKING:
    import lightning as L
    import numpy as np
    from torch import nn

    from finetune.evaluation.comparing.judged import Judged


class MultiLabel(TimmFormat):
    """Several classes an image, or none."""

    name = "multi-label-classification"

    # --- Reading

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """Lists of classes, columns of yes or no, text of several names; see `multi_label.reading`."""
        from finetune.tasks.multi_label import reading

        return reading.recognise(features, image_column, target_column)

    # --- Learning

    @property
    def scores(self) -> tuple[Score, ...]:
        """Mean average precision first."""
        from finetune.tasks.multi_label.measures.metrics import SCORES

        return SCORES

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Mean average precision, then loss."""
        from finetune.tasks.multi_label.measures.metrics import RANKING

        return RANKING

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """No label smoothing, and crops that keep most of an image."""
        from finetune.tasks.multi_label import learning

        return learning.preset(settings)

    @property
    def refused(self) -> Mapping[str, str]:
        """Nothing as a whole; see `learning.preset`."""
        return {}

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """A timm model with as many outputs as there are classes."""
        from finetune.tasks.multi_label import learning

        return learning.network(settings, schema, pretrained)

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """The network on images, or its classifier on the features of a frozen backbone."""
        from finetune.tasks.multi_label import learning

        return learning.learner(settings, images, network, baseline)

    def collector(self) -> Any:
        """Logits, and zeros and ones."""
        from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions
        from finetune.training.callbacks.predictions import CollectPredictions

        return CollectPredictions(MultiLabelPredictions)

    # --- Judging

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """Scores over the model's outputs, at the thresholds of its folder."""
        from finetune.tasks.multi_label import judging
        from finetune.tasks.multi_label.module import MultiLabelTask

        known: Any = getattr(network, "calibration", {})
        answered = judging.logits_of(known.get("thresholds"), known.get("temperature", 1.0), outputs)
        return MultiLabelTask(network, num_classes=outputs, thresholds=answered.tolist())

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """The dataset with the model's outputs as targets, by the names of the classes."""
        from finetune.tasks.multi_label import judging

        return judging.aligned(data, network)

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """Intervals, classes, thresholds, calibration, and the probe."""
        from finetune.tasks.multi_label import judging

        theirs = baseline.predictions.get("test")
        return judging.add(result, predictions, data, baseline.epoch0, theirs)

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """Classes, precision against recall, confusions, reliability, mistakes, curves, and the table of classes."""
        from finetune.tasks.multi_label.figures import drawing

        return drawing.add(result, predictions, data, folder)

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """The prevalence of the classes, and the linear probe."""
        from finetune.tasks.multi_label import judging

        return judging.floors(result.evaluation)

    def remarks(self, result: Any) -> Iterator[str]:
        """What these stand for, the seeds, thresholds and calibration."""
        from finetune.tasks.multi_label import judging

        return judging.remarks(result.evaluation, result.dataset["splits"]["validation"])

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Mean average precision."""
        from finetune.tasks.multi_label.measures import intervals

        return intervals.resampler(*found.arrays())

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """Intervals and calibration."""
        from finetune.tasks.multi_label import judging

        return judging.reassess(found, result, model)

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """F1 of each image, at the thresholds."""
        from finetune.tasks.multi_label import judging
        from finetune.tasks.multi_label.measures import weighing

        limits, temperature = evaluation.get("thresholds", {}), evaluation.get("calibration", {})
        answered = judging.logits_of(limits.get("values"), temperature.get("temperature", 1.0), len(classes))
        return weighing.judged(found, classes, answered)

    def decisions(self, network: nn.Module) -> Mapping[str, Any]:
        """Thresholds, and the temperature that they are for."""
        known = getattr(network, "calibration", {})
        return {"thresholds": {"values": known.get("thresholds")}, "calibration": known}

    # --- Saving

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """Timm's folder, with temperature and thresholds."""
        from finetune.tasks.multi_label import saving

        saving.save(network, folder, data, data_config, result)

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """Classes, temperature and thresholds."""
        from finetune.tasks.multi_label import saving

        return saving.file_metadata(network, folder)

    # --- Answering

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """All classes above their thresholds."""
        from finetune.tasks.multi_label.answering import MultiLabelPredictor, SeveralAnswers

        predictor = MultiLabelPredictor(
            model,
            accelerator=options.accelerator,
            precision=options.precision,
            batch_size=options.batch_size,
            images=images,
        )
        return SeveralAnswers(predictor)

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """Bars of all classes above their thresholds."""
        from finetune.serving import page
        from finetune.tasks.multi_label.answering import MultiLabelPredictor
        from finetune.tasks.multi_label.measures.metrics import SCORES

        return page.build(MultiLabelPredictor(model, accelerator=accelerator), uploads, SCORES[0])


MULTI_LABEL = MultiLabel()
