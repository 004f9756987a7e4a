"""What torchvision's detectors lose in training, as sums and counts, and with draws that depend on the image alone.

torchvision divides by what the images of one process have, and draws anchors and regions from the global generator: the
gradient would then depend on how many processes share a batch. Here sums and what they are to be divided by are kept
apart, so that the division can be by the count over all processes, and each image has a generator of its own.

The parts (matching, coding, heads) are torchvision's; so are the losses, of `rpn.py`, `roi_heads.py`, `retinanet.py`
and `fcos.py` in https://github.com/pytorch/vision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from finetune.tasks.detection.networks.cascade import OVERLAPS, CascadeHeads
from finetune.tasks.detection.networks.draws import Draws
from finetune.tasks.detection.networks.layout import Layout
from finetune.tasks.detection.networks.one_stage import of_one_stage
from finetune.tasks.detection.networks.parts import Part, exact
from finetune.tasks.detection.networks.pooling import pool

Target = dict[str, Any]
STAGE_WEIGHTS = (1.0, 0.5, 0.25)
"""Of a cascade's three heads, as in https://github.com/zhaoweicai/cascade-rcnn."""


MASKED = 32
"""Regions of an image that the mask head is taught on at most, drawn from all that show an object.

Mask R-CNN (https://arxiv.org/abs/1703.06870) takes all, up to 128 of 512: on CPUs their masks cost more than all else,
and tell less the more of them are of one object. The loss is a mean over regions, so that its expectation stays.
"""


def together(model: nn.Module, images: Sequence[Tensor]) -> ImageList:
    """Images of several sizes as one batch, filled up with zeros at the right and below, as torchvision does."""
    described: Any = model
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    return ImageList(described.transform.batch_images(list(images), 32), sizes)


def of_batch(model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target], draws: Draws) -> dict[str, Part]:
    """All losses of a batch.

    Args:
        model: Of `build`, in train mode.
        images: float32 `[3, h, w]`, normalised, in their size.
        targets: `boxes` float32 `[n, 4]` xyxy in their pixels, `labels` int64 `[n]` without background, and uint8
            `masks` `[n, h, w]` where the model has masks; n may be 0.
        draws: Made of these images.
    """
    described: Any = model
    layout: Layout = described.layout
    batch = together(model, images)
    features = described.backbone(batch.tensors)
    features = {name: exact(one) for name, one in features.items()}
    truth = [dict(target, labels=target["labels"] + layout.background) for target in targets]
    if layout.one_stage:
        return of_one_stage(described, layout, batch, list(features.values()), truth)
    proposals, parts = _regions(described.rpn, batch, features, truth, draws)
    heads = _cascade if isinstance(described.roi_heads, CascadeHeads) else _heads
    return parts | heads(described.roi_heads, features, proposals, batch.image_sizes, truth, draws)


def _regions(
    rpn: Any, batch: ImageList, features: dict[str, Tensor], targets: list[Target], draws: Draws
) -> tuple[list[Tensor], dict[str, Part]]:
    """Regions that the second stage looks at, and the losses of the network that proposes them."""
    maps = list(features.values())
    objectness, corrections = ([exact(level) for level in of] for of in rpn.head(maps))
    anchors = rpn.anchor_generator(batch, maps)
    per_level = [level[0].numel() for level in objectness]
    objectness, corrections = concat_box_prediction_layers(objectness, corrections)
    proposals = rpn.box_coder.decode(corrections.detach(), anchors).view(len(anchors), -1, 4)
    boxes, _ = rpn.filter_proposals(proposals, objectness, batch.image_sizes, per_level)
    labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
    wanted = torch.cat(rpn.box_coder.encode(matched, anchors))
    taken = draws.sample(labels, rpn.fg_bg_sampler)
    taken_all = torch.cat([places + n * len(anchors[0]) for n, places in enumerate(taken)])
    truth = torch.cat(labels)
    positive = taken_all[truth[taken_all] > 0]
    on_objects = F.binary_cross_entropy_with_logits(objectness.flatten()[taken_all], truth[taken_all], reduction="sum")
    on_boxes = F.smooth_l1_loss(corrections[positive], wanted[positive], beta=1 / 9, reduction="sum")
    return boxes, {"objectness": Part(on_objects, len(taken_all)), "region": Part(on_boxes, len(taken_all))}


class _Chosen(NamedTuple):
    """Regions of each image that a head is taught on."""

    boxes: list[Tensor]
    labels: list[Tensor]
    matched: list[Tensor]  # index of the object
    wanted: list[Tensor]  # box of the object


def _choose(heads: Any, boxes: list[Tensor], targets: list[Target], matcher: Any, draws: Draws | None) -> _Chosen:
    """Match regions with objects; some of them are drawn where `draws` are given, and the objects are among them."""
    truth = [target["boxes"].to(boxes[0].dtype) for target in targets]
    if draws is not None:
        boxes = heads.add_gt_proposals(boxes, truth)
    chosen = _Chosen([], [], [], [])
    places = [_match(one, of, target["labels"], matcher) for one, of, target in zip(boxes, truth, targets, strict=True)]
    taken = None if draws is None else draws.sample([labels for labels, _ in places], heads.fg_bg_sampler)
    for number, (labels, matched) in enumerate(places):
        keep = torch.arange(len(labels), device=labels.device) if taken is None else taken[number]
        objects = truth[number] if len(truth[number]) else truth[number].new_zeros(1, 4)
        chosen.boxes.append(boxes[number][keep])
        chosen.labels.append(labels[keep])
        chosen.matched.append(matched[keep])
        chosen.wanted.append(objects[matched[keep]])
    return chosen


