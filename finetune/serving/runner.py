"""A model that answers, whatever its outputs mean: in its inference form, with the preprocessing of its evaluation."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
from finetune.export.exported import ExportedModel
from finetune.loading import transforms
from finetune.networks import model_names, models
from finetune.training import hardware
from resnest_timm import OptimizeError, optimize

Precision = Literal["32", "bf16"]

_FEW = 8
"""Images; making the inference form took as long as it saved on 5 to 17, see benchmarks/README.md."""


class Runner(ABC):
    """A model, or an exported file, that gives its outputs; a task's predictor knows what they mean.

    Outputs are those of the model as evaluated, in float32, within 1e-4: BatchNorms are folded, see
    `resnest_timm.optimize`.

    Args:
        model: A run's or a model's folder, `local-dir:PATH`, `hf-hub:OWNER/NAME`, or a timm name; or a file that
            `export` wrote, `*.onnx` or `*.xml`, which alone is read: no PyTorch model is built.
        accelerator: Where it runs, in Lightning's terms: auto, cpu, gpu, cuda, mps.
        precision: `32`, or `bf16`: sooner, and outputs that differ in the second or third digit.
        batch_size: Images per pass through the model, in calls.
        images: How many images there will be, if that is known: for a few the model stays as it is, in float32.

    Attributes:
        name: The model, as `finetune.networks.models.build` took it, or the file.
        classes: Names, in the order of the outputs.
        data_config: timm's: size, interpolation, crop, mean and std.
        transform: PIL RGB -> float32 `[3, H, W]`, the evaluation's.
        model: The inference form, the model as it is for a few images, or of a file the module that calls its library.
        device: Where it is.

    Raises:
        ModelError: The model cannot be built or the file not be run, or its calibration is of another kind.
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
        self.calibrate(config_of(self.name))
        self.model = built.to(self.device)
        if precision == "bf16" or images is None or images >= _FEW:
            self.model = _inference_form(self.model, precision, self.data_config["input_size"])

    def _read(self, form: formats.Format, path: Path, accelerator: str, precision: Precision) -> None:
        found = exported_model.read(form, path, accelerator, precision, self.batch_size)
        self.name, self.device = str(path), torch.device("cpu")
        self.classes, self.data_config = found.classes, found.data_config
        self.calibrate_file(found)
        self.model = found.module

    @abstractmethod
    def calibrate(self, config: Mapping[str, Any]) -> None:
        """Take what makes answers of outputs from a model's config.json; empty of timm's own models."""

    @abstractmethod
    def calibrate_file(self, found: ExportedModel) -> None:
        """The same from an exported file."""

    def outputs(self, pixels: Tensor) -> Tensor:
        """What the model gives.

        Args:
            pixels: float32 `[B, 3, H, W]`, of `transform`.

        Returns:
            float64 `[B, C]`, on the CPU.

        Raises:
            ModelError: An output is not finite.
        """
        with torch.inference_mode():
            found: Tensor = self.model(pixels.to(self.device, non_blocking=True)).float().cpu().double()
        if not found.isfinite().all():
            raise ModelError(
                f"{self.name} gives NaN or infinite logits: its weights are damaged, or diverged in training"
            )
        return found

    def prepared(self, pictures: Sequence[Image.Image | str | Path]) -> Iterator[Tensor]:
        """Images of any mode and orientation, or paths of image files, as batches of float32 `[B, 3, H, W]`.

        Raises:
            DatasetError: An image cannot be read.
        """
        for start in range(0, len(pictures), self.batch_size):
            batch = [self._pixels(i, p) for i, p in enumerate(pictures[start : start + self.batch_size], start)]
            yield torch.stack(batch)

    def _pixels(self, index: int, picture: Image.Image | str | Path) -> Tensor:
        try:
            if isinstance(picture, Image.Image):
                return self.transform(images.to_rgb(ImageOps.exif_transpose(picture)))
            return self.transform(images.decode(str(Path(picture).expanduser().absolute())))
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a broken PNG
            name = "" if isinstance(picture, Image.Image) else f" ({picture})"
            raise DatasetError(f"image {index}{name} cannot be read: {' '.join(str(error).split())}") from error


def config_of(name: str) -> dict[str, Any]:
    """A model's config.json; empty of timm's own models.

    Args:
        name: As `finetune.networks.models.build` takes it.
    """
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        path = Path(place) / "config.json"
    elif scheme in ("hf-hub", "hf_hub"):
        repo, _, revision = place.partition("@")
        path = Path(hf_hub_download(repo, "config.json", revision=revision or None))
    else:
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _inference_form(model: nn.Module, precision: Precision, input_size: tuple[int, int, int]) -> nn.Module:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        return optimize(model, dtype=dtype, input_size=input_size)
    except OptimizeError as error:
        if precision == "bf16":
            raise ConfigError(f"--precision bf16: this model has no such form ({error}); use --precision 32") from error
        log.info(f"the model runs as it is: {error}")
        return model
