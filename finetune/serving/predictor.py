"""A model that answers with names and calibrated probabilities: load once, call with images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps
from torch import Tensor, nn

from finetune.console import log
from finetune.data import images
from finetune.errors import ConfigError, DatasetError, ModelError
from finetune.evaluation import labels
from finetune.export import exported as exported_model
from finetune.export import formats
from finetune.loading import transforms
from finetune.networks import model_names, models
from finetune.training import hardware
from resnest_timm import OptimizeError, optimize

Precision = Literal["32", "bf16"]

TOP = 5
"""Classes that are named where nobody says how many."""
_FEW = 8
"""Images; making the inference form took as long as it saved on 5 to 17, see benchmarks/README.md."""


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


class Predictor:
    """A classifier in its inference form, with the preprocessing of its evaluation and its calibration.

        predictor = Predictor("RUN")
        for prediction in predictor(["cat.jpg", Image.open("dog.jpg")], top_k=3):
            print(prediction.label, prediction.confidence)

    Probabilities are those of the model as evaluated, in float32, within 1e-4: BatchNorms are folded, see
    `resnest_timm.optimize`.

    Args:
        model: A run's or a model's folder, `local-dir:PATH`, `hf-hub:OWNER/NAME`, or a timm name; or a file that
            `export` wrote, `*.onnx` or `*.xml`, which alone is read: no PyTorch model is built.
        accelerator: Where it runs, in Lightning's terms: auto, cpu, gpu, cuda, mps.
        precision: `32`, or `bf16`: sooner, and probabilities that differ in the second or third digit.
        batch_size: Images per pass through the model, in calls.
        images: How many images there will be, if that is known: for a few the model stays as it is, in float32.

    Attributes:
        name: The model, as `finetune.networks.models.build` took it, or the file.
        classes: Names, in the order of the outputs.
        temperature: What logits are divided by; fitted on the run's validation split.
        calibrated: Whether the model has such a temperature; else it is 1.
        data_config: timm's: size, interpolation, crop, mean and std.
        transform: PIL RGB -> float32 `[3, H, W]`, the evaluation's.
        model: The inference form, the model as it is for a few images, or of a file the module that calls its library.
        device: Where it is.

    Raises:
        ModelError: The model cannot be built or the file not be run, or its calibration is not a positive number.
        ConfigError: There is no such device, or the file's library is not installed.
    """

    model: nn.Module

    def __init__(
        self,
        model: str | Path,
        *,
        accelerator: str = "auto",
        precision: Precision = "32",
        batch_size: int = 64,
        images: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        form = formats.of_file(model)
        if form is None:
            self._build(model, accelerator, precision, images)
        else:
            self._read(form, Path(model).expanduser().absolute(), accelerator, precision)
        self.transform = transforms.normalised(self.data_config)

    def _build(self, model: str | Path, accelerator: str, precision: Precision, images: int | None) -> None:
        self.name = model_names.locate(model)
        self.device = hardware.device(accelerator)
        built = models.build(self.name, None, pretrained=True).eval()
        self.classes = labels.names(built)
        self.data_config = models.data_config(built)
        temperature = fitted_temperature(self.name)
        self.calibrated = temperature is not None
        self.temperature = 1.0 if temperature is None else temperature
        self.model = built.to(self.device)
        if precision == "bf16" or images is None or images >= _FEW:
            self.model = _inference_form(self.model, precision, self.data_config["input_size"])

    def _read(self, form: formats.Format, path: Path, accelerator: str, precision: Precision) -> None:
        found = exported_model.read(form, path, accelerator, precision, self.batch_size)
        self.name, self.device = str(path), torch.device("cpu")
        self.classes, self.data_config = found.classes, found.data_config
        self.temperature, self.calibrated = found.temperature, found.temperature != 1  # export writes 1 where none is
        self.model = found.module

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
        pictures = list(pictures)
        found: list[Prediction] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = [self._pixels(i, p) for i, p in enumerate(pictures[start : start + self.batch_size], start)]
            found += self.predict(torch.stack(batch), top_k, min_confidence)
        return found

    def _pixels(self, index: int, picture: Image.Image | str | Path) -> Tensor:
        try:
            if isinstance(picture, Image.Image):
                return self.transform(images.to_rgb(ImageOps.exif_transpose(picture)))
            return self.transform(images.decode(str(Path(picture).expanduser().absolute())))
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a broken PNG
            name = "" if isinstance(picture, Image.Image) else f" ({picture})"
            raise DatasetError(f"image {index}{name} cannot be read: {' '.join(str(error).split())}") from error

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Calibrated probabilities.

        Args:
            pixels: float32 `[B, 3, H, W]`, of `transform`.

        Returns:
            float64 `[B, classes]`, on the CPU.

        Raises:
            ModelError: An output is not finite.
        """
        with torch.inference_mode():
            logits: Tensor = self.model(pixels.to(self.device, non_blocking=True)).float().cpu().double()
        if not logits.isfinite().all():
            raise ModelError(
                f"{self.name} gives NaN or infinite logits: its weights are damaged, or diverged in training"
            )
        return self.answer(logits)

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
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        path = Path(place) / "config.json"
    elif scheme in ("hf-hub", "hf_hub"):
        repo, _, revision = place.partition("@")
        path = Path(hf_hub_download(repo, "config.json", revision=revision or None))
    else:
        return None
    calibration = json.loads(path.read_text(encoding="utf-8")).get("calibration")
    if calibration is None:
        return None
    temperature: Any = calibration.get("temperature") if isinstance(calibration, dict) else calibration
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ModelError(
            f'{name}: expected "calibration": {{"temperature": a positive number}} in config.json, got {calibration!r}'
        )
    return float(temperature)


def _inference_form(model: nn.Module, precision: Precision, input_size: tuple[int, int, int]) -> nn.Module:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        return optimize(model, dtype=dtype, input_size=input_size)
    except OptimizeError as error:
        if precision == "bf16":
            raise ConfigError(f"--precision bf16: this model has no such form ({error}); use --precision 32") from error
        log.info(f"the model runs as it is: {error}")
        return model
