"""Object detection and instance segmentation as `finetune.task.Task` has them; what is costly is imported late."""

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


class ObjectDetection:
    """Boxes of objects, each of a class."""

    name = "object-detection"
    masks = False

    # --- Reading

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """Columns of boxes, or of masks, with their classes; see `finetune.tasks.detection.schema.infer`."""
        from finetune.tasks.detection.schema import infer

        return infer(self.name, features, image_column, target_column)

    def inspection(self, data: Any) -> Inspection:
        """Boxes, of an image and of its copies."""
        from finetune.tasks.detection.inspecting import InspectedBoxes

        return InspectedBoxes(data)

    # --- Learning

    @property
    def scores(self) -> tuple[Score, ...]:
        """COCO's."""
        from finetune.tasks.detection.scores import MASK_SCORES, SCORES

        return (*MASK_SCORES, *SCORES) if self.masks else SCORES

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Average precision, of masks where there are any."""
        return self.scores[:1]

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """Smaller batches and larger images than a classifier's."""
        from finetune.tasks.detection import learning

        return learning.preset(settings)

    @property
    def refused(self) -> Mapping[str, str]:
        """What is of whole images."""
        from finetune.tasks.detection import learning

        return learning.REFUSED

    @property
    def heavy_head(self) -> bool:
        """The pyramid and the detector."""
        return True

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """One of torchvision's detectors over a timm backbone."""
        from finetune.tasks.detection import learning

        return learning.network(settings, schema, pretrained, self.masks)

    def data_module(self, data: Any, data_config: Mapping[str, Any], **options: Any) -> Any:
        """Image and objects change together."""
        from finetune.tasks.detection.loading.datamodule import DetectionDataModule

        return DetectionDataModule(
            data, data_config, **{name: value for name, value in options.items() if name != "steps_per_epoch"}
        )

    def baseline(self, settings: Any) -> Any:
        """None: no frozen feature says where an object is."""
        from finetune.training.callbacks.head_start import HeadStart

        return HeadStart()

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """The network on images, with anchors that fit them."""
        from finetune.tasks.detection import learning

        return learning.learner(settings, images, network)

    def identity(self, settings: Any, network: nn.Module) -> dict[str, Any]:
        """Nothing besides."""
        return {}

    def collector(self) -> Any:
        """Objects, found and true."""
        from finetune.tasks.detection.collector import CollectDetections

        return CollectDetections()

    # --- Judging

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """COCO's scores."""
        from finetune.tasks.detection.module import DetectionTask

        return DetectionTask(network)

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """The dataset with the model's classes, by their names."""
        from finetune.tasks.detection import runs

        return runs.aligned(data, network)

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """Intervals, classes, threshold, calibration, kinds of errors."""
        from finetune.tasks.detection import runs

        return runs.assessed(result, predictions, data)

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """Test images with truth and answers, curves of precision, bars of classes, and the table of classes."""
        from finetune.tasks.detection.figures import drawing

        return drawing.add(result, predictions, data, folder)

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """None: what finds nothing has an average precision of 0."""
        return iter(())

    def remarks(self, result: Any) -> Iterator[str]:
        """The weakest class, what went wrong, the threshold, calibration."""
        from finetune.tasks.detection.judging import assess

        return assess.remarks(result.evaluation, result.dataset["splits"]["validation"])

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Average precision, of masks where there are any."""
        from finetune.tasks.detection.judging import precision

        return precision.resampler(found, self.masks)

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """Intervals."""
        from finetune.tasks.detection.judging import assess

        pairs = assess.ends(found, len(result.dataset["classes"]), result.seed)
        return {"bootstrapped": {name: (low, high) for name, (low, high) in pairs.items()}}

    def judged(self, found: Any, classes: Sequence[str], evaluation: Mapping[str, Any]) -> Judged:
        """F1 of each image, at the threshold; of masks where there are any."""
        from finetune.tasks.detection.judging import weighing

        return weighing.judged(found, classes, self.masks, evaluation.get("threshold", {}).get("score", 0.5))

    def decisions(self, network: nn.Module) -> Mapping[str, Any]:
        """The threshold."""
        return {"threshold": {"score": getattr(network, "threshold", 0.5)}}

    def outputs(self, network: nn.Module) -> Sequence[str]:
        """Classes."""
        described: Any = network
        names: Sequence[str] = described.label_names
        return names

    def kept(self, said: Sequence[Any], targets: Sequence[Any]) -> Any:
        """Objects, found and true."""
        from finetune.tasks.detection.judging import weighing

        return weighing.kept(said, targets)

    def looks(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """The backbone's last map, averaged."""
        described: Any = network
        found: Tensor = described.backbone.body(pixels)[-1].mean(dim=(2, 3))
        return found

    # --- Saving

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """Torchvision's form, and finetune.json."""
        from finetune.tasks.detection import saving

        saving.save(network, folder, data, data_config, result)

    def load(self, folder: Path) -> nn.Module:
        """By its config.json."""
        from finetune.tasks.detection import saving

        return saving.load(folder)

    def witness(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any]) -> None:
        """Images of as many classes as can be, and the surest object of each class in them."""
        from finetune.tasks.detection import saving

        saving.witness(network, folder, data)

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """Classes, threshold, temperature, how to prepare an image, and what the file gives."""
        from finetune.tasks.detection import saving
        from finetune.tasks.detection.exporting import graph

        about, layout = saving.ours(folder), saving.layout_of(network)
        return {
            "problem_type": self.name,
            **{name: json.dumps(about[name]) for name in ("classes", "threshold", "temperature")},
            "description": graph.DESCRIPTION,
            "preprocessing": json.dumps(graph.preprocessing(layout)),
            "layout": json.dumps(layout.to_json()),
        }

    def write_file(self, form: Any, network: nn.Module, path: Path, metadata: Mapping[str, str], verify: Path) -> str:
        """ONNX: an image of any size -> its objects."""
        from finetune.tasks.detection.exporting import write

        return write.write(form, network, path, metadata, verify)

    # --- Answering

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """Objects above the threshold."""
        from finetune.tasks.detection.answers import ObjectAnswers, PictureAnswers

        if options.overlay:
            return PictureAnswers(model, options.accelerator, options.output)
        return ObjectAnswers(model, options.accelerator)

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """The image with its objects, and a slider for the threshold."""
        from finetune.tasks.detection import page
        from finetune.tasks.detection.answers import ObjectAnswers

        return page.build(ObjectAnswers(model, accelerator), uploads)


class InstanceSegmentation(ObjectDetection):
    """Boxes and masks of objects, each of a class."""

    name = "instance-segmentation"
    masks = True


DETECTION, INSTANCES = ObjectDetection(), InstanceSegmentation()
