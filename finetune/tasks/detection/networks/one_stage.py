"""What FCOS and RetinaNet lose in training, see `finetune.tasks.detection.networks.losses`."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from finetune.tasks.detection.networks.layout import Layout
from finetune.tasks.detection.networks.parts import Part, exact


def of_one_stage(
    model: Any, layout: Layout, batch: ImageList, maps: list[Tensor], targets: list[dict[str, Any]]
) -> dict[str, Part]:
    """Losses of FCOS and RetinaNet: torchvision's sums, which it divides by the objects of a batch, or of an image."""
    found = {name: exact(of) for name, of in model.head(maps).items()}
    anchors = model.anchor_generator(batch, maps)
    if layout.detector == "retinanet":
        losses = model.compute_loss(targets, found, anchors)  # a mean over images of what each is divided by itself
        return {name: Part(loss * len(targets), len(targets)) for name, loss in losses.items()}
    return _fcos(model, found, anchors, [one.shape[2] * one.shape[3] for one in maps], targets)


def _fcos(
    model: Any, found: dict[str, Tensor], anchors: list[Tensor], per_level: list[int], targets: list[dict[str, Any]]
) -> dict[str, Part]:
    """Torchvision's losses of FCOS, which divide by the points on objects: these are counted on their way."""
    head = _CountingHead(model.head)
    of_anyone: Any = type(model)
    losses = of_anyone.compute_loss(_WithHead(model.center_sampling_radius, head), targets, found, anchors, per_level)
    return {name: Part(loss * max(1, head.points), head.points) for name, loss in losses.items()}


class _WithHead(NamedTuple):
    """What `FCOS.compute_loss` needs of its model."""

    center_sampling_radius: float
    head: Any


class _CountingHead:
    """torchvision's `FCOSHead`, and the points on objects that it was given."""

    def __init__(self, head: Any) -> None:
        self.head, self.points = head, 0

    def compute_loss(
        self, targets: list[dict[str, Any]], found: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> Any:
        """As the head."""
        self.points = sum(int((of_image >= 0).sum()) for of_image in matched)
        return self.head.compute_loss(targets, found, anchors, matched)
