"""Flags of the verbs besides train, one dataclass each; imports no torch, like `finetune.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from finetune.config import AUTO, INFERRED, NONE, OWN, valid_devices
from finetune.errors import ConfigError
from finetune.limits import MAX_IMAGE_PIXELS

Protocol = Literal["timm", "paper"]

_DATASET = tyro.conf.arg(metavar="NAME|PATH", help_behavior_hint="(default: the run's own)")
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
        values = {name: getattr(self, name) for name in least}
        problems = [
            f"--{name.replace('_', '-')} must be at least {least[name]}, got {value}"
            for name, value in values.items()
            if value is not None and value < least[name]
        ]
        if not valid_devices(self.devices):
            problems.append(f"--devices must be auto, a number such as 2, or indices such as 0,3, got {self.devices!r}")
        if self.dataset is None:
            of_dataset = ("image_size", "dataset_config", "revision", "image_column", "target_column", "max_samples")
            given = [name for name in of_dataset if getattr(self, name) is not None]
            given += ["protocol"] if self.protocol != "timm" else []
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            if given:
                problems.append(f"{flags}: only with --dataset, for a run is evaluated as it was made")
        if problems:
            raise ConfigError("; ".join(problems))
