"""Split attention: a convolution whose output channels come in `radix` splits, mixed by learned attention.

Source: Zhang et al., "ResNeSt: Split-Attention Networks", https://arxiv.org/abs/2004.08955, section 3, and the authors'
`SplAtConv2d` (https://github.com/zhanghang1989/ResNeSt, Apache-2.0). Parameter and buffer names are those of timm's
`SplitAttn`, which are the authors' too, so that every released checkpoint loads strictly.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import make_divisible
from timm.layers.split_attn import RadixSoftmax
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from resnest_timm.kernels import mixing
from resnest_timm.kernels.plain import is_recorded, is_traced, is_watched

Layer = Callable[..., nn.Module]

REDUCTION = 4
MIN_ATTENTION_CHANNELS = 32


def has_one_value_per_channel(norm: nn.Module, x: Tensor) -> bool:
    """Whether `norm` would have to take batch statistics of `x` `[B, C, H, W]` from a single value per channel.

    Only plain BatchNorm counts: SyncBatchNorm sees the other ranks' values too, and a rank that skipped its collective
    call would leave the others waiting for ever.
    """
    if not norm.training or is_traced(x):
        return False
    single = x.shape[0] == 1 and x.shape[2] == 1 and x.shape[3] == 1
    return single and type(norm) is nn.BatchNorm2d and norm.running_mean is not None


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply `norm` to `x` `[B, C, H, W]`; with one value per channel in train mode, by its running statistics.

    PyTorch's BatchNorm refuses that case ("Expected more than 1 value per channel when training"): the variance of one
    value is zero, and normalising by it would erase the input. The running statistics are used and left unchanged.
    """
    if not (isinstance(norm, nn.BatchNorm2d) and has_one_value_per_channel(norm, x)):
        out: Tensor = norm(x)
        return out
    if not torch.compiler.is_compiling():
        _warn_running_statistics()
    if is_watched(norm):  # whoever hooked it is to see the call
        with running_statistics(norm):
            out = norm(x)
        return out
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


@contextlib.contextmanager
def running_statistics(norm: nn.Module) -> Iterator[None]:
    """Let the calls of a norm in train mode use its running statistics, and leave them as they are."""
    norm.training = False
    try:
        yield
    finally:
        norm.training = True


@functools.cache
def _warn_running_statistics() -> None:
    """Warn once per process."""
    warnings.warn(
        "ResNeSt got one image in train mode: BatchNorm layers that see a single value per channel normalise by their "
        "running statistics for this batch and do not update them. Use at least 2 images per batch and device.",
        UserWarning,
        stacklevel=2,
    )


