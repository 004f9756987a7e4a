"""How a finished model wants its images: whole, in their own shape; without a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from finetune.loading.transforms import Normalize
from finetune.tasks.segmentation.network import MULTIPLE


def size_for(width: int, height: int, short: int) -> tuple[int, int]:
    """Width and height at which an image goes in: its short side `short`, both rounded up to multiples of 32."""
    least = min(width, height) * MULTIPLE
    return tuple(-(-side * short // least) * MULTIPLE for side in (width, height))  # type: ignore[return-value]


def resized(image: Image.Image, short: int, interpolation: str) -> Image.Image:
    """The whole image at that size; both sides are stretched alike but for the rounding."""
    size = size_for(*image.size, short)
    return image if image.size == size else image.resize(size, Image.Resampling[interpolation.upper()])


@dataclass(frozen=True)
class Prepared:
    """An image as the network takes it, and what is needed to answer at its own size.

    Attributes:
        pixels: float32 `[3, h, w]`, normalised.
        size: Its own height and width.
        picture: uint8 `[3, H, W]`, where it is asked for.
    """

    pixels: Tensor
    size: tuple[int, int]
    picture: Tensor | None


class Prepare:
    """PIL RGB -> `Prepared`; a class because a loader's processes may have to pickle it.

    Args:
        data_config: timm's; the short side is that of `input_size`.
        keep: Whether the picture itself is kept.
    """

    def __init__(self, data_config: Mapping[str, Any], keep: bool = False) -> None:
        self.short, self.interpolation = data_config["input_size"][-1], data_config["interpolation"]
        self.normalize, self.keep = Normalize(data_config["mean"], data_config["std"]), keep

    def __call__(self, image: Image.Image) -> Prepared:
        """The whole image."""
        pixels = self.normalize(pil_to_tensor(resized(image, self.short, self.interpolation)))
        picture = pil_to_tensor(image) if self.keep else None
        return Prepared(pixels.contiguous(), (image.height, image.width), picture)

    def collate(self, images: Sequence[Prepared]) -> list[Prepared]:
        """As they are, for they differ in size."""
        return list(images)


def stacked(images: Sequence[Prepared]) -> Tensor:
    """float32 `[n, 3, h, w]` of images of one size."""
    return torch.stack([image.pixels for image in images])
