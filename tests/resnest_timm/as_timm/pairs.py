"""Ours and stock timm's network of one variant, with equal weights in float64, and a norm that sees images alone."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GroupNorm1
from torch import Tensor, nn

import resnest_timm  # noqa: F401 - the registry is ours
from tests.resnest_timm.helpers import SHALLOW, create, images, materialize, stock

SMALL: dict[str, Any] = {**SHALLOW, "channels": (32, 32, 32, 32), "num_classes": 4}
"""Every sort of block, so narrow that a second derivative of the whole takes a moment."""

ALONE: dict[str, Any] = {**SMALL, "norm_layer": GroupNorm1}
"""Without statistics over the batch, which per-image gradients and single images need."""

VARIANTS = ("resnest14d", "resnest50_fast_1s1x64d", "resnest50d_4s2x40d")
"""Radix 2, 1 and 4, the last in 2 groups."""

TARGETS = torch.tensor([3, 0, 1])


def pair(name: str = "resnest14d", train: bool = True, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs."""
    kwargs = kwargs or SMALL
    theirs = materialize(stock(name, device="meta", **kwargs))
    for index, module in enumerate(theirs.modules()):
        if isinstance(module, nn.GroupNorm):  # which `materialize` leaves empty
            nn.init.constant_(module.weight, 1 - index / 200)
            nn.init.constant_(module.bias, index / 200 - 0.5)
    ours = create(name, **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.train(train), theirs.train(train)


def batch(size: int = 48) -> Tensor:
    """Three images."""
    return images(3, size)


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), TARGETS[: len(x)])
