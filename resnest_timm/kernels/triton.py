"""Triton kernels for what `mixing` does to whole maps: each moves every value through memory once.

The functions have the signatures of those in `mixing` and give the same numbers, accumulated in float32 and rounded
once; `fused` decides when they are called. They answer None to what they are not made for, and launch nothing then.

A map `[B, C, H, W]` is read as `[B, C, P]` with P = H * W pixels, by its strides: contiguous and channels_last alike,
and channel slices and broadcasts of them. One program handles a tile of `BLOCK_C` channels and `BLOCK_P` pixels of one
image; along whichever of the two is dense in memory the tile is long enough that each load is of whole 128-byte lines.

Sums over the pixels use no atomics: where images and channels alone do not fill a GPU, a map is cut into chunks of
pixels whose sums go to memory in float32 and are summed by the same kernel. The cut depends on the shape alone, so the
result is the same every time and on every GPU.

Bytes, in units of one map of C channels (radix 2; what PyTorch's kernels move in brackets): average 2 (2), weighted sum
3 (3), gradient of the weights 3 (7), gradient of the splits 3 (4).

Source: written for this project, against the plain functions in `mixing`; kernels in the form of Triton's tutorials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

jit: Callable[[Callable[..., Any]], Any] = triton.jit  # which says nothing of its types

TILE = 2048
"""Values in a tile: 16 for each of 128 threads, two 16-byte loads of bf16 and four of fp32."""

PROGRAMS = 1024
"""A sum is cut into chunks until it has about this many programs: 8 for each of the 132 multiprocessors of an H100."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""Of every launch. Multiply-adds are fused, as PyTorch's are; Triton 3.9 warns where that is left open."""

MIN_TILES = 4
"""Tiles in a chunk at least, so that the float32 sums of the chunks stay a few per cent of what is read."""


