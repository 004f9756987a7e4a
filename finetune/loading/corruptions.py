"""What happens to photographs: five corruptions at three strengths, of images as the model sees them.

They are those of ImageNet-C at its severities 1, 3 and 5: Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261. Blurs are scaled with
the image's side, for theirs are of 224 pixels; none is weaker than what they begin with on images of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torchvision.transforms.v2 import functional

STRENGTHS = (1, 2, 3)
_SIDE = 224  # of ImageNet-C's images


def noise(pixels: Tensor, strength: int, seed: int = 0) -> Tensor:
    """Gaussian noise of each channel."""
    drawn = np.random.default_rng([seed, strength]).normal(0, (0.08, 0.18, 0.38)[strength - 1], tuple(pixels.shape))
    return _whole(pixels.float() + 255 * torch.from_numpy(drawn).float())


def blur(pixels: Tensor, strength: int, seed: int = 0) -> Tensor:
    """Gaussian blur."""
    sigma = max((1, 3, 6)[strength - 1] * min(pixels.shape[-2:]) / _SIDE, 0.4)
    size = 2 * min(int(4 * sigma + 0.5), (min(pixels.shape[-2:]) - 1) // 2) + 1
    return functional.gaussian_blur(pixels, [size, size], [sigma, sigma]) if size > 1 else pixels


def jpeg(pixels: Tensor, strength: int, seed: int = 0) -> Tensor:
    """A JPEG of poor quality."""
    found = []
    for image in pixels:
        content = BytesIO()
        PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=(25, 15, 7)[strength - 1])
        found.append(torch.from_numpy(np.array(PILImage.open(content))).permute(2, 0, 1))
    return torch.stack(found)


def brightness(pixels: Tensor, strength: int, seed: int = 0) -> Tensor:
    """Too much light: the value of HSV is raised, which keeps hue and saturation."""
    values = pixels.float() / 255
    top = values.amax(dim=1, keepdim=True)
    raised = (top + (0.1, 0.3, 0.5)[strength - 1]).clamp(max=1)
    scaled = torch.where(top > 0, values * raised / top.clamp(min=1e-6), raised.expand_as(values))
    return _whole(255 * scaled)


def contrast(pixels: Tensor, strength: int, seed: int = 0) -> Tensor:
    """Too little contrast: towards each channel's mean."""
    values = pixels.float()
    means = values.mean(dim=(2, 3), keepdim=True)
    return _whole((values - means) * (0.4, 0.2, 0.05)[strength - 1] + means)


def _whole(values: Tensor) -> Tensor:
    return values.clamp(0, 255).round().to(torch.uint8)


CORRUPTIONS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "jpeg": jpeg,
    "brightness": brightness,
    "contrast": contrast,
}
"""By name: uint8 `[B, 3, H, W]`, a strength of 1 to 3 and a seed -> the same, corrupted."""
