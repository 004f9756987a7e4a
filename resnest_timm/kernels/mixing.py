"""The weighted sum of the splits and the pooling before it, in as few passes over memory as PyTorch has kernels for.

Both are bound by memory. The usual formula (multiply, sum over a fifth dimension, one gradient after the other) moves
the splits several times as often as needed:

- Two splits whose weights sum to 1 are one `torch.lerp`, and one gradient instead of two.
- bf16 on the CPU: `mean` converts the whole map to float32 first, `avg_pool2d` does not.
- Backward, the splits get their gradient from the sum and from the pooling. Both are written in one pass, straight into
  the channels where the convolution's gradient wants them.

That backward pass is for plain training. Where gradients are to have gradients, or are batched, the same formulas run
in operations that PyTorch can follow; under transforms (`torch.func`, forward mode, `make_fx`) the forward pass is
plain.

On a GPU the four functions that are `fused` run as Triton kernels where they can; what stands here is their reference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_timm.kernels.fused import fused
from resnest_timm.kernels.plain import is_eager, is_transformed


def records_gradients(splits: Tensor) -> bool:
    """Whether `pool` and `mix` pay: in eager training, for they only order the backward pass better."""
    return (
        isinstance(splits, Tensor)  # and no tracer's stand-in
        and splits.requires_grad
        and torch.is_grad_enabled()
        and is_eager()
        and not is_transformed(splits)
    )


@fused
def global_average(x: Tensor) -> Tensor:
    """Mean over height and width, `[B, C, H, W]` -> `[B, C, 1, 1]`, of the same dtype."""
    if isinstance(x, Tensor) and x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and is_eager():
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
    if radix == 2:
        parts = splits.chunk(2, dim=1)
        return torch.lerp(parts[1], parts[0], weights)
    return any_weighted_sum(splits, weights, radix)


def any_weighted_sum(splits: Tensor, weights: Tensor, radix: int) -> Tensor:
    """`weighted_sum` with weights `[B, radix * C, 1, 1]` that need not sum to 1; TorchScript compiles it."""
    if radix == 1:
        return splits * weights
    parts, rows = splits.chunk(radix, dim=1), weights.chunk(radix, dim=1)
    out = parts[0] * rows[0]
    for index in range(1, radix):
        out = torch.addcmul(out, parts[index], rows[index])
    return out


def pool(splits: Tensor, radix: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The splits' `global_average`, and what `mix` needs; for training, see `_Pool`."""
    gap, of_sum, of_weights = _Pool.apply(splits, radix)
    return gap, (of_sum, of_weights)


def mix(splits: Tensor, weights: Tensor, radix: int, carriers: tuple[Tensor, Tensor]) -> Tensor:
    """`weighted_sum` of the splits that `pool` averaged."""
    out: Tensor = _Mix.apply(splits, weights, radix, *carriers)
    return out


class _Pool(torch.autograd.Function):
    """Splits -> their average, and two carriers.

    A carrier has no values: `_Mix` takes it so that autograd brings here what `_Mix.backward` gives for it. For the
    first that is the gradient of the sum, for the second the weight of each split; their product is the gradient that
    the splits get by the sum, and it is written here in one pass, together with the average's. Nothing is kept between
    the two functions: any part of a backward pass may run, any number of times.
    """

    @staticmethod
    def forward(ctx: Any, splits: Tensor, radix: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.shape, ctx.radix = splits.shape, radix
        ctx.set_materialize_grads(False)
        batch, channels, height, width = splits.shape
        gap = global_average(splits)
        of_sum = splits.new_empty(()).expand(batch, channels // radix, height, width)
        return gap, of_sum, splits.new_empty(()).expand(gap.shape)

    @staticmethod
    def backward(
        ctx: Any, grad_gap: Tensor | None, grad: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor | None, None]:
        _, _, height, width = ctx.shape
        spread = None if grad_gap is None else grad_gap / (height * width)  # [B, radix * C, 1, 1]
        if grad is None or weights is None:
            return None if spread is None else spread.expand(ctx.shape), None
        if _is_followed(grad, spread):
            by_sum = torch.cat([grad] * ctx.radix, dim=1) * weights
            return by_sum if spread is None else by_sum + spread, None
        return _splits_gradient(grad, weights, spread), None


class _Mix(torch.autograd.Function):
    """`weighted_sum` whose gradient for the splits goes through the carriers, see `_Pool`."""

    @staticmethod
    def forward(ctx: Any, splits: Tensor, weights: Tensor, radix: int, of_sum: Tensor, of_weights: Tensor) -> Tensor:
        ctx.save_for_backward(splits, weights)
        ctx.radix = radix
        return weighted_sum(splits, weights, radix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, Tensor | None, Tensor | None]:
        splits, weights = ctx.saved_tensors
        every = torch.cat([weights, 1 - weights], dim=1) if ctx.radix == 2 else weights  # [B, radix * C, 1, 1]
        if not _is_followed(grad):
            return None, _weights_gradient(grad, splits, ctx.radix), None, grad, every
        repeated = torch.cat([grad] * ctx.radix, dim=1)
        sums = (repeated * splits).sum((2, 3), keepdim=True)
        if ctx.radix == 2:
            first, second = sums.chunk(2, dim=1)
            sums = first - second
        return repeated * every, sums, None, None, None


def _is_followed(*grads: Tensor | None) -> bool:
    """Whether a backward pass must run in operations that PyTorch can follow: differentiate, batch, trace."""
    return torch.is_grad_enabled() or any(is_transformed(grad) for grad in grads if grad is not None)


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
