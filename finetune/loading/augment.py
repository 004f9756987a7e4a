"""Steps of the training transform that touch no more pixels than the model needs; what they draw is timm's."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from finetune.data import images
from finetune.loading.jpeg import crop, draft

# torch resizes 8-bit pixels three to five times as fast as Pillow, with the same filters; they differ by rounding.
_TORCH_MODES = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}

# What turns an image `[3, H, W]` upright, by its EXIF orientation.
_UPRIGHT = {
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.mT,
    6: lambda pixels: pixels.mT.flip(2),
    7: lambda pixels: pixels.mT.flip(1, 2),
    8: lambda pixels: pixels.mT.flip(1),
}
_SIDEWAYS = (5, 6, 7, 8)


class RandomResizedCrop:
    """timm's random resized crop of an image that may not be decoded yet.

    The crop is drawn from the size in the image's header. Of a JPEG no more than needed is decoded: libjpeg gives it at
    1/2, 1/4 or 1/8 of its size (by leaving out high frequencies, which is cheaper and sharper than decoding all and
    averaging), the smallest at which the crop that was drawn still has at least as many rows and columns as the model
    takes (to half a pixel of which the crop is rounded). So nothing is enlarged that would not have been, and a crop of
    less than twice the model's size comes from the full image. It is turned upright after that, when it is small.

    Args:
        crop: Draws the crops; its size, scale, aspect ratio and interpolation are used.
    """

    def __init__(self, crop: RandomResizedCropAndInterpolation) -> None:
        self.crop = crop

    def __call__(self, image: PILImage.Image) -> Tensor:
        """A random crop, uint8 `[3, H, W]` (channels last in memory), of an image of any mode and orientation."""
        orientation = images.orientation(image)
        height, width = reversed(self.crop.size) if orientation in _SIDEWAYS else self.crop.size
        # In the image as it is stored: scale and aspect ratio are drawn alike for both axes.
        top, left, rows, columns = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        n = draft(image, rows // height, columns // width)
        wide, high = round(columns / n), round(rows / n)
        left, top = min(round(left / n), image.width - wide), min(round(top / n), image.height - high)
        box = (left, top, left + wide, top + high)
        interpolation = self.crop.interpolation
        if isinstance(interpolation, Sequence):
            interpolation = random.choice(interpolation)
        pixels = resize(crop(image, box), height, width, interpolation)
        return _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels

    def __repr__(self) -> str:
        return repr(self.crop)


def resize(pixels: Tensor, height: int, width: int, interpolation: InterpolationMode) -> Tensor:
    """Channels last uint8 `[1, 3, H, W]` -> likewise `[3, height, width]`, with antialiasing as Pillow has it."""
    if interpolation in _TORCH_MODES:
        return F.interpolate(pixels, (height, width), mode=_TORCH_MODES[interpolation], antialias=True)[0]
    resized: Tensor = TF.pil_to_tensor(TF.resize(TF.to_pil_image(pixels[0]), [height, width], interpolation))
    return resized


class RandomErase:
    """timm's random erasing, of 8-bit pixels: a rectangle gets the mean colour, which is 0 once normalised.

    The mean colour is rounded to 8 bits, so what is erased is within 0.5 / 255 / std, about 0.01, of 0.

    Args:
        probability: Of erasing a rectangle.
        mean: Of the normalisation, by channel, of pixels from 0 to 1.
    """

    def __init__(self, probability: float, mean: Sequence[float]) -> None:
        self.erasing = RandomErasing(probability, mode="const", device="cpu")
        self.colour = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Uint8 `[3, H, W]` -> the same, or a copy with a rectangle erased."""
        kept = self.erasing(torch.ones(1, *pixels.shape[1:], dtype=torch.uint8)).bool()
        return torch.where(kept, pixels, self.colour)

    def __repr__(self) -> str:
        return repr(self.erasing)