def _match(boxes: Tensor, truth: Tensor, labels: Tensor, matcher: Any) -> tuple[Tensor, Tensor]:
    """Class (0 background, -1 neither) and object of each region."""
    if not len(truth):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing
    found = matcher(box_iou(truth, boxes))
    matched = found.clamp(min=0)
    classes = labels[matched].clone()
    classes[found == matcher.BELOW_LOW_THRESHOLD] = 0
    classes[found == matcher.BETWEEN_THRESHOLDS] = -1
    return classes, matched


def _heads(
    heads: Any,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    sizes: list[tuple[int, int]],
    targets: list[Target],
    draws: Draws,
) -> dict[str, Part]:
    """Losses of Fast R-CNN's head, and of Mask R-CNN's where there is one."""
    chosen = _choose(heads, proposals, targets, heads.proposal_matcher, draws)
    pooled = pool(heads.box_roi_pool, features, chosen.boxes, sizes)
    logits, corrections = map(exact, heads.box_predictor(heads.box_head(pooled)))
    labels = torch.cat(chosen.labels)
    own = corrections.view(len(labels), -1, 4)
    positive = torch.where(labels > 0)[0]
    wanted = torch.cat(heads.box_coder.encode(chosen.wanted, chosen.boxes))
    parts = {
        "class": Part(F.cross_entropy(logits, labels, reduction="sum"), len(labels)),
        "box": Part(
            F.smooth_l1_loss(own[positive, labels[positive]], wanted[positive], beta=1 / 9, reduction="sum"),
            len(labels),
        ),
    }
    return parts | _masks(heads, features, chosen, sizes, targets, draws)


def _cascade(
    heads: CascadeHeads,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    sizes: list[tuple[int, int]],
    targets: list[Target],
    draws: Draws,
) -> dict[str, Part]:
    """Losses of the three heads: each on the boxes of the one before it; drawn once, at the first."""
    parts: dict[str, Part] = {}
    chosen = first = _choose(heads, proposals, targets, heads.matchers[0], draws)
    for number in range(len(OVERLAPS)):
        pooled = pool(heads.box_roi_pool, features, chosen.boxes, sizes)
        logits, corrections = map(exact, heads.stage(number, pooled))
        labels = torch.cat(chosen.labels)
        positive = torch.where(labels > 0)[0]
        wanted = torch.cat(heads.coders[number].encode(chosen.wanted, chosen.boxes))
        on_boxes = F.smooth_l1_loss(corrections[positive], wanted[positive], beta=1 / 9, reduction="sum")
        on_classes = F.cross_entropy(logits, labels, reduction="sum")
        weight = STAGE_WEIGHTS[number]
        parts |= {f"class_{number + 1}": Part(weight * on_classes, len(labels))}
        parts |= {f"box_{number + 1}": Part(weight * on_boxes, len(labels))}
        if number + 1 < len(OVERLAPS):
            boxes = _solid(heads.refined(number, corrections, chosen.boxes, sizes))
            chosen = _choose(heads, boxes, targets, heads.matchers[number + 1], None)
    return parts | _masks(heads, features, first, sizes, targets, draws)


def _solid(boxes: list[Tensor]) -> list[Tensor]:
    """Without boxes that clipping has left no area: their corrections would be infinite."""
    return [of_image[((of_image[:, 2:] - of_image[:, :2]) > 1e-3).all(1)] for of_image in boxes]


def _masks(
    heads: Any,
    features: dict[str, Tensor],
    chosen: _Chosen,
    sizes: list[tuple[int, int]],
    targets: list[Target],
    draws: Draws,
) -> dict[str, Part]:
    """Loss of the masks within regions that show an object."""
    if not heads.has_mask():
        return {}
    positive = draws.few([torch.where(labels > 0)[0] for labels in chosen.labels], MASKED)
    boxes = [of[keep] for of, keep in zip(chosen.boxes, positive, strict=True)]
    logits = exact(heads.mask_predictor(heads.mask_head(pool(heads.mask_roi_pool, features, boxes, sizes))))
    labels = torch.cat([of[keep] for of, keep in zip(chosen.labels, positive, strict=True)])
    if not len(labels):  # the same graph as with objects
        return {"mask": Part(logits.sum() * 0, 0)}
    side = logits.shape[-1]
    wanted = torch.cat(
        [
            project_masks_on_boxes(target["masks"], of, matched[keep], side)
            for target, of, matched, keep in zip(targets, boxes, chosen.matched, positive, strict=True)
            if len(keep)
        ]
    )
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return {"mask": Part(F.binary_cross_entropy_with_logits(own, wanted, reduction="sum"), wanted.numel())}
