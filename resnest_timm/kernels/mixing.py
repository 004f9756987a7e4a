"""The weighted sum of the splits and the pooling before it, in as few passes over memory as PyTorch has kernels for.

Both are bound by memory. The usual formula (multiply, sum over a fifth dimension, one gradient after the other) moves
the splits several times as often as needed:

- Two splits whose weights sum to 1 are one `torch.lerp`, and one gradient instead of two.
- bf16 on the CPU: `mean` converts the whole map to float32 first, `avg_pool2d` does not.
- Backward, the splits get their gradient from the sum and from the pooling. Both are written in one pass, straight into
  the channels where the convolution's gradient wants them.

On a GPU the four functions that are `fused` run as Triton kernels where they can; what stands here is their reference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_timm.kernels.fused import fused
from resnest_timm.kernels.plain import is_eager


def records_gradients(splits: Tensor) -> bool:
    """Whether `pool` and `mix` pay: in eager training, for they only order the backward pass better."""
    return splits.requires_grad and is_eager()


@fused
def global_average(x: Tensor) -> Tensor:
    """Mean over height and width, `[B, C, H, W]` -> `[B, C, 1, 1]`, of the same dtype."""
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and is_eager():
        return F.avg_pool2d(x, x.shape[2:])
    return x.mean((2, 3), keepdim=True)


@fused
def weighted_sum(splits: Tensor, weights: Tensor, radix: int) -> Tensor:
    """Mix the splits.

    Args:
        splits: `[B, radix * C, H, W]`, split after split.
        weights: `[B, radix * C, 1, 1]`; for radix 2 `[B, C, 1, 1]`, those of the first split: the second has the rest.
        radix: How many splits.

    Returns:
        `[B, C, H, W]`, in the memory format of the splits.
    """
    if radix == 1:
        return splits * weights
    first, *others = splits.chunk(radix, dim=1)
    if radix == 2:
        return torch.lerp(others[0], first, weights)
    weight, *rest = weights.chunk(radix, dim=1)
    out = first * weight
    for split, weight in zip(others, rest, strict=True):
        out = torch.addcmul(out, split, weight)
    return out


class _Link:
    """What `_Mix` leaves for `_Pool` in the backward pass: the gradient of the sum, and the weights."""

    grad: Tensor | None = None
    weights: Tensor | None = None


def pool(splits: Tensor) -> tuple[Tensor, Tensor, _Link]:
    """The splits, their `global_average`, and what `mix` needs; for training, see `_Pool`."""
    link = _Link()
    same, gap = _Pool.apply(splits, link)
    return same, gap, link


def mix(splits: Tensor, weights: Tensor, radix: int, link: _Link) -> Tensor:
    """`weighted_sum` of the splits that `pool` gave back."""
    out: Tensor = _Mix.apply(splits, weights, radix, link)
    return out


class _Pool(torch.autograd.Function):
    """(splits, link) -> (splits, their average).

    Between here and `_Mix` nothing else may use the splits: their gradient does not come back through autograd but in
    the link, so that it can be written together with the average's.
    """

    @staticmethod
    def forward(ctx: Any, splits: Tensor, link: _Link) -> tuple[Tensor, Tensor]:
        ctx.link, ctx.area = link, splits.shape[2] * splits.shape[3]
        ctx.set_materialize_grads(False)
        return splits.view_as(splits), global_average(splits)

    @staticmethod
    def backward(ctx: Any, grad_splits: Tensor | None, grad_gap: Tensor | None) -> tuple[Tensor | None, None]:
        link = ctx.link
        spread = None if grad_gap is None else grad_gap / ctx.area  # [B, radix * C, 1, 1]
        if link.grad is None:
            if grad_splits is None or spread is None:
                return grad_splits, None
            return grad_splits + spread, None
        grad, weights = link.grad, link.weights
        link.grad = link.weights = None
        return _splits_gradient(grad, weights, spread), None


class _Mix(torch.autograd.Function):
    """`weighted_sum` whose gradient for the splits goes through the link, see `_Pool`."""

    @staticmethod
    def forward(ctx: Any, splits: Tensor, weights: Tensor, radix: int, link: _Link) -> Tensor:
        ctx.save_for_backward(splits, weights)
        ctx.radix, ctx.link = radix, link
        return weighted_sum(splits, weights, radix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        splits, weights = ctx.saved_tensors
        every = torch.cat([weights, 1 - weights], dim=1) if ctx.radix == 2 else weights  # [B, radix * C, 1, 1]
        repeated = [grad] * ctx.radix
        if torch.is_grad_enabled():  # create_graph=True: in operations that autograd can follow
            products = torch.cat(repeated, dim=1) * splits
            sums = products.sum((2, 3), keepdim=True)
            if ctx.radix == 2:
                first, second = sums.chunk(2, dim=1)
                sums = first - second
            return torch.cat(repeated, dim=1) * every, sums, None, None
        ctx.link.grad, ctx.link.weights = grad, every
        return None, _weights_gradient(grad, splits, ctx.radix), None, None


@fused
def _weights_gradient(grad: Tensor, splits: Tensor, radix: int) -> Tensor:
    """Sum over height and width of gradient times split."""
    area = grad.shape[2] * grad.shape[3]
    if radix == 2:
        first, second = splits.chunk(2, dim=1)
        return global_average((first - second).mul_(grad)) * area
    sums = [global_average(split * grad) for split in splits.chunk(radix, dim=1)]
    return torch.cat(sums, dim=1) * area


@fused
def _splits_gradient(grad: Tensor, weights: Tensor, spread: Tensor | None) -> Tensor:
    """Gradient times weight, plus the average's, for each split: `[B, radix * C, H, W]`."""
    batch, channels, height, width = grad.shape
    shape = (batch, weights.shape[1], height, width)
    channels_last = grad.is_contiguous(memory_format=torch.channels_last) and not grad.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=memory_format)
    for start in range(0, shape[1], channels):
        part = slice(start, start + channels)
        if spread is None:
            torch.mul(grad, weights[:, part], out=out[:, part])
        else:
            torch.addcmul(spread[:, part], grad, weights[:, part], out=out[:, part])
    return out
