"""Published accuracies, to put beside one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from finetune.data.dataset import LabelledImages
from finetune.evaluation.labels import is_imagenet
from resnest_timm.zoo.catalogue import CHECKPOINTS, Checkpoint, published_by

Benchmark = Literal["imagenet-1k", "imagenet-v2"]

_VALIDATION = ("val", "valid", "validation")


@dataclass(frozen=True)
class Published:
    """What was published for a model's weights on a benchmark.

    Attributes:
        benchmark: The images.
        source: Whose number it is.
        metrics: Shares, by the names of our own metrics.
    """

    benchmark: Benchmark
    source: str
    metrics: dict[str, float]


def benchmark(data: LabelledImages) -> Benchmark | None:
    """Which benchmark a dataset's evaluated split is, if it is one whose numbers were published.

    ImageNet's validation split, under the Hub's or a folder's usual names; ImageNet-V2's matched-frequency images (its
    two other selections are easier).
    """
    name = data.source.id.lower()
    split = data.splits.parts["test"].source.lower()
    if re.search(r"imagenet[-_]?v2", name):
        numbered = set(data.schema.classes) == {str(i) for i in range(1000)}
        other = re.search(r"threshold|top[-_]?images", f"{name} {data.source.config or ''} {split}")
        return "imagenet-v2" if (numbered or is_imagenet(data.schema.classes)) and not other else None
    whole = split in _VALIDATION or (len(data.source.splits) == 1 and name in _VALIDATION)
    return "imagenet-1k" if whole and is_imagenet(data.schema.classes) else None


def find(model: nn.Module, images: Benchmark, protocol: str, image_size: int) -> Published | None:
    """The published accuracy of a model's released weights.

    Args:
        model: With the pretrained config of the weights that it was loaded with.
        images: The benchmark.
        protocol: `timm` or `paper`.
        image_size: Side of the square input, in pixels; nothing is published for others than the model's own.
    """
    config: Any = getattr(model, "pretrained_cfg", {})
    loaded = published_by(config.get("hf_hub_id") or config.get("url") or "")
    row = _measured_by(loaded, protocol) if loaded else None
    if row is None or row.image_size != image_size:
        return None
    if images == "imagenet-v2":
        metrics = {"accuracy": row.v2_top1}
    else:
        metrics = {"accuracy": row.top1, "top5_accuracy": row.top5}
    shares = {name: value / 100 for name, value in metrics.items() if value is not None}
    whose = {"timm": "timm's results", "paper": "the authors, PyTorch", "gluon": "the authors, Gluon"}[row.protocol]
    return Published(images, whose, shares) if shares else None


def _measured_by(loaded: Checkpoint, protocol: str) -> Checkpoint | None:
    """The row of the same weights under a protocol: timm's repositories hold the authors' weights, converted."""
    rows = [row for row in CHECKPOINTS if row.architecture == loaded.architecture]
    wanted = ("timm",) if protocol == "timm" else ("paper", "gluon")
    return next((row for measured in wanted for row in rows if row.protocol == measured), None)
