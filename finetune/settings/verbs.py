"""Flags of the verbs besides train, one dataclass each; imports no torch, like `finetune.settings.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from finetune.errors import ConfigError
from finetune.settings.checks import valid_devices
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.settings.of_tasks import BoxFormat
from finetune.settings.options import AUTO, INFERRED, NONE, OWN

Protocol = Literal["timm", "paper"]

_DATASET = tyro.conf.arg(metavar="NAME|PATH", help_behavior_hint="(default: the run's own)")
_FORMAT = tyro.conf.arg(help_behavior_hint="(default: table on a terminal, else json)")
_STDOUT = tyro.conf.arg(help_behavior_hint="(default: standard output)")
_IN_MODEL = tyro.conf.arg(help_behavior_hint="(default: RUN/model/model.onnx, or model.xml)")
_PORT = tyro.conf.arg(help_behavior_hint="(default: the first free one from 7860)")
_TOP = tyro.conf.arg(help_behavior_hint="(default: 5; of several classes an image, all above thresholds)")
_SPLIT = tyro.conf.arg(help_behavior_hint="(default: test, else validation)")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluate a finished run again, or any model on any dataset, in float32.

    RUN alone: its exported model on the images that its splits.json names, beside the numbers of its result.json. With
    --dataset: RUN's or any other model on a whole split, with 95% intervals, beside the published number where there is
    one.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODEL")]
    """Run folder, or a model: timm name, hf-hub:OWNER/NAME or local-dir:PATH, with its pretrained weights."""
    dataset: Annotated[str | None, _DATASET] = None
    """Dataset to evaluate on, as train takes it; needed for a MODEL."""
    split: Annotated[str | None, _SPLIT] = None
    """Split to evaluate on; of a run without --dataset: test, validation or train."""
    protocol: Protocol = "timm"
    """How images are prepared: timm, as the model's config says; paper, the ResNeSt authors' centre crop of side
    short * size / (size + 32) and bicubic resize."""
    image_size: Annotated[int | None, OWN] = None
    """Side of the square input in pixels."""
    dataset_config: Annotated[str | None, NONE] = None
    """Configuration of a Hub dataset that has several."""
    revision: Annotated[str | None, NONE] = None
    """Branch, tag or commit of a Hub dataset."""
    image_column: Annotated[str | None, INFERRED] = None
    """Column that holds the images."""
    target_column: Annotated[str | None, INFERRED] = None
    """Column that holds the classes."""
    box_format: Annotated[BoxFormat | None, INFERRED] = None
    """What the numbers of a box are, where they do not tell: xywh, xyxy or cxcywh, in pixels or normalised."""
    max_samples: Annotated[int | None, NONE] = None
    """Use at most so many images, drawn by class, for a quick try."""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Leave out images of more pixels before they are decoded."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, ..."""
    devices: str = "1"
    """How many devices; every image is counted once, the numbers do not depend on it."""
    batch_size: int = 64
    """Images per batch and device."""
    workers: Annotated[int | None, AUTO] = None
    """Processes per device that decode images; chosen from the cores at hand."""
    json: bool = False
    """Print the numbers as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        least = {"image_size": 1, "max_samples": 1, "max_image_pixels": 1, "batch_size": 1, "workers": 0}
        problems = _too_small(self, least)
        if not valid_devices(self.devices):
            problems.append(f"--devices must be auto, a number such as 2, or indices such as 0,3, got {self.devices!r}")
        if self.dataset is None:
            of_dataset = "image_size dataset_config revision image_column target_column box_format max_samples"
            given = [name for name in of_dataset.split() if getattr(self, name) is not None]
            given += ["protocol"] if self.protocol != "timm" else []
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            if given:
                problems.append(f"{flags}: only with --dataset, for a run is evaluated as it was made")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Classify images: names and calibrated probabilities, one line for each image as soon as its batch is done.

    Preprocessing and arithmetic are those of the evaluation. What cannot be read is reported, on standard error and as
    an entry with `error`; the rest goes on.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODEL|FILE")]
    """Run or model folder, or a model: timm name, hf-hub:OWNER/NAME or local-dir:PATH; or what export wrote, alone:
    RUN/model/model.onnx or model.xml, faster on most CPUs."""
    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATHS")] = ()
    """Image files, folders (with the folders in them), or patterns such as 'photos/**/*.jpg'."""
    dataset: Annotated[str | None, NONE] = None
    """In place of PATHS: a dataset as train takes it; it needs no labels."""
    split: Annotated[str | None, NONE] = None
    """Split of --dataset; of a RUN without --dataset: test, validation or train, as in its splits.json."""
    dataset_config: Annotated[str | None, NONE] = None
    """Configuration of a Hub dataset that has several."""
    revision: Annotated[str | None, NONE] = None
    """Branch, tag or commit of a Hub dataset."""
    image_column: Annotated[str | None, INFERRED] = None
    """Column that holds the images."""
    top_k: Annotated[int | None, _TOP] = None
    """Most probable classes to name."""
    min_confidence: float = 0.0
    """Abstain (label null) where the most probable class is less probable."""
    format: Annotated[Literal["json", "csv", "table", "coco"] | None, _FORMAT] = None
    """json: one object a line; csv; table: short lines for people; coco, of detection: one file as COCO's, with
    scores."""
    output: Annotated[Path | None, _STDOUT] = None
    """File to write; it appears when everything is done. Of semantic segmentation, and with --overlay: a folder."""
    overlay: bool = False
    """Of semantic segmentation and detection: also write each image with what was found drawn over it, to the folder
    --output."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps."""
    precision: Literal["32", "bf16"] = "32"
    """bf16 is faster on a recent GPU or a CPU with AMX; probabilities then differ in the second or third digit."""
    batch_size: int = 64
    """Images per batch."""
    workers: Annotated[int | None, AUTO] = None
    """Processes that decode images; chosen from the cores at hand."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = _too_small(self, {"top_k": 1, "batch_size": 1, "workers": 0})
        if isinstance(self.paths, str):
            raise ConfigError(f"paths must be a sequence of paths, got the text {self.paths!r}: write [{self.paths!r}]")
        if not 0 <= self.min_confidence <= 1:
            problems.append(f"--min-confidence must be at least 0 and at most 1, got {self.min_confidence}")
        if self.paths and (self.dataset or self.split):
            problems.append("expected either PATHS or --dataset and --split, got both")
        elif not (self.paths or self.dataset or self.split):
            problems.append("PATHS must be given, or --dataset, or of a RUN --split: what shall be classified?")
        if self.dataset is None:
            of_dataset = [name for name in ("dataset_config", "revision", "image_column") if getattr(self, name)]
            flags = ", ".join("--" + name.replace("_", "-") for name in of_dataset)
            problems += [f"{flags}: only with --dataset"] if flags else []
        if self.output is not None and not Path(self.output).is_dir():  # a task may write into a folder
            problems += output_problems(Path(self.output))
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's model in another form, and compare its outputs with the model's on real test images.

    Any batch size; the metadata say how to prepare an image, the classes and the temperature. Nothing is written when
    the logits differ. `predict` takes the file in place of the run, and is faster so on most CPUs. Of a detector (onnx
    alone): one image of any size -> boxes, labels, scores, masks; nothing is written when it finds other objects.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODEL")]
    """Run folder, or a model's folder."""
    format: Literal["onnx", "openvino"] = "onnx"
    """onnx: one file, run by onnxruntime; openvino: a .xml file and its weights in .bin, run by OpenVINO."""
    output: Annotated[Path | None, _IN_MODEL] = None
    """File to write."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: The file cannot be written.
        """
        problems = output_problems(Path(self.output)) if self.output else []
        suffix = {"onnx": ".onnx", "openvino": ".xml"}[self.format]
        if self.output and Path(self.output).suffix != suffix:  # predict knows the format by it
            problems.append(f"--output {self.output}: expected a name that ends in {suffix}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Open a page in the browser: drop an image, see its classes with calibrated probabilities.

    Of a ResNeSt it also shows which splits its attention prefers. The page is served to this machine alone, asks no
    other machine for anything, and keeps no image.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODEL")]
    """Run or model folder, or a model: timm name, hf-hub:OWNER/NAME or local-dir:PATH."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is for everybody who reaches this machine."""
    port: Annotated[int | None, _PORT] = None
    """Port to listen on."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: The port is none.
        """
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(f"--port must be at least 1 and at most 65535, got {self.port}")


def output_problems(path: Path) -> list[str]:
    """Why a file cannot be written, as far as can be known before."""
    if path.is_dir():
        return [f"--output {path} is a folder: give a file's name"]
    folder = path.expanduser().absolute().parent
    return [] if folder.is_dir() else [f"--output {path}: there is no folder {folder}"]


def _too_small(options: object, least: dict[str, int]) -> list[str]:
    values = {name: getattr(options, name) for name in least}
    return [
        f"--{name.replace('_', '-')} must be at least {least[name]}, got {value}"
        for name, value in values.items()
        if value is not None and value < least[name]
    ]
