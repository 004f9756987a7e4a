"""An image and its objects together: changed at random in training, as the exported model sees them in evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from finetune.data import images
from finetune.loading import jpeg
from finetune.loading.augment import resize
from finetune.tasks.detection.loading.cropping import OverlapCrop, Part
from finetune.tasks.detection.reads import frame, masks
from finetune.tasks.detection.reads.annotations import NOTHING, Objects, objects, parse
from finetune.tasks.detection.reads.columns import Where
from finetune.tasks.detection.reads.masks import RLE

Target = dict[str, Any]
_CROPPED = 0.5  # of the training images, where there are crops
_SMALLEST = 0.6  # of the short side, in the scale jitter
_LEAST = 1.0  # pixels that a side of a box must have after all of it


class DetectionInputs:
    """`finetune.task.Inputs` of images with objects.

    An image keeps its shape: its short side becomes `image_size` pixels, unless its long one would be more than
    `max_size`. In training a part of it may be cut out first, so that it holds boxes of some overlap (SSD,
    https://arxiv.org/abs/1512.02325), and the short side is drawn from 0.6 to 1 of `image_size`.

    A target is a dict: `boxes` float32 `[n, 4]`, xyxy, in pixels of the tensor in training and of the ORIGINAL image in
    evaluation; `labels` int64 `[n]`, from 0; `iscrowd` bool `[n]`; `area` float32 `[n]`, pixels of the original image;
    `size` (H, W) of the original image upright; `scale` float, of the tensor's sides to its; with masks, in training
    `masks` uint8 `[n, h, w]`, in evaluation `rles`, n run lengths of pycocotools at the original size.

    Args:
        where: Where a row has its objects.
        form: Of the boxes, one of `boxformat.FORMATS`.
        index: Class index of what stands as a class.
        with_masks: Whether masks are learnt.
        image_size: Of the short side, in pixels.
        max_size: Of the long side at most.
        interpolation: `bilinear` or `bicubic`.
        crop_scale: Smallest share of the area that a random crop keeps; 1 or None: no random crops.
        hflip: Probability of a horizontal flip.
        color_jitter: How far brightness, contrast and saturation may change.
    """

    def __init__(
        self,
        where: Where,
        form: str,
        index: Mapping[Any, int],
        with_masks: bool,
        image_size: int,
        max_size: int,
        interpolation: str = "bilinear",
        crop_scale: float | None = 0.35,
        hflip: float = 0.5,
        color_jitter: float | None = None,
    ) -> None:
        self.where, self.form, self.index, self.with_masks = where, form, dict(index), with_masks
        self.columns = where.columns
        self.image_size, self.max_size, self.hflip = image_size, max_size, hflip
        self.interpolation = InterpolationMode(interpolation)
        self.crop = OverlapCrop(crop_scale) if crop_scale and crop_scale < 1 else None
        self.colours = v2.ColorJitter(*3 * [color_jitter]) if color_jitter else None

    def training(self, image: PILImage.Image, target: Any) -> tuple[Tensor, Target]:
        """An image as `jpeg.open_stored` gives it and its row's columns, changed together; crowds are left out."""
        found = self._objects(image, target)
        picture = image if images.turn_of(image) is None else images.upright(image)
        original = picture.height, picture.width
        keep = np.flatnonzero(~found.crowd)
        part = self._part(original, found.boxes[keep])
        jitter = _SMALLEST + (1 - _SMALLEST) * torch.rand(()).item()
        size = self.resized(*part[2:], jitter)
        flipped = bool(torch.rand(()) < self.hflip)
        pixels, part = self._pixels_of(picture, part, size)
        scale = torch.tensor([size[1] / part[3], size[0] / part[2]] * 2)
        boxes = _cut(torch.from_numpy(found.boxes[keep]), part) * scale
        if flipped:
            pixels = pixels.flip(-1)
            boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= _LEAST).all(dim=1)
        made = _target(found, keep, boxes, original, size[0] / part[2])
        if self.with_masks:
            chosen = [found.rles[n] for n in keep[kept.numpy()]]
            made["masks"] = _masks(chosen, part, size, flipped)
        for name in ("boxes", "labels", "iscrowd", "area"):
            made[name] = made[name][kept]
        return (self.colours(pixels) if self.colours else pixels), made

    def evaluation(self, image: PILImage.Image, target: Any) -> tuple[Tensor, Target]:
        """An opened image as it is stored and its row's columns; boxes in pixels of the original image."""
        found = self._objects(image, target)
        picture = images.decoded(image)
        size = self.resized(picture.height, picture.width)
        keep = np.arange(len(found.labels))
        original = picture.height, picture.width
        made = _target(found, keep, torch.from_numpy(found.boxes), original, size[0] / picture.height)
        if self.with_masks:
            made["rles"] = list(found.rles)
        # By Pillow, whose pixels everybody gets who uses the model; torch's differ by 1 here and there.
        resized: Any = F.resize(picture, list(size), interpolation=self.interpolation)
        return F.pil_to_tensor(resized), made

    def collate(self, targets: Sequence[Any]) -> list[Target]:
        """The dicts, one an image."""
        return list(targets)

    def resized(self, height: int, width: int, jitter: float = 1.0) -> tuple[int, int]:
        """Height and width of an image's tensor; `jitter` is of the short side."""
        ratio = min(self.image_size / min(height, width), self.max_size / max(height, width)) * jitter
        return max(1, round(height * ratio)), max(1, round(width * ratio))

    def _objects(self, image: PILImage.Image, target: Any) -> Objects:
        raw = parse(target, self.where, frame.of_image(image))
        if raw is None:  # of an image that is only looked at
            return NOTHING
        return objects(raw, self.form, self.index, self.with_masks)

    def _part(self, size: tuple[int, int], boxes: np.ndarray) -> Part:
        """What is cut out of an image of that height and width."""
        whole = 0, 0, *size
        if self.crop is None or not len(boxes) or torch.rand(()) >= _CROPPED:
            return whole
        return self.crop.draw(size, boxes) or whole

    def _pixels_of(self, picture: PILImage.Image, part: Part, size: tuple[int, int]) -> tuple[Tensor, Part]:
        """Uint8 `[3, h, w]`, and the part that they show: of a JPEG that is decoded at 1/n of its size whole pixels."""
        n = jpeg.draft(picture, part[2] // size[0], part[3] // size[1])
        top, left, bottom, right = part[0] // n, part[1] // n, (part[0] + part[2]) // n, (part[1] + part[3]) // n
        pixels = resize(jpeg.crop(picture, (left, top, right, bottom)), *size, self.interpolation)
        return pixels, (top * n, left * n, (bottom - top) * n, (right - left) * n)


def _cut(boxes: Tensor, part: Part) -> Tensor:
    """Boxes within a part of the image; those whose centre is outside of it vanish, by becoming empty."""
    top, left, height, width = part
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([left, top])
    inside = ((centres > 0) & (centres < torch.tensor([width, height]))).all(dim=1, keepdim=True)
    moved = boxes - torch.tensor([left, top, left, top])
    return torch.minimum(moved.clamp(min=0), torch.tensor([width, height, width, height])) * inside


def _target(found: Objects, keep: np.ndarray, boxes: Tensor, original: tuple[int, int], scale: float) -> Target:
    return {
        "boxes": boxes.float(),
        "labels": torch.from_numpy(found.labels[keep]),
        "iscrowd": torch.from_numpy(found.crowd[keep]),
        "area": torch.from_numpy(found.areas[keep]),
        "size": original,
        "scale": scale,
    }


def _masks(rles: Sequence[RLE], part: Part, size: tuple[int, int], flipped: bool) -> Tensor:
    """uint8 `[n, h, w]`, of the size of the tensor: one at a time, for all at the original size may not fit."""
    made = torch.zeros(len(rles), *size, dtype=torch.uint8)
    top, left, height, width = part
    for place, rle in enumerate(rles):
        mask = masks.decoded(rle)[top : top + height, left : left + width]
        resized = PILImage.fromarray(mask).resize((size[1], size[0]), PILImage.Resampling.NEAREST)
        made[place] = torch.from_numpy(np.array(resized))
    return made.flip(-1) if flipped else made
