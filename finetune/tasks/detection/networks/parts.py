"""Losses as sums and what they are to be divided by, and the numbers that they are computed from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """One of the losses of a batch: `total` of its terms, and their `number`, which it is divided by."""

    total: Tensor
    number: float


def exact(values: Tensor) -> Tensor:
    """What a network gives, in float32 at least: in bfloat16 a box at 300 pixels moves in steps of two.

    torchvision decodes boxes in the type of their corrections, which mixed precision makes half as wide.
    """
    return values if values.dtype == torch.float64 else values.float()
