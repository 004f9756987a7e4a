"""An image and its mask, changed together: random scale, crop, flip and colours in training; whole in evaluation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import pil_to_tensor

from finetune.data import images
from finetune.data.beside.meaning import Meaning
from finetune.data.images import Encoded
from finetune.loading import jpeg
from finetune.loading.augment import resize
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.tasks.segmentation import masks
from finetune.tasks.segmentation.masks import VOID

MULTIPLE = 32
"""Sides of images in evaluation are multiples of this, the stride of the deepest features."""

LONGEST = 8
"""The long side in evaluation, in short sides; a strip would take all memory."""

_TRIES = 10  # crops that are drawn where all before were nothing but void
_TURN = "turn"  # in the `info` of an image that `read` has turned
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def read(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """Open an image so that it is known how it was turned: its mask may have to be turned as well.

    Args:
        value: As `finetune.data.images.decode` takes it.
        max_pixels: A larger image is refused.

    Returns:
        Upright, 8-bit RGB; `info["turn"]` is the `PIL.Image.Transpose` that made it so.

    Raises:
        ValueError: There is no image.
        OSError: It does not decode.
    """
    with images.opened(value, max_pixels) as image:
        turn = images.turn_of(image)
        made = images.decoded(image)
    return _marked(made, turn)


def read_lazily(value: Encoded, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """The same for training: a JPEG that lies upright is not decoded yet, see `finetune.loading.jpeg`."""
    image = jpeg.open_stored(value, max_pixels)
    turn = images.turn_of(image)
    if turn is None and isinstance(image, JpegImageFile):
        return image
    return _marked(images.decoded(image), turn)


def _marked(image: PILImage.Image, turn: PILImage.Transpose | None) -> PILImage.Image:
    image.info.pop(_TURN, None)  # a file may bring one of its own
    if turn is not None:
        image.info[_TURN] = turn
    return image


def fitted(image: PILImage.Image, size: int, interpolation: str = "bilinear") -> Tensor:
    """An image as a model sees it that is evaluated.

    Args:
        image: RGB.
        size: Of the short side, in pixels; the aspect ratio is kept.
        interpolation: `bilinear` or `bicubic`, with antialiasing.

    Returns:
        uint8 `[3, h, w]`, both sides rounded up to a multiple of `MULTIPLE`.
    """
    scale = min(size / min(image.size), LONGEST * size / max(image.size))
    width, height = (-(-max(round(scale * side), 1) // MULTIPLE) * MULTIPLE for side in image.size)
    # By Pillow itself, whose pixels everybody gets who uses the model; torch's differ by 1 here and there.
    made = image.resize((width, height), PILImage.Resampling[interpolation.upper()])
    pixels: Tensor = pil_to_tensor(made)
    return pixels


class MaskInputs:
    """`finetune.task.Inputs` of images and masks.

    Args:
        column: Of the masks.
        meaning: Of the values in them.
        size: Side of a training crop, and of the short side in evaluation, in pixels.
        mean: Of the normalisation, by channel, of pixels from 0 to 1: what is outside of an image has this colour.
        interpolation: Of images, `bilinear` or `bicubic`; of masks it is none.
        scale: Smallest and largest factor by which the short side of a training image is longer than `size`.
        hflip: Probability of a horizontal flip.
        color_jitter: How far brightness, contrast and saturation may change.
        max_pixels: Larger masks are refused.
    """

    def __init__(
        self,
        column: str,
        meaning: Meaning,
        size: int,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        interpolation: str = "bilinear",
        scale: tuple[float, float] | None = (0.5, 2.0),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.columns: tuple[str, ...] = (column,)
        self.column, self.meaning, self.size, self.scale = column, meaning, size, scale
        self.interpolation, self.max_pixels = interpolation, max_pixels
        self.fill = [round(255 * value) for value in mean]
        colours = [v2.ColorJitter(*3 * [color_jitter])] if color_jitter else []
        self.changes = v2.Compose([v2.RandomHorizontalFlip(hflip), *colours])

    def training(self, image: PILImage.Image, target: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """A random part of an image at a random scale, and the same part of its mask.

        Args:
            image: What `read_lazily` gives.
            target: The mask by the name of its column, encoded.

        Returns:
            uint8 `[3, S, S]`, and uint8 `[S, S]` of class indices; `VOID` outside of the image too.
        """
        mask = self.mask_of(image, target)
        box, cut = self._draw(mask, image)
        pixels = tv_tensors.Image(self._pad(self._part(image, box), box, self.fill))
        target_map = tv_tensors.Mask(self._pad(cut[None], box, [VOID])[0])
        pixels, target_map = self.changes(pixels, target_map)
        return pixels.as_subclass(Tensor), target_map.as_subclass(Tensor).contiguous()

    def evaluation(self, image: PILImage.Image, target: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """A whole image at the size of `fitted`, and its mask at its own.

        Args:
            image: What `read` gives.
            target: The mask by the name of its column, encoded.

        Returns:
            uint8 `[3, h, w]`, and uint8 `[H, W]` of class indices.
        """
        mask = self.mask_of(image, target)
        return fitted(image, self.size, self.interpolation), torch.from_numpy(mask)

    def collate(self, targets: Sequence[Tensor]) -> Any:
        """uint8 `[B, S, S]`."""
        return torch.stack(list(targets))

    def mask_of(self, image: PILImage.Image, target: Mapping[str, Any]) -> np.ndarray:
        """The mask of an image, uint8 `[H, W]`, as large and as upright as it."""
        return masks.decode(target[self.column], self.meaning, image.size, image.info.get(_TURN), self.max_pixels)

    def _draw(self, mask: np.ndarray, image: PILImage.Image) -> tuple[_Box, Tensor]:
        """A part of the image in which not all is void, if a few tries find one, and the mask there."""
        whole, lazy = torch.from_numpy(mask), isinstance(image, JpegImageFile)
        for _ in range(_TRIES):
            box = _Box.draw(image.size, self.size, self.scale)
            if lazy:  # it is decoded at 1/n of its size: a part of whole pixels there is the same part of the mask
                box.snap(next((n for n in (8, 4, 2) if n <= box.shrink), 1))
            part = whole[box.top : box.bottom, box.left : box.right]
            # As the image is resized, pixel's middle on pixel's middle; torchvision's masks are taken at their corners.
            cut = F.interpolate(part[None, None], (box.height, box.width), mode="nearest-exact")[0, 0]
            if (cut != VOID).any():
                break
        return box, cut

    def _part(self, image: PILImage.Image, box: _Box) -> Tensor:
        """The image there, resized: uint8 `[3, height, width]`, decoded no larger than needed."""
        n = jpeg.draft(image, box.shrink)  # as `_draw` expected
        sides = (box.left // n, box.top // n, box.right // n, box.bottom // n)
        return resize(jpeg.crop(image, sides), box.height, box.width, _MODES[self.interpolation])

    def _pad(self, part: Tensor, box: _Box, fill: Sequence[int]) -> Tensor:
        """`[C, height, width]` at its place in `[C, S, S]`."""
        if (box.height, box.width) == (self.size, self.size):
            return part
        padded = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, self.size, self.size)
        padded[:, box.down : box.down + box.height, box.across : box.across + box.width] = part
        return padded


class _Box:
    """A part of an image, and where it comes to lie in a square of `size` pixels.

    Attributes:
        left, top, right, bottom: Of the part, in pixels of the image.
        height, width: Of the part once it is resized.
        down, across: Place of its corner in the square.
    """

    def __init__(self, image: tuple[int, int], size: int, side: float, place: tuple[float, float]) -> None:
        self.left, self.right, self.across, self.width = _along(image[0], size, side, place[0])
        self.top, self.bottom, self.down, self.height = _along(image[1], size, side, place[1])

    @property
    def shrink(self) -> int:
        """By how much the part is made smaller at least; 0 where it is made larger."""
        return min((self.bottom - self.top) // self.height, (self.right - self.left) // self.width)

    def snap(self, n: int) -> None:
        """Put the edges on multiples of `n`, at most `n - 1` pixels from where they were."""
        self.left, self.top = self.left // n * n, self.top // n * n
        self.right, self.bottom = self.right // n * n, self.bottom // n * n

    @classmethod
    def draw(cls, image: tuple[int, int], size: int, scale: tuple[float, float] | None) -> _Box:
        """At random, with Python's generator; the middle of the image without `scale`."""
        if scale is None:
            return cls(image, size, float(min(image)), (0.5, 0.5))
        factor = random.uniform(*scale)
        return cls(image, size, min(image) / factor, (random.random(), random.random()))


def _along(length: int, size: int, side: float, place: float) -> tuple[int, int, int, int]:
    """Along one axis: first and last pixel of the part, its corner in the square, and its length there.

    Args:
        length: Of the image.
        size: Of the square.
        side: Of the square, in pixels of the image; where the image is shorter, the rest is padding.
        place: From 0 to 1, of the square along the image, or of the image in the square.
    """
    if side <= length:
        whole = max(1, min(round(side), length))
        first = min(int(place * (length - whole + 1)), length - whole)
        return first, first + whole, 0, size
    inside = max(1, min(round(size * length / side), size))
    return 0, length, min(int(place * (size - inside + 1)), size - inside), inside
