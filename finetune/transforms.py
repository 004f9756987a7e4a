"""(model's data config) -> transforms of an upright RGB image to a normalised tensor, both timm's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

Transform = Callable[[Image.Image], Tensor]


def evaluation(data_config: Mapping[str, Any]) -> Transform:
    """Resize and centre crop as the model expects; exactly what stock timm and transformers do with the saved model.

    Args:
        data_config: timm's, as `timm.data.resolve_data_config` returns it.

    Returns:
        PIL RGB -> float32 `[3, H, W]`, normalised.
    """
    return _typed(create_transform(**data_config, is_training=False))


def training(data_config: Mapping[str, Any], crop_scale: float = 0.35, hflip: float = 0.5) -> Transform:
    """Random resized crop and horizontal flip, drawn from Python's and torch's global generators.

    Args:
        data_config: timm's; interpolation and normalisation are those of the evaluation.
        crop_scale: Smallest share of the area that a crop keeps.
        hflip: Probability of a flip.

    Returns:
        PIL RGB -> float32 `[3, H, W]`, normalised.
    """
    shared = {key: data_config[key] for key in ("input_size", "interpolation", "mean", "std")}
    augment = {"scale": (crop_scale, 1.0), "hflip": hflip, "color_jitter": None}
    return _typed(create_transform(**shared, **augment, is_training=True))


def _typed(transform: Any) -> Transform:
    result: Transform = transform
    return result
