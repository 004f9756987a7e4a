"""An image as a detector looks at it; the same as in the evaluation, and in the few lines that the card shows."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from finetune.loading.transforms import Normalize
from finetune.tasks.detection.networks.layout import Layout


def resized(image: Image.Image, layout: Layout) -> Tensor:
    """uint8 `[3, h, w]` of an RGB image: its shorter side `min_size`, unless the longer one would be over `max_size`.

    By Pillow, which smooths where it makes an image smaller; torchvision's own resizing in a detector does not.
    """
    ratio = min(layout.min_size / min(image.size), layout.max_size / max(image.size))
    size = [max(1, round(side * ratio)) for side in (image.height, image.width)]
    pixels: Tensor = F.pil_to_tensor(F.resize(image, size, interpolation=InterpolationMode(layout.interpolation)))
    return pixels


def normalised(pixels: Tensor, layout: Layout) -> Tensor:
    """float32 `[3, h, w]` of uint8, as the loader gives it to the module."""
    made: Tensor = Normalize(layout.image_mean, layout.image_std).to(pixels.device)(pixels)
    return made


def whole(image: Image.Image) -> Tensor:
    """uint8 `[3, H, W]`, an RGB image in its own size."""
    pixels: Tensor = F.pil_to_tensor(image)
    return pixels


def looked_at(pixels: Tensor, layout: Layout) -> Tensor:
    """float32 `[3, h, w]`, normalised, of an image in its own size, as `whole` gives it."""
    with torch.no_grad():
        return normalised(resized(F.to_pil_image(pixels), layout), layout)
