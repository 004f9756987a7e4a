"""How a detector learns: its network, its anchors, what trains on what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import log
from finetune.errors import ConfigError
from finetune.settings.config import RunConfig
from finetune.settings.options import fields
from finetune.task import Learner, Schema
from finetune.tasks.detection import prepare
from finetune.tasks.detection.module import DetectionTask
from finetune.tasks.detection.networks import anchors, build, scaling
from finetune.tasks.detection.networks.layout import WITH_MASKS, Layout

_MODEL = ("image_size", "max_size", "drop_path", "zero_init_last")
_TASK = ("optimizer", "lr", "weight_decay", "warmup_epochs", "schedule", "seed")
REGIONS = (128, 256, 512)
"""Regions of an image that the second stage may be taught on."""
LOOKED_AT = 256
"""Training images by whose objects the anchors are chosen."""
_SCALED = 8  # training images by which the pyramid is scaled
_FEW = 64  # of them, on which is seen whether anchors reach

PRETRAINED: dict[str, Any] = {
    "epochs": 40,
    "batch_size": 8,
    "optimizer": "adamw",
    "lr": 2e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "clip_grad": 1.0,
    "image_size": 512,
    "crop_scale": 0.35,
    "hflip": 0.5,
    "label_smoothing": 0.0,
    "batch_norm": "held",
}
"""Of pretrained backbones, frozen ones too."""
SCRATCH = PRETRAINED | {"epochs": 80, "lr": 5e-4, "batch_norm": "trained"}
"""Of random weights."""
REFUSED = {
    "label_smoothing": "has no labels of whole images to smooth",
    "mixup": "has boxes, which cannot be mixed",
    "cutmix": "has boxes, which cannot be pasted",
    "auto_augment": "has boxes, which would not change with the image",
    "random_erasing": "has boxes, which would not change with the image",
    "imbalance": "has no one class an image",
    "head_init": "has no linear classifier to begin with, and no probe",
    "dropout": "has no classifier to drop before",
    "drop_block": "has it in no part of its backbone",
    "layer_decay": "has no single order of layers",
    "unfreeze_every": "freezes its backbone to the end",
    "grad_checkpointing": "cannot compute its activations again",
    "streaming": "reads its boxes before the training",
}
"""Settings that make no sense here, and why."""


def preset(config: RunConfig) -> dict[str, Any]:
    """The values where the user gives none."""
    return dict(PRETRAINED if config.pretrained else SCRATCH)


def network(config: RunConfig, schema: Schema, pretrained: bool, masks: bool) -> nn.Module:
    """The detector, with a new head and torchvision's anchors.

    Raises:
        ConfigError: The kind of detector is for the other task.
        ModelError: It cannot be built.
        ExportError: Stock timm cannot build its backbone.
    """
    detector = config.detector or ("mask-rcnn" if masks else "faster-rcnn")
    if (detector in WITH_MASKS) != masks:
        kinds = "mask-rcnn and cascade-mask-rcnn" if masks else "faster-rcnn, cascade-rcnn, fcos and retinanet"
        raise ConfigError(f"--detector {detector}: {schema.task} has {kinds}")
    return build.build(config.model, detector, len(schema.classes), pretrained, **fields(config, _MODEL))


def learner(config: RunConfig, images: Any, model: nn.Module) -> Learner:
    """What trains on what, with the anchors that fit the training images, and maps of their size."""
    described: Any = model
    fit_anchors(model, described.layout, images)
    if config.pretrained:  # else norms that train keep the maps at their size
        scaling.level(model, _pixels(described.layout, images))
    return Learner(DetectionTask(model, **fields(config, _TASK)), images)


@dataclass(frozen=True)
class Sample:
    """The objects of some training images, as the detector looks at them.

    Attributes:
        boxes: For each image float32 `[n, 4]` xyxy, in pixels.
        sizes: Height and width of these images.
    """

    boxes: list[Tensor]
    sizes: list[tuple[int, int]]

    @property
    def sides(self) -> np.ndarray:
        """float64 `[M, 2]`, widths and heights of all objects."""
        joined = torch.cat([torch.zeros(0, 4), *self.boxes]).double()
        result: np.ndarray = (joined[:, 2:] - joined[:, :2]).numpy()
        return result[(result > 0).all(1)]


def sample(images: Any) -> Sample:
    """Of at most `LOOKED_AT` training images, spread over all of them and not changed at random."""
    rows = images.eval_dataloader("train").dataset
    places = np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows)), dtype=np.int64)).tolist()
    found = Sample([], [])
    for place in places:
        (pixels,), (target,) = rows[[(0, place)]]
        plain = target["boxes"][~target["iscrowd"]]
        found.boxes.append(plain * torch.tensor(pixels.shape[-1] / target["size"][1]))
        found.sizes.append((pixels.shape[-2], pixels.shape[-1]))
    return found


def _pixels(layout: Layout, images: Any) -> list[Tensor]:
    """A few training images, as the model looks at them."""
    rows = images.eval_dataloader("train").dataset
    places = np.unique(np.linspace(0, len(rows) - 1, min(_SCALED, len(rows)), dtype=np.int64)).tolist()
    return [prepare.normalised(rows[[(0, place)]][0][0], layout) for place in places]


def fit_anchors(model: nn.Module, layout: Layout, images: Any) -> None:
    """Give the model the anchors and the number of regions that fit, and say so before the first step."""
    looked_at = sample(images)
    layout = anchors.fitted(layout, looked_at.sides)
    anchors.install(model, layout)
    for line in said(layout, looked_at):
        log.info(line)
    if not layout.one_stage:
        described: Any = model
        count = regions(looked_at)
        described.roi_heads.fg_bg_sampler.batch_size_per_image = count
        log.info(f"regions: {count} of each training image teach the second stage")


def regions(looked_at: Sample) -> int:
    """How many regions of an image the second stage is taught on: two positive ones an object, and three others each.

    128 as in Fast R-CNN (https://arxiv.org/abs/1504.08083) up to the 512 of feature pyramid networks
    (https://arxiv.org/abs/1612.03144) and torchvision, for images with many objects: each costs time.
    """
    many = float(np.quantile([len(boxes) for boxes in looked_at.boxes], 0.9)) if looked_at.boxes else 0.0
    return next(count for count in REGIONS if count >= 8 * many or count == REGIONS[-1])


def said(layout: Layout, looked_at: Sample) -> Iterator[str]:
    """Lines on the objects' sizes, the anchors, and how many of the objects these reach."""
    sides = looked_at.sides
    if not len(sides):
        return
    lengths = np.sqrt(sides.prod(1))
    low, middle, high = np.quantile(lengths, [0.1, 0.5, 0.9])
    text = f"objects: {low:.0f}, {middle:.0f} and {high:.0f} pixels (a tenth, half, nine tenths are smaller)"
    if layout.detector != "fcos":
        share = anchors.reached(layout, looked_at.boxes[:: _every(looked_at)], looked_at.sizes[:: _every(looked_at)])
        sizes = ", ".join(f"{level[0]:.4g}" for level in layout.anchor_sizes)
        ratios = ", ".join(f"{ratio:.3g}" for ratio in layout.aspect_ratios)
        text += f"; anchors of {sizes} pixels, heights {ratios} times the widths, reach {100 * share:.1f} % of them"
    yield text
    small = float((lengths < anchors.SMALL).mean())
    if small > 0.01:
        yield (
            f"warning: {100 * small:.0f} % of the objects are smaller than {anchors.SMALL} pixels in the images that "
            f"the detector looks at, which it will hardly find: a larger --image-size than {layout.min_size} helps"
        )


def _every(looked_at: Sample) -> int:
    return max(1, len(looked_at.boxes) // _FEW)
