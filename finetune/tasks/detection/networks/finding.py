"""What a detector finds in images that the loader has resized and normalised: torchvision's steps without its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from finetune.tasks.detection.networks.layout import Layout
from finetune.tasks.detection.networks.losses import together

Found = dict[str, Any]
"""Of an image: `boxes` float32 `[n, 4]` xyxy in the original's pixels, `scores` `[n]`, `labels` int64 `[n]` without
background, and of a model with masks `rles`, n of COCO's compressed run lengths at the original's size."""

_AT_ONCE = 8  # masks, at the size of the image


def find(model: nn.Module, image: Tensor, size: tuple[int, int]) -> Found:
    """What is in one image: on its own, for in a batch its answer would depend on the others' sizes.

    Args:
        model: Of `build`, in eval mode.
        image: float32 `[3, h, w]`, normalised, as large as the model looks at it.
        size: Height and width of the original, in whose pixels the answer is.
    """
    return placed(seen(model, together(model, [image])), (image.shape[-2], image.shape[-1]), size)


def seen(model: nn.Module, batch: ImageList) -> dict[str, Tensor]:
    """What is in a batch of one image, in the pixels that the model looks at.

    Returns:
        `boxes` float32 `[n, 4]` xyxy, `labels` int64 `[n]` without background, `scores` float32 `[n]`, and of a model
        with masks `masks` float32 `[n, 1, 28, 28]`, probabilities within the boxes.
    """
    described: Any = model
    layout: Layout = described.layout
    features = described.backbone(batch.tensors)
    if layout.one_stage:
        (found,) = _one_stage(described, batch, list(features.values()))
    else:
        proposals, _ = described.rpn(batch, features)
        (found,), _ = described.roi_heads(features, proposals, batch.image_sizes)
    answer = {"boxes": found["boxes"], "labels": found["labels"] - layout.background, "scores": found["scores"]}
    return answer | ({"masks": found["masks"]} if layout.masks else {})


def placed(found: Mapping[str, Tensor], looked_at: tuple[int, int], size: tuple[int, int]) -> Found:
    """What was `seen` in the pixels of the original.

    Args:
        found: Of `seen`.
        looked_at: Height and width of what the model looked at.
        size: Those of the original.
    """
    boxes = resize_boxes(found["boxes"], looked_at, size)
    answer: Found = {"boxes": boxes, "scores": found["scores"], "labels": found["labels"]}
    return answer | ({"rles": encoded(found["masks"], boxes, size)} if "masks" in found else {})


def _one_stage(model: Any, batch: Any, maps: list[Tensor]) -> list[dict[str, Tensor]]:
    """As `FCOS.forward` and `RetinaNet.forward` after their transform."""
    outputs = model.head(maps)
    per_location = model.anchor_generator.num_anchors_per_location()
    counts = [one.shape[2] * one.shape[3] * per_location[level] for level, one in enumerate(maps)]
    by_level = {name: list(of.split(counts, dim=1)) for name, of in outputs.items()}
    anchors = [list(of.split(counts)) for of in model.anchor_generator(batch, maps)]
    found: list[dict[str, Tensor]] = model.postprocess_detections(by_level, anchors, batch.image_sizes)
    return found


def encoded(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks within boxes as compressed run lengths of the whole image, a few at a time.

    Args:
        masks: float32 `[n, 1, 28, 28]`, probabilities.
        boxes: float32 `[n, 4]` xyxy, in pixels of the whole image.
        size: Its height and width.
    """
    rles: list[dict[str, Any]] = []
    for some, of in zip(torch.split(masks, _AT_ONCE), torch.split(boxes, _AT_ONCE), strict=True):
        if len(some):
            pasted = (paste_masks_in_image(some, of, size)[:, 0] >= 0.5).byte().cpu().numpy()
            rles += coco_mask.encode(np.asfortranarray(pasted.transpose(1, 2, 0)))
    return rles
