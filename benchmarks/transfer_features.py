"""What a network says of images, by stock timm and its own transform for evaluation; knows nothing of ours."""

from __future__ import annotations

import datasets
import numpy as np
import timm
import torch
from torch import nn

BATCH = 64


def outputs(model: nn.Module, images: datasets.Dataset, image_size: int) -> np.ndarray:
    """Run a network over a split, in float32.

    Args:
        model: With timm's `pretrained_cfg`; it is put into evaluation mode.
        images: With a column `image`.
        image_size: Side of the square input in pixels.

    Returns:
        float32 `[N, C]`.
    """
    config = timm.data.resolve_data_config({"input_size": (3, image_size, image_size)}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]["image"]
            found.append(model(torch.stack([transform(image.convert("RGB")) for image in batch])).float())
    return torch.cat(found).numpy()
