"""(model's data config) -> transforms of an upright RGB image to a normalised tensor, both timm's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import MaybeToTensor
from torch import Tensor
from torchvision.transforms import v2

from finetune.errors import ConfigError

Transform = Callable[[Image.Image], Tensor]


def evaluation(data_config: Mapping[str, Any]) -> Transform:
    """Resize and centre crop as the model expects; exactly what stock timm and transformers do with the saved model.

    Args:
        data_config: timm's, as `timm.data.resolve_data_config` returns it.

    Returns:
        PIL RGB -> float32 `[3, H, W]`, normalised.
    """
    transform = create_transform(**data_config, is_training=False)
    if data_config.get("crop_mode", "center") != "center":  # the others do not enlarge the long side
        return _typed(transform)
    return _typed(v2.Compose([_CutLong(), *transform.transforms]))


def paper(data_config: Mapping[str, Any]) -> Transform:
    """The ResNeSt authors' evaluation: a centre crop of side `short * size / (size + 32)`, then a bicubic resize.

    Source: `ECenterCrop` in `scripts/torch/verify.py` of https://github.com/zhanghang1989/ResNeSt.

    Args:
        data_config: timm's; input size, mean and std are used.

    Returns:
        PIL RGB -> float32 `[3, size, size]`, normalised.
    """
    steps = [
        _AuthorsCentreCrop(data_config["input_size"][-1]),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=list(data_config["mean"]), std=list(data_config["std"])),
    ]
    return _typed(v2.Compose(steps))


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
        PIL RGB -> float32 `[3, H, W]`, normalised.

    Raises:
        ConfigError: timm does not know the policy.
    """
    shared = {key: data_config[key] for key in ("input_size", "interpolation", "mean", "std")}
    augment: dict[str, Any] = {"scale": (crop_scale or 1.0, 1.0), "hflip": hflip, "auto_augment": auto_augment}
    augment |= {"color_jitter": None, "re_prob": random_erasing}
    try:
        crop, policy, tensor = create_transform(**shared, **augment, is_training=True, separate=True)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"--auto-augment {auto_augment}: not a policy that timm knows; for instance rand-m6-n2 (2 operations of "
            "strength 6 of 10), original (AutoAugment for ImageNet) or augmix-m3"
        ) from error
    if crop_scale is None:
        crop = v2.Compose([*_geometry(data_config), v2.RandomHorizontalFlip(hflip)])
    # timm jitters colours only where there is no policy.
    jitter = [v2.ColorJitter(*3 * [color_jitter])] if color_jitter else []
    return _typed(v2.Compose([crop, policy, *jitter, tensor]))


def _geometry(data_config: Mapping[str, Any]) -> list[Any]:
    """The steps of the evaluation that give an image of the model's size, without those that make a tensor of it."""
    steps = create_transform(**data_config, is_training=False).transforms
    return list(itertools.takewhile(lambda step: not isinstance(step, MaybeToTensor), steps))


def _typed(transform: Any) -> Transform:
    result: Transform = transform
    return result
