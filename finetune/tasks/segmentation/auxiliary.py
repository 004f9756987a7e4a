"""A second, small head on an earlier map of the backbone, which helps it to learn and is not exported."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class AuxiliaryHead(nn.Module):
    """float32 `[B, C, h, w]`, the backbone's last map but one -> logits `[B, K, H, W]`.

    Source: `FCNHead` of https://github.com/zhanghang1989/PyTorch-Encoding, with which the authors of ResNeSt trained
    DeepLabV3 on ADE20K; the idea is PSPNet's, https://arxiv.org/abs/1612.01105.

    Args:
        channels: C.
        classes: K.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        middle = max(1, channels // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Conv2d(middle, classes, 1),
        )

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits in the height and width that are asked for."""
        return F.interpolate(self.layers(features), size=size, mode="bilinear", align_corners=False)


def of(network: Any, classes: int) -> AuxiliaryHead:
    """The head for one of smp's networks."""
    return AuxiliaryHead(int(network.encoder.out_channels[-2]), classes)