@jit
def _sum_kernel(
    out: tl.tensor,  # [B, chunks, splits * C], contiguous
    x: tl.tensor,  # [B, splits * C, P]; of a pair [B, 2 * C, P]
    grad: tl.tensor,  # [B, C, P]; not read without HAS_GRAD
    splits: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    chunk: tl.tensor,
    x_batch: tl.tensor,
    x_channel: tl.tensor,
    x_pixel: tl.tensor,
    grad_batch: tl.tensor,
    grad_channel: tl.tensor,
    grad_pixel: tl.tensor,
    divisor: tl.tensor,
    HAS_GRAD: tl.constexpr,
    IS_PAIR: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Sum one chunk of pixels: of x, of x * grad, or (IS_PAIR) of (first split - second split) * grad."""
    program = tl.program_id(0)
    split = program % splits  # neighbours read the same gradient: it comes from the L2 cache
    program = program // splits
    blocks = tl.cdiv(channels, BLOCK_C)
    block = program % blocks
    program = program // blocks
    chunks = tl.cdiv(pixels, chunk)
    start = (program % chunks).to(tl.int64) * chunk
    row = program.to(tl.int64)  # image * chunks + chunk
    image = row // chunks

    # Offsets are 64-bit throughout: a batch of large maps has more than 2 ** 31 values.
    channel = block.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_split = channel < channels
    x += image * x_batch + split.to(tl.int64) * channels * x_channel + channel[:, None] * x_channel
    grad += image * grad_batch + channel[:, None] * grad_channel
    stop = tl.minimum(start + chunk, pixels)
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for first in range(start, stop, BLOCK_P):
        pixel = first + tl.arange(0, BLOCK_P)
        mask = in_split[:, None] & (pixel < stop)[None, :]
        value = tl.load(x + pixel[None, :] * x_pixel, mask=mask, other=0.0).to(tl.float32)
        if IS_PAIR:
            second = x + tl.cast(channels, tl.int64) * x_channel
            value -= tl.load(second + pixel[None, :] * x_pixel, mask=mask, other=0.0).to(tl.float32)
        if HAS_GRAD:
            value *= tl.load(grad + pixel[None, :] * grad_pixel, mask=mask, other=0.0).to(tl.float32)
        total += value
    out += (row * splits + split) * channels + channel
    tl.store(out, tl.sum(total, axis=1) / divisor, mask=in_split)


@jit
def _tile(channels: tl.tensor, pixels: tl.tensor, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr) -> tl.tensor:
    """Image, channels `[BLOCK_C]`, pixels `[1, BLOCK_P]` (all int64) and mask `[BLOCK_C, BLOCK_P]` of this program."""
    program = tl.program_id(0)
    columns = tl.cdiv(pixels, BLOCK_P)
    blocks = tl.cdiv(channels, BLOCK_C)
    pixel = ((program % columns).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    program = program // columns
    channel = (program % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = (program // blocks).to(tl.int64)
    return image, channel, pixel, (channel < channels)[:, None] & (pixel < pixels)


@jit
def _weighted_sum_kernel(
    out: tl.tensor,  # [B, C, P]
    splits: tl.tensor,  # [B, RADIX * C, P]
    weights: tl.tensor,  # [B, RADIX * C], contiguous; for RADIX 2 [B, C]
    channels: tl.tensor,
    pixels: tl.tensor,
    out_batch: tl.tensor,
    out_channel: tl.tensor,
    out_pixel: tl.tensor,
    splits_batch: tl.tensor,
    splits_channel: tl.tensor,
    splits_pixel: tl.tensor,
    RADIX: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    image, channel, pixel, mask = _tile(channels, pixels, BLOCK_C, BLOCK_P)
    in_split = channel < channels
    splits += image * splits_batch + channel[:, None] * splits_channel + pixel * splits_pixel
    rows: tl.constexpr = 1 if RADIX == 2 else RADIX
    weights += image * channels * rows + channel
    step = splits_channel * tl.cast(channels, tl.int64)  # from a split to the next
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    weight = tl.load(weights, mask=in_split, other=0.0).to(tl.float32)
    for split in tl.static_range(RADIX):
        if split > 0:
            if RADIX == 2:
                weight = 1 - weight
            else:
                weight = tl.load(weights + split * channels, mask=in_split, other=0.0).to(tl.float32)
        total += weight[:, None] * tl.load(splits + split * step, mask=mask, other=0.0).to(tl.float32)
    out += image * out_batch + channel[:, None] * out_channel + pixel * out_pixel
    tl.store(out, total, mask=mask)


@jit
def _splits_gradient_kernel(
    out: tl.tensor,  # [B, RADIX * C, P]
    grad: tl.tensor,  # [B, C, P]
    weights: tl.tensor,  # [B, RADIX * C], contiguous
    spread: tl.tensor,  # like weights; not read without HAS_SPREAD
    channels: tl.tensor,
    pixels: tl.tensor,
    out_batch: tl.tensor,
    out_channel: tl.tensor,
    out_pixel: tl.tensor,
    grad_batch: tl.tensor,
    grad_channel: tl.tensor,
    grad_pixel: tl.tensor,
    RADIX: tl.constexpr,
    HAS_SPREAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    image, channel, pixel, mask = _tile(channels, pixels, BLOCK_C, BLOCK_P)
    in_split = channel < channels
    grad += image * grad_batch + channel[:, None] * grad_channel + pixel * grad_pixel
    value = tl.load(grad, mask=mask, other=0.0).to(tl.float32)
    out += image * out_batch + channel[:, None] * out_channel + pixel * out_pixel
    step = out_channel * tl.cast(channels, tl.int64)  # from a split to the next
    row = image * channels * RADIX + channel
    for split in tl.static_range(RADIX):
        weight = tl.load(weights + row + split * channels, mask=in_split, other=0.0).to(tl.float32)
        result = weight[:, None] * value
        if HAS_SPREAD:
            result += tl.load(spread + row + split * channels, mask=in_split, other=0.0).to(tl.float32)[:, None]
        tl.store(out + split * step, result, mask=mask)


def global_average(x: Tensor) -> Tensor | None:
    """Mean over height and width, see `mixing.global_average`."""
    return _sum(x, None, 1, False, x.dtype) if _is_even(x) else None


def weighted_sum(splits: Tensor, weights: Tensor, radix: int) -> Tensor | None:
    """Mix the splits, see `mixing.weighted_sum`."""
    if not _is_even(splits) or splits.shape[1] % radix:
        return None
    batch, channels, pixels = splits.shape[0], splits.shape[1] // radix, splits.shape[2] * splits.shape[3]
    if weights.shape != (batch, channels if radix == 2 else radix * channels, 1, 1):
        return None
    out = _empty_like(splits, channels, torch.promote_types(splits.dtype, weights.dtype))
    block_c, block_p, grid = _tiles(splits, channels)
    with _device(splits):
        _weighted_sum_kernel[(grid,)](
            out,
            splits,
            weights.contiguous(),
            channels,
            pixels,
            *_strides(out),
            *_strides(splits),
            RADIX=radix,
            BLOCK_C=block_c,
            BLOCK_P=block_p,
            **OPTIONS,
        )
    return out


def weights_gradient(grad: Tensor, splits: Tensor, radix: int) -> Tensor | None:
    """Sum over height and width of gradient times split, see `mixing._weights_gradient`."""
    if not (_is_even(splits) and _is_even(grad)):
        return None
    if splits.shape != (grad.shape[0], radix * grad.shape[1], *grad.shape[2:]):
        return None
    is_pair = radix == 2
    dtype = torch.promote_types(splits.dtype, grad.dtype)
    return _sum(splits, grad, 1 if is_pair else radix, is_pair, dtype)


def splits_gradient(grad: Tensor, weights: Tensor, spread: Tensor | None) -> Tensor | None:
    """Gradient times weight, plus the average's, for each split, see `mixing._splits_gradient`."""
    if not _is_even(grad) or weights.dim() != 4 or weights.shape[1] % grad.shape[1]:
        return None
    batch, channels = grad.shape[:2]
    pixels = grad.shape[2] * grad.shape[3]
    if any(t.shape != (batch, weights.shape[1], 1, 1) for t in (weights, spread) if t is not None):
        return None
    out = _empty_like(grad, weights.shape[1], grad.dtype)
    block_c, block_p, grid = _tiles(grad, channels)
    with _device(grad):
        _splits_gradient_kernel[(grid,)](
            out,
            grad,
            weights.contiguous(),
            weights if spread is None else spread.contiguous(),
            channels,
            pixels,
            *_strides(out),
            *_strides(grad),
            RADIX=weights.shape[1] // channels,
            HAS_SPREAD=spread is not None,
            BLOCK_C=block_c,
            BLOCK_P=block_p,
            **OPTIONS,
        )
    return out


def _is_even(x: Tensor) -> bool:
    """Whether the pixels of `[B, C, H, W]` follow one another evenly, the next row after the one before."""
    return x.dim() == 4 and (min(x.shape[2:]) == 1 or x.stride(2) == x.shape[3] * x.stride(3))


def _strides(x: Tensor) -> tuple[int, int, int]:
    """From an image, a channel and a pixel of an even map to the next, in values."""
    batch, channel, row, column = x.stride()
    return batch, channel, row if x.shape[3] == 1 else column


def _empty_like(x: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """A map of the size, layout and device of x."""
    _, channel, pixel = _strides(x)
    channels_last = channel < pixel and not x.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format)


def _tiles(x: Tensor, channels: int) -> tuple[int, int, int]:
    """`BLOCK_C`, `BLOCK_P` and how many such tiles maps of x with so many channels have.

    A fixed rule: tuning on the machine would run for every layer, image size and batch size again. Along the dense
    dimension a tile has 128 channels (256 bytes of bf16) or 256 pixels, unless there are fewer.
    """
    pixels = x.shape[2] * x.shape[3]
    _, channel, pixel = _strides(x)
    if channel < pixel or pixels == 1:
        block_c = min(triton.next_power_of_2(channels), 128)
        block_p = TILE // block_c
    else:
        block_p = min(triton.next_power_of_2(pixels), 256)
        block_c = TILE // block_p
    return block_c, block_p, x.shape[0] * triton.cdiv(channels, block_c) * triton.cdiv(pixels, block_p)


def _sum(x: Tensor, grad: Tensor | None, splits: int, is_pair: bool, dtype: torch.dtype) -> Tensor:
    """Average of x, or sum of x times grad where that is given: `[B, splits * C, 1, 1]`, see `_sum_kernel`."""
    batch, pixels = x.shape[0], x.shape[2] * x.shape[3]
    channels = x.shape[1] // (2 if is_pair else splits)
    divisor = float(pixels) if grad is None else 1.0
    out = torch.empty((batch, splits * channels, 1, 1), dtype=dtype, device=x.device)

    _, block_p, tiles = _tiles(x, channels)
    programs = splits * tiles // triton.cdiv(pixels, block_p)
    wanted = min(max(PROGRAMS // programs, 1), triton.cdiv(pixels, MIN_TILES * block_p))
    chunk = triton.cdiv(triton.cdiv(pixels, wanted), block_p) * block_p
    chunks = triton.cdiv(pixels, chunk)
    if chunks == 1:
        _launch_sum(out, x, grad, splits, is_pair, chunk, divisor)
        return out
    parts = torch.empty((batch, chunks, splits * channels), dtype=torch.float32, device=x.device)
    _launch_sum(parts, x, grad, splits, is_pair, chunk, 1.0)
    as_map = parts.transpose(1, 2)[..., None]  # [B, splits * C, chunks, 1]
    _launch_sum(out, as_map, None, 1, False, chunks, divisor)
    return out


def _launch_sum(
    out: Tensor, x: Tensor, grad: Tensor | None, splits: int, is_pair: bool, chunk: int, divisor: float
) -> None:
    channels, pixels = x.shape[1] // (2 if is_pair else splits), x.shape[2] * x.shape[3]
    block_c, block_p, tiles = _tiles(x, channels)
    grid = splits * tiles // triton.cdiv(pixels, block_p) * triton.cdiv(pixels, chunk)
    with _device(x):
        _sum_kernel[(grid,)](
            out,
            x,
            x if grad is None else grad,
            splits,
            channels,
            pixels,
            chunk,
            *_strides(x),
            *_strides(x if grad is None else grad),
            divisor,
            HAS_GRAD=grad is not None,
            IS_PAIR=is_pair,
            BLOCK_C=block_c,
            BLOCK_P=block_p,
            **OPTIONS,
        )


def _device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of x; on the CPU its interpreter has none."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
