"""The last layer of a network that gives numbers in the dataset's unit, while what is learnt is standardised.

A layer that has to find out that ages are about forty spends its steps on it. So weights are for numbers of mean 0 and
standard deviation 1, and the layer turns them into the dataset's unit. In the exported model both are one linear layer,
and anybody's library computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import ModelError, SchemaError
from finetune.networks import head_start


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the training numbers, and where an answer without an image starts.

    Attributes:
        mean: Of the numbers.
        sd: Their standard deviation, over N.
        median: Of the numbers.
    """

    mean: float = 0.0
    sd: float = 1.0
    median: float = 0.0

    @classmethod
    def of(cls, targets: np.ndarray) -> Scale:
        """Of training numbers float `[N]`, computed in float64.

        Raises:
            SchemaError: There are none, or all are equal.
        """
        values = targets.astype(np.float64)
        if not len(values) or values.min() == values.max():
            got = f"{len(values)} that are all {values[0]:g}" if len(values) else "none"
            raise SchemaError(f"the training images: expected numbers that differ, got {got}; name another column")
        return cls(float(values.mean()), float(values.std()), float(np.median(values)))

    def standardised(self, values: Any) -> Any:
        """Numbers in the dataset's unit -> of mean 0 and standard deviation 1."""
        return (values - self.mean) / self.sd

    def restored(self, values: Any) -> Any:
        """The way back."""
        return values * self.sd + self.mean


class ScaledLinear(nn.Linear):
    """A linear layer whose output is multiplied and shifted: `[..., D]` -> `[..., 1]`, in the dataset's unit.

    Parameters have the names and shapes of `nn.Linear`; the scale is the dataset's, and no part of the state.

    Args:
        layer: Its parameters are taken over.
        scale: Of the training numbers.
    """

    def __init__(self, layer: nn.Linear, scale: Scale) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=True, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Numbers; in float32 at least, for a half has three digits."""
        standardised = F.linear(features, self.weight, self.bias)
        if standardised.dtype in (torch.bfloat16, torch.float16):
            standardised = standardised.float()
        restored: Tensor = self.scale.restored(standardised)
        return restored


def install(model: nn.Module, scale: Scale) -> None:
    """Let a network's last layer answer in the dataset's unit; its place is taken by a `ScaledLinear`.

    Raises:
        ModelError: The network does not end in one linear layer, which alone can be exported as one.
    """
    layer = last_layer(model)
    if not isinstance(layer, ScaledLinear):
        _replace(model, layer, ScaledLinear(layer, scale))


def last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that a network, or a lone layer, ends in.

    Raises:
        ModelError: It does not end in one.
    """
    layer = model if isinstance(model, nn.Linear) else head_start.linear_classifier(model)
    if layer is None:
        raise ModelError(
            f"image-regression: the head of {type(model).__name__} is not one linear layer, and numbers are "
            "standardised within it; expected a model such as resnest50d, resnet50, convnext_tiny or vit_small"
        )
    return layer


@contextmanager
def folded(model: nn.Module) -> Iterator[nn.Module]:
    """The network with a plain last layer that gives the same numbers, as it is exported; then as it was."""
    layer = last_layer(model)
    if not isinstance(layer, ScaledLinear):
        yield model
        return
    plain = plain_layer(layer)
    _replace(model, layer, plain)
    try:
        yield model
    finally:
        _replace(model, plain, layer)


def plain_layer(layer: ScaledLinear) -> nn.Linear:
    """Weights times the standard deviation, bias times it plus the mean; computed in float64."""
    plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
    weight, bias = (value.detach().cpu().double() for value in (layer.weight, layer.bias))
    scale = layer.scale
    plain.weight = nn.Parameter((weight * scale.sd).to(layer.weight.dtype))
    plain.bias = nn.Parameter((bias * scale.sd + scale.mean).to(layer.bias.dtype))
    return plain.to(layer.weight.device).train(layer.training)


def _replace(model: nn.Module, layer: nn.Module, other: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is layer)
    model.set_submodule(name, other)
