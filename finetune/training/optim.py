"""Optimizer and schedule: timm's parameter groups, and one learning rate that all of them follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finetune.training.sharding import here


def make_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """Timm's optimizer with timm's groups: no weight decay on norms and biases.

    Args:
        model: A timm model.
        name: Any optimizer that timm knows.
        lr: Peak learning rate, with `layer_decay` the head's.
        weight_decay: Of all other parameters.
        layer_decay: Factor from each layer to the one before it, by the model's own `group_matcher`: in a ResNeSt the
            classifier has `lr`, the last block `lr * layer_decay`, and so on down to the stem. One rate when not given.
        scales: In place of `layer_decay`: factors of the rate of the parameters whose names begin so.
    """
    if scales:
        groups = _scaled_groups(model, weight_decay, scales)
        optimizer: Optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay)
    else:
        optimizer = create_optimizer_v2(model, opt=name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
    for group in optimizer.param_groups:  # timm leaves this to its own schedulers; torch's start from `lr`
        group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
    return optimizer


def _scaled_groups(model: nn.Module, weight_decay: float, scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """By rate, with and without weight decay: norms and biases have none, as in timm's own groups."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((factor for prefix, factor in scales.items() if name.startswith(prefix)), 1.0)
            decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": members, "weight_decay": decay, "lr_scale": scale} for (scale, decay), members in groups.items()]


def make_schedule(optimizer: Optimizer, steps: int, warmup: int, shape: str = "cosine") -> LambdaLR:
    """Warm-up and one of `SHAPES` over `steps` optimizer steps; the groups keep the ratios of their learning rates."""
    return LambdaLR(optimizer, lambda step: share_of_peak(step, steps, warmup, shape))


def share_of_peak(step: int, steps: int, warmup: int, shape: str = "cosine") -> float:
    """Share of the peak learning rate at step `step` of `steps`: up a line for `warmup` steps, then down a shape."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SHAPES[shape](min(1.0, (step - warmup) / max(1, steps - warmup)))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _polynomial(progress: float) -> float:
    return float((1 - progress) ** 0.9)


def _steps(progress: float) -> float:
    return 0.1 ** sum(progress >= at for at in (2 / 3, 8 / 9))


SHAPES: Mapping[str, Callable[[float], float]] = {"cosine": _cosine, "polynomial": _polynomial, "steps": _steps}
"""What remains of the peak rate, of how far a training is after its warm-up, from 0 to 1. `polynomial` has the power of
DeepLab's "poly" policy (https://arxiv.org/abs/1606.00915); `steps` are those of detectron2's 1x and 3x schedules, which
fall to a tenth at 60,000 and at 80,000 of 90,000 (https://github.com/facebookresearch/detectron2)."""


def head_lr(optimizer: Optimizer) -> float:
    """The learning rate of the head, the largest where layers have their own."""
    group = max(optimizer.param_groups, key=lambda group: group.get("lr_scale", 1.0))
    return float(group["lr"])


def scale_gradients(optimizer: Optimizer, factor: float | torch.Tensor) -> None:
    """Multiply all gradients, in one pass over them."""
    gradients = [here(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(gradients, factor)
