"""(model's data config) -> transforms of an image to 8-bit pixels, by timm's parts, and their normalisation.

Pixels travel to the device as they are, uint8, a quarter of the size; there `Normalize` does to the batch what
`timm.data.create_transform` does to an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn
from torchvision.transforms import Compose, PILToTensor, ToPILImage, v2

from finetune.data import images
from finetune.errors import ConfigError
from finetune.loading.augment import RandomErase, RandomResizedCrop

Transform = Callable[[Image.Image], Tensor]


class ImageAlone:
    """`finetune.task.Inputs` of tasks whose targets do not change with the image: numbers, and arrays of numbers.

    Args:
        train: What `read` gives -> uint8 `[3, H, W]`, in training.
        evaluate: PIL RGB -> the same, as the exported model sees an image.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, train: Transform, evaluate: Transform) -> None:
        self.train, self.evaluate = train, evaluate

    def training(self, image: Image.Image, target: Any) -> tuple[Tensor, Any]:
        """The changed image, and its target as it is."""
        return self.train(image), target

    def evaluation(self, image: Image.Image, target: Any) -> tuple[Tensor, Any]:
        """The image as the exported model sees it, and its target as it is."""
        return self.evaluate(image), target

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """`[B, ...]`, of the targets' own type."""
        return torch.from_numpy(np.stack(targets))


def evaluation(data_config: Mapping[str, Any]) -> Transform:
    """Resize and centre crop as the model expects; exactly what stock timm and transformers do with the saved model.

    Args:
        data_config: timm's, as `timm.data.resolve_data_config` returns it.

    Returns:
        PIL RGB -> uint8 `[3, H, W]`; with `Normalize`, bit for bit what `timm.data.create_transform` gives.
    """
    transform = create_transform(**data_config, is_training=False, normalize=False)
    if data_config.get("crop_mode", "center") != "center":  # the others do not enlarge the long side
        return _typed(transform)
    return _typed(Compose([_CutLong(), *transform.transforms]))


def normalised(data_config: Mapping[str, Any]) -> Transform:
    """`evaluation` and `Normalize` in one: bit for bit what `timm.data.create_transform` gives.

    Args:
        data_config: timm's.

    Returns:
        PIL RGB -> float32 `[3, H, W]`, normalised.
    """
    return _typed(Compose([evaluation(data_config), Normalize(data_config["mean"], data_config["std"])]))


def paper(data_config: Mapping[str, Any]) -> Transform:
    """The ResNeSt authors' evaluation: a centre crop of side `short * size / (size + 32)`, then a bicubic resize.

    Source: `ECenterCrop` in `scripts/torch/verify.py` of https://github.com/zhanghang1989/ResNeSt.

    Args:
        data_config: timm's; the input size is used.

    Returns:
        PIL RGB -> uint8 `[3, size, size]`.
    """
    return _typed(Compose([_AuthorsCentreCrop(data_config["input_size"][-1]), PILToTensor()]))


class _CutLong:
    """PIL -> PIL: the middle of an image that is more than `longest` times as long as wide, others as they are.

    Resizing would make the short side as long as the input, of 1 x 10,000 pixels two gigabytes, and keep the middle.
    """

    longest = 100

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        limit = self.longest * min(width, height)
        left, top = max(0, width - limit) // 2, max(0, height - limit) // 2  # as much from both ends
        return image.crop((left, top, width - left, height - top)) if left or top else image


class _AuthorsCentreCrop:
    """PIL -> PIL of `size` by `size` pixels; a class because a loader's processes may have to pickle it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        side = min(width, height) * self.size / (self.size + 32)
        left, top = round((width - side) / 2), round((height - side) / 2)
        crop = image.crop((left, top, round(left + side), round(top + side)))
        return crop.resize((self.size, self.size), Image.Resampling.BICUBIC)


def training(
    data_config: Mapping[str, Any],
    crop_scale: float | None = 0.35,
    hflip: float = 0.5,
    auto_augment: str | None = None,
    color_jitter: float | None = None,
    random_erasing: float = 0.0,
) -> Transform:
    """Random resized crop, flip and what else is asked for, drawn from Python's, numpy's and torch's generators.

    Args:
        data_config: timm's; interpolation and normalisation are those of the evaluation.
        crop_scale: Smallest share of the area that a crop keeps; None: resize and crop as in the evaluation.
        hflip: Probability of a flip.
        auto_augment: timm's policy, for instance `rand-m6-n2` or `original`.
        color_jitter: How far brightness, contrast and saturation may change, also beside `auto_augment`.
        random_erasing: Probability that a rectangle is erased.

    Returns:
        PIL image of any mode and orientation, decoded or not (see `RandomResizedCrop`) -> uint8 `[3, H, W]`.

    Raises:
        ConfigError: timm does not know the policy.
    """
    shared = {key: data_config[key] for key in ("input_size", "interpolation", "mean", "std")}
    augment: dict[str, Any] = {"scale": (crop_scale or 1.0, 1.0), "hflip": hflip, "auto_augment": auto_augment}
    augment |= {"color_jitter": None, "normalize": False}
    try:
        geometry, policy, _ = create_transform(**shared, **augment, is_training=True, separate=True)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"--auto-augment {auto_augment}: not a policy that timm knows; for instance rand-m6-n2 (2 operations of "
            "strength 6 of 10), original (AutoAugment for ImageNet) or augmix-m3"
        ) from error
    crop, *flip = geometry.transforms
    cropped = [images.decoded, evaluation(data_config)] if crop_scale is None else [RandomResizedCrop(crop)]
    # timm jitters colours only where there is no policy.
    colours = [*policy.transforms, *([v2.ColorJitter(*3 * [color_jitter])] if color_jitter else [])]
    on_images = [ToPILImage(), *colours, PILToTensor()] if colours else []
    erase = [RandomErase(random_erasing, data_config["mean"])] if random_erasing else []
    return _typed(Compose([*cropped, *flip, *on_images, *erase]))


class Normalize(nn.Module):
    """8-bit pixels to what the model takes, with the operations of timm's transform in their order: equal bit for bit.

    Args:
        mean: By channel, of pixels from 0 to 1.
        std: Likewise.
    """

    full: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Tensors, the 255 too: on CUDA a division by a number is a multiplication by its rounded inverse.
        self.register_buffer("full", torch.tensor(255.0), persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Uint8 `[..., 3, H, W]` on the module's device -> float32 of that shape, channels last in memory."""
        last = pixels.movedim(-3, -1)
        # [..., H, W * 3]: with the channels alone as the inner axis, the CPU takes four times as long.
        rows = last.flatten(-2).float().div_(self.full)
        rows.sub_(self.mean.repeat(last.shape[-2])).div_(self.std.repeat(last.shape[-2]))
        return rows.view(last.shape).movedim(-1, -3)


def _typed(transform: Any) -> Transform:
    result: Transform = transform
    return result
