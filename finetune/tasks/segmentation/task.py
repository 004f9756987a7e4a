"""Semantic segmentation as `finetune.task.Task` has it; what is costly to import is imported where it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.checks.inspecting import Inspection
from finetune.task import Answers, Learner, Schema, Score

if TYPE_CHECKING:
    import lightning as L
    import numpy as np
    from torch import Tensor, nn

    from finetune.evaluation.comparing.judged import Judged


class Segmentation:
    """A class a pixel."""

    name = "semantic-segmentation"

    # --- Reading

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """A column of masks, see `finetune.tasks.segmentation.schema.infer`."""
        from finetune.tasks.segmentation.schema import infer

        return infer(features, image_column, target_column)

    def inspection(self, data: Any) -> Inspection:
        """Masks, of an image and of its copies."""
        from finetune.tasks.segmentation.inspecting import InspectedMasks

        return InspectedMasks(data)

    # --- Learning

    @property
    def scores(self) -> tuple[Score, ...]:
        """Mean IoU first."""
        from finetune.tasks.segmentation.scores import SCORES

        return SCORES

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Mean IoU, then loss."""
        from finetune.tasks.segmentation.scores import RANKING

        return RANKING

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """Higher rates, more epochs and smaller batches than a classifier's."""
        from finetune.tasks.segmentation import learning

        return learning.preset(settings)

    @property
    def refused(self) -> Mapping[str, str]:
        """What is a classifier's, or not for masks."""
        return {
            "head_init": "has no linear probe to start from",
            "layer_decay": "gives the backbone a tenth of the decoder's rate",
            "mixup": "has masks, which cannot be mixed",
            "cutmix": "has no mixing of masks yet",
            "random_erasing": "would erase what the mask shows",
            "auto_augment": "has no policy that changes masks alike; --color-jitter changes colours",
            "crop_scale": "scales images by 0.5 to 2 and crops",
            "drop_block": "has decoders that do not know it",
            "unfreeze_every": "has no stages of decoder and backbone",
        }

    @property
    def heavy_head(self) -> bool:
        """The decoder."""
        return True

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """A backbone of timm with a decoder of segmentation_models_pytorch."""
        from finetune.tasks.segmentation import learning

        return learning.network(settings, schema, pretrained)

    def data_module(self, data: Any, data_config: Mapping[str, Any], **options: Any) -> Any:
        """Image and mask change together."""
        from finetune.tasks.segmentation import judging

        return judging.data_module(data, data_config, options)

    def baseline(self, settings: Any) -> Any:
        """None: there is no linear probe of pixels."""
        from finetune.training.callbacks.head_start import HeadStart

        return HeadStart()

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """The whole network on images."""
        from finetune.tasks.segmentation import learning

        return learning.learner(settings, images, network)

    def identity(self, settings: Any, network: nn.Module) -> dict[str, Any]:
        """The flags that are this task's alone."""
        from finetune.tasks.segmentation import learning

        return learning.identity(settings)

    def collector(self) -> Any:
        """Counts of pixels, and a sample of logits."""
        from finetune.tasks.segmentation.judged.collector import CollectCounts

        return CollectCounts()

    # --- Judging

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """Scores over the model's outputs."""
        from finetune.tasks.segmentation.module import SegmentationTask
        from finetune.tasks.segmentation.saving import check_network

        return SegmentationTask(check_network(network), outputs)

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """The dataset with the model's outputs in its masks, by the names of the classes."""
        from finetune.tasks.segmentation import judging

        return judging.aligned(data, network)

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """Intervals, classes, calibration."""
        from finetune.tasks.segmentation.judged import assessment

        return assessment.add(result, predictions, data)

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """Examples, IoU, confusion, reliability, curves, and the table of classes."""
        from finetune.networks import models
        from finetune.tasks.segmentation import saving
        from finetune.tasks.segmentation.judged import figures

        network = saving.check_network(self.load(folder.model))
        images = self.data_module(data, models.data_config(network), workers=0)
        rows = images.eval_dataloader("test").dataset

        def sample(place: int) -> tuple[Any, Any]:
            (pixels,), (mask,) = rows[[(0, place)]]
            return images.normalize(pixels), mask

        return figures.add(result, predictions, data, folder, sample, network)

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """The most frequent class."""
        from finetune.tasks.segmentation import judging

        return judging.floors(result.evaluation)

    def remarks(self, result: Any) -> Iterator[str]:
        """What it stands for, absent classes, the seeds, and calibration."""
        from finetune.tasks.segmentation import judging

        return judging.remarks(result.evaluation, result.dataset["splits"]["validation"])

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Mean IoU."""
        from finetune.tasks.segmentation.judged import assessment

        return assessment.resampler(found)

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """Intervals, the most frequent class, calibration."""
        from finetune.runs import model_files
        from finetune.tasks.segmentation import judging

        return judging.reassess(found, result, model_files.ours(model).get("temperature"))

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """The mean IoU of each image."""
        from finetune.tasks.segmentation.judged import weighing

        return weighing.judged(found, classes)

    def decisions(self, network: nn.Module) -> Mapping[str, Any]:
        """None: each pixel's answer is its largest logit."""
        return {}

    def outputs(self, network: nn.Module) -> Sequence[str]:
        """Classes."""
        from finetune.tasks.segmentation import judging

        return judging.outputs_of(network)

    def kept(self, said: Sequence[Any], targets: Sequence[Any]) -> Any:
        """Counts of pixels."""
        from finetune.tasks.segmentation.judged import weighing

        return weighing.kept(said)

    def looks(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """The encoder's last map, averaged."""
        from finetune.tasks.segmentation.saving import check_network

        maps: Any = check_network(network).get_backbone()(pixels)
        found: Tensor = maps[-1].mean(dim=(2, 3))
        return found

    # --- Saving

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """The folder of segmentation_models_pytorch, and finetune.json."""
        from finetune.tasks.segmentation import saving

        temperature = result.evaluation.get("calibration", {}).get("temperature")
        made = saving.check_network(network)
        made.classes = tuple(data.schema.classes)
        saving.save(made, folder, data_config, temperature, self.name)

    def load(self, folder: Path) -> nn.Module:
        """By segmentation_models_pytorch, after a look at its files."""
        from finetune.tasks.segmentation import saving

        return saving.load(folder)

    def witness(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any]) -> None:
        """The middle squares of images of as many classes as can be."""
        from finetune.tasks.segmentation import saving

        saving.witness(saving.check_network(network), folder, data, data_config)

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """Task, classes, temperature, windows, and how sides are made multiples of 32."""
        from finetune.tasks.segmentation import saving

        made = saving.check_network(network)
        return {
            "problem_type": self.name,
            "classes": json.dumps(list(made.classes)),
            "temperature": json.dumps(made.temperature or 1.0),
            "tile": json.dumps(made.tile),
            "description": saving.DESCRIPTION,
            "preprocessing": json.dumps(saving.preprocessing(made)),
        }

    # --- Answering

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """A picture of classes, and the share of each."""
        from finetune.tasks.segmentation.answering import answers

        return answers.of(self.load, model, options)

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """The image with the classes over it."""
        from finetune.tasks.segmentation.answering import page

        return page.of(self.load, model, accelerator, uploads)


SEGMENTATION = Segmentation()