class SplitAttention(nn.Module):
    """Split-attention convolution, `[B, C, H, W]` -> `[B, C', H', W']`.

    A grouped convolution makes `radix` splits of C' channels each. Their global average, summed over the splits, goes
    through a two-layer bottleneck that yields one weight per split and channel (softmax over the splits; a sigmoid for
    radix 1); the output is the weighted sum of the splits.

    In train mode a batch of 1 is accepted: the bottleneck's BatchNorm sees a 1x1 map, so with one image it has a single
    value per channel. It then normalises by its running statistics and leaves them as they are (warned once).

    Args:
        in_channels: C, channels of the input.
        out_channels: C', channels of the output; C when not given.
        kernel_size: Of the convolution, in pixels.
        stride: Of the convolution, in pixels.
        padding: Of the convolution, in pixels; half the kernel when not given.
        dilation: Of the convolution, in pixels.
        groups: Cardinality: groups within each split.
        bias: Whether the convolution has a bias.
        radix: Number of splits, at least 1.
        rd_ratio: Channels between the two layers of the bottleneck, as a share of `in_channels * radix`; at least 32.
        rd_channels: As many for each split instead.
        rd_divisor: They are made a multiple of it where `rd_ratio` gives them.
        act_layer: Makes the activation, called with `inplace=True`.
        norm_layer: Makes the normalisation, called with a channel count; none when not given.
        drop_layer: Makes a regulariser such as DropBlock, applied between normalisation and activation.
        device: Where parameters live.
        dtype: Of the parameters.
        kwargs: Others of the convolution, such as `padding_mode`.

    Raises:
        ValueError: `radix` below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        radix: int = 2,
        rd_ratio: float = 1 / REDUCTION,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        act_layer: Layer = nn.ReLU,
        norm_layer: Layer | None = None,
        drop_layer: Layer | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if radix < 1:
            raise ValueError(f"radix must be at least 1, got {radix}; a plain convolution is torch.nn.Conv2d")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        out_channels = out_channels or in_channels
        split_channels = out_channels * radix
        attention_channels: int = (
            make_divisible(in_channels * radix * rd_ratio, min_value=MIN_ATTENTION_CHANNELS, divisor=rd_divisor)
            if rd_channels is None
            else rd_channels * radix
        )
        padding = kernel_size // 2 if padding is None else padding

        self.radix = radix
        self.cardinality = groups
        self.conv = nn.Conv2d(
            in_channels,
            split_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups * radix,
            bias,
            **{**kwargs, **factory},
        )
        self.bn0 = norm_layer(split_channels, **factory) if norm_layer else nn.Identity()
        self.drop = drop_layer() if drop_layer else nn.Identity()
        self.act0 = act_layer(inplace=True)
        self.fc1 = nn.Conv2d(out_channels, attention_channels, 1, groups=groups, **factory)
        self.bn1 = norm_layer(attention_channels, **factory) if norm_layer else nn.Identity()
        self.act1 = act_layer(inplace=True)
        self.fc2 = nn.Conv2d(attention_channels, split_channels, 1, groups=groups, **factory)
        # The released weights order fc2's channels by cardinal group first; the convolution's, and these, by split.
        self.rsoftmax = RadixSoftmax(radix, groups)

    def attention(self, splits: Tensor) -> Tensor:
        """Weights of the splits.

        Args:
            splits: Convolved, normalised and activated input, `[B, radix * C', H, W]`.

        Returns:
            Weights in (0, 1) of the same dtype, `[B, radix * C', 1, 1]`, summing to 1 over the splits for radix > 1.
        """
        return self._weights(mixing.global_average(splits))

    def _weights(self, gap: Tensor) -> Tensor:
        """Average of the splits -> their weights, both `[B, radix * C', 1, 1]`."""
        hidden = self.act1(normalize(self.bn1, self.fc1(self._sum(gap))))
        return self._softmax(self.fc2(hidden), gap)

    def _sum(self, gap: Tensor) -> Tensor:
        """Over the splits: after the average there are 1x1 maps to add, not whole ones."""
        if self.radix == 1:
            return gap
        return gap.view(gap.shape[0], self.radix, -1, 1, 1).sum(dim=1)  # [B, C', 1, 1]

    def _softmax(self, scores: Tensor, gap: Tensor) -> Tensor:
        weights: Tensor = self.rsoftmax(scores)
        return weights.view(gap.shape[0], -1, 1, 1).to(gap.dtype)  # on a GPU, autocast gives float32

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        if is_scripting():  # TorchScript compiles calls of layers and plain functions alone
            splits = self.act0(self.drop(self.bn0(self.conv(x))))
            gap = splits.mean((2, 3), keepdim=True)
            weights = self._softmax(self.fc2(self.act1(self.bn1(self.fc1(self._sum(gap))))), gap)
            return mixing.any_weighted_sum(splits, weights, self.radix)
        else:  # it would compile what stands after the `if`
            return self._mix(self.act0(self.drop(normalize(self.bn0, self.conv(x)))))

    def _mix(self, splits: Tensor) -> Tensor:
        """The weighted sum of the splits `[B, radix * C', H', W']`."""
        if is_recorded():
            return self._as_timm(splits)
        if type(self.rsoftmax) is not RadixSoftmax or is_watched(self.rsoftmax):  # who knows what its weights sum to
            return mixing.any_weighted_sum(splits, self._weights(mixing.global_average(splits)), self.radix)
        if self.training and mixing.records_gradients(splits):
            gap, carriers = mixing.pool(splits, self.radix)
            return mixing.mix(splits, self._independent(self._weights(gap)), self.radix, carriers)
        weights = self._independent(self._weights(mixing.global_average(splits)))
        return mixing.weighted_sum(splits, weights, self.radix)

    def _as_timm(self, splits: Tensor) -> Tensor:
        """The weighted sum in timm's operations, one by one, for those who look at them."""
        batch, channels, height, width = splits.shape
        if self.radix == 1:
            return splits * self._weights(splits.mean((2, 3), keepdim=True))
        shape = (batch, self.radix, channels // self.radix)
        parts = splits.reshape(*shape, height, width)
        gap = parts.sum(dim=1).mean((2, 3), keepdim=True)
        weights = self._softmax(self.fc2(self.act1(normalize(self.bn1, self.fc1(gap)))), gap)
        return (parts * weights.reshape(*shape, 1, 1)).sum(dim=1)

    def _independent(self, weights: Tensor) -> Tensor:
        """The weights that `mixing.weighted_sum` takes: of two splits, those of the first say it all."""
        return weights.chunk(2, dim=1)[0] if self.radix == 2 else weights
