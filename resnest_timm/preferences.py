"""Which splits a ResNeSt prefers for an image: the weights of its split attention, averaged.

Source of the weights: https://arxiv.org/abs/2004.08955, section 3.1; see `resnest_timm.split_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from resnest_timm.split_attention import SplitAttention


@dataclass
class SplitRecord:
    """What `record_splits` has seen of the last call of a model.

    Attributes:
        stages: Names of the stages (`layer1`, ...) in the model's order, and of each block in them the weights of its
            splits, averaged over the channels: `[B, radix]`.
    """

    stages: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def preferences(self) -> Tensor:
        """Average over the channels and blocks of each stage, float32 `[B, stages, radix]`.

        Raises:
            ValueError: No split attention was called.
        """
        if not all(self.stages.values()) or not self.stages:
            raise ValueError("expected a call of the recorded model, got none: call it before you ask")
        means = [torch.stack(list(blocks.values())).mean(dim=0) for blocks in self.stages.values()]
        return torch.stack(means, dim=1)


def has_splits(model: nn.Module) -> bool:
    """Whether there is any split attention in the model."""
    return any(isinstance(module, SplitAttention) for module in model.modules())


@contextmanager
def record_splits(model: nn.Module) -> Iterator[SplitRecord]:
    """Record the weights of all splits in each call of a model, of which the last call's stay.

        with record_splits(model) as record:
            logits = model(pixels)
        preferences = record.preferences()

    Args:
        model: A ResNeSt in eval mode, also one of `resnest_timm.optimize` that is not compiled; it computes what it
            does without. Not for several threads at once.

    Yields:
        The record.

    Raises:
        ValueError: There is no split attention in it, its radix differs, or it is in train mode.
    """
    named = {name: module for name, module in model.named_modules() if isinstance(module, SplitAttention)}
    if not named:
        raise ValueError(f"expected a ResNeSt, got {type(model).__name__}, in which there is no SplitAttention")
    if len(radices := sorted({module.radix for module in named.values()})) > 1:
        raise ValueError(f"expected the same radix in all blocks, got {', '.join(map(str, radices))}")
    if any(module.training for module in named.values()):
        raise ValueError("expected a model in eval mode, got one in train mode: call .eval()")
    record = SplitRecord({_stage(name): {} for name in named})
    # The activation's output is what the weights are made from: [B, radix * C', H', W'].
    handles = [module.act0.register_forward_hook(_hook(record, name, module)) for name, module in named.items()]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def split_preferences(model: nn.Module, pixels: Tensor) -> Tensor:
    """How much weight each stage of a ResNeSt gives to each of its splits.

    Args:
        model: A ResNeSt in eval mode, see `record_splits`.
        pixels: Images as the model takes them, `[B, C, H, W]`.

    Returns:
        float32 `[B, stages, radix]`: weights, averaged over the channels and blocks of a stage. Of radix 2 and more
        they are a softmax and sum to 1 over the splits; of radix 1 it is one sigmoid gate in (0, 1).

    Raises:
        ValueError: See `record_splits`.
    """
    with torch.inference_mode(), record_splits(model) as record:
        model(pixels)
    return record.preferences()


def _stage(name: str) -> str:
    """`layer1` of `layer1.0.conv2`; where there are no blocks, what the split attention lies in."""
    return name.rsplit(".", 2)[0] if name.count(".") > 1 else name.rpartition(".")[0]


def _hook(record: SplitRecord, name: str, module: SplitAttention) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def keep(activation: nn.Module, inputs: tuple[Tensor], splits: Tensor) -> None:
        with torch.no_grad():
            weights = module.attention(splits).float()
        record.stages[_stage(name)][name] = weights.view(len(splits), module.radix, -1).mean(dim=2)

    return keep
