"""Convolutions of the inference form on CPUs, which keep their weights packed and add the shortcut in the same pass.

PyTorch's eager convolution brings its weights into oneDNN's order in every call, and the addition after it reads and
writes whole maps again. oneDNN needs neither. Its ReLU is not used: it makes 0 of NaN, and would hide a broken model.

The operations are PyTorch's own, those that inductor puts into compiled graphs (`torch.ops.mkldnn`), but undocumented:
they are tried on a small map before they are used, and where that fails or anything is recorded, traced or
transformed, PyTorch's documented ones run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropBlock2d, DropPath
from torch import Tensor, nn

from resnest_timm.block import ResNeStBottleneck
from resnest_timm.kernels.plain import are_plain, is_eager, is_traced, is_watched

IDLE = (DropBlock2d, DropPath)
"""Regularisers that do nothing in eval mode."""

DTYPES = frozenset({torch.float32, torch.bfloat16})
OPS: Any = torch.ops.mkldnn


def is_channels_last(x: Tensor) -> bool:
    """Whether x `[B, C, H, W]` lies in memory pixel by pixel; `is_contiguous` says so of any with a single channel."""
    return x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)


class PackedConv2d(nn.Conv2d):
    """`nn.Conv2d`, `[B, C, H, W]` -> `[B, C', H', W']`.

    Packed weights are a second copy, made anew when the images' shape or the weights change: their order depends on
    both. Changes through `weight.data`, which PyTorch does not count, are not seen. Copies and pickles have none.
    Weights made in inference mode, whose changes nobody counts, are packed in every call.
    """

    _packed: tuple[torch.Size, int, Tensor, Tensor] | None = None
    """Shape of the images, version of the weights, the weights (so that their memory is not reused), and packed."""

    def forward(self, input: Tensor) -> Tensor:
        """A convolution."""
        if not self._runs_in_onednn(input):
            return super().forward(input)
        convolution = (input, self._pack(input), self.bias, *self._geometry())
        out: Tensor = OPS._convolution_pointwise(*convolution, "none", [], "")
        return out

    def join(self, input: Tensor, shortcut: Tensor, overwrite: bool) -> Tensor:
        """Add the shortcut to the convolution's output, then take the ReLU.

        Args:
            input: `[B, C, H, W]`.
            shortcut: `[B, C', H', W']`.
            overwrite: Whether the shortcut's memory may become the output's.
        """
        if not self._runs_in_onednn(input, shortcut):
            return F.relu_(super().forward(input) + shortcut)
        target = shortcut if overwrite else shortcut.clone()
        convolution = (input, self._pack(input), self.bias, *self._geometry())
        joined: Tensor = OPS._convolution_pointwise_(target, *convolution, "add", 1.0, None, [], None)
        return F.relu_(joined)

    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        padding: Any = self.padding
        return list(padding), list(self.stride), list(self.dilation), self.groups

    def _runs_in_onednn(self, input: Tensor, *others: Tensor) -> bool:
        tensors = (input, *others, self.weight) if self.bias is None else (input, *others, self.weight, self.bias)
        return (
            is_eager()
            and are_plain(*tensors)
            and all(x.device.type == "cpu" and x.dtype == input.dtype for x in tensors)
            and input.dim() == 4
            and input.numel() > 0
            and all(is_channels_last(x) for x in (input, *others, self.weight))
            and torch._C._get_mkldnn_enabled()
            and not torch.is_autocast_enabled("cpu")
            and torch._C._len_torch_dispatch_stack() == 0  # somebody counts or replaces operations that he knows
            and has_packed_convolutions(input.dtype)
        )

    def _pack(self, input: Tensor) -> Tensor:
        weight = self.weight.detach()
        if weight.is_inference():
            return self._packed_for(weight, input)
        version = weight._version
        if self._packed is not None:
            shape, of_version, of_weight, packed = self._packed
            if (shape, of_version, of_weight.data_ptr()) == (input.shape, version, weight.data_ptr()):
                return packed
        new = self._packed_for(weight, input)
        self._packed = (input.shape, version, weight, new)
        return new

    def _packed_for(self, weight: Tensor, input: Tensor) -> Tensor:
        packed: Tensor = OPS._reorder_convolution_weight(weight, *self._geometry(), list(input.shape))
        return packed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


class JoinedBottleneck(ResNeStBottleneck):
    """The block in eval mode, its norms folded away: the last convolution adds the shortcut."""

    def _join(self, out: Tensor, x: Tensor) -> Tensor:
        if not _can_join(self) or is_traced(x):
            return super()._join(out, x)
        convolution: Any = self.conv3
        shortcut = self._shortcut(x, out)
        joined: Tensor = convolution.join(out, shortcut, overwrite=_is_own(self.downsample))
        return joined


@functools.cache
def has_packed_convolutions(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed convolutions are there and right; tried once in a process for each dtype."""
    if dtype not in DTYPES or not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16 and not OPS._is_mkldnn_bf16_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        x, weight, shortcut = (
            torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last)
            for shape in ((2, 16, 5, 5), (32, 8, 3, 3), (2, 32, 5, 5))
        )
        bias, geometry = torch.randn(32, generator=generator).to(dtype), ([1, 1], [1, 1], [1, 1], 2)
        plain = F.conv2d(x.float(), weight.float(), bias.float(), padding=1, groups=2)
        expected = (plain, plain + shortcut.float())
        try:
            packed = OPS._reorder_convolution_weight(weight, *geometry, list(x.shape))
            one = OPS._convolution_pointwise(x, packed, bias, *geometry, "none", [], "")
            two = OPS._convolution_pointwise_(shortcut, x, packed, bias, *geometry, "add", 1.0, None, [], None)
        except (AttributeError, RuntimeError, TypeError):  # not there, not for this CPU, or with other arguments
            return False
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    return all(
        torch.allclose(actual.float(), wanted, rtol=tolerance, atol=tolerance * 10)
        for actual, wanted in zip((one, two), expected, strict=True)
    )


def pack_convolutions(model: nn.Module) -> None:
    """Make every plain convolution of a model in eval mode a `PackedConv2d`, in place; its norms are folded before.

    Where a block of ours adds the shortcut, its last convolution does that.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = PackedConv2d  # in place: hooks and names stay
    for module in model.modules():
        if type(module) is ResNeStBottleneck:
            module.__class__ = JoinedBottleneck


def _can_join(block: ResNeStBottleneck) -> bool:
    """Whether between the last convolution and the ReLU there is nothing but the addition, and nobody who watches.

    It is asked in every call: hooks come, and activations are replaced, after the inference form is made.
    """
    ends = type(block.conv3) is PackedConv2d and type(block.bn3) is nn.Identity and type(block.act3) is nn.ReLU
    idle = [module for module in (block.drop_block3, block.drop_path) if module is not None]  # here, in eval mode
    between = (block.conv3, block.bn3, block.act3, *idle)
    return ends and all(type(module) in IDLE for module in idle) and not any(map(is_watched, between))


def _is_own(downsample: nn.Module | None) -> bool:
    """Whether the shortcut is a map that nobody else holds: a convolution's, with no hook that may have kept it."""
    if type(downsample) is not nn.Sequential or any(map(is_watched, downsample.modules())):
        return False
    last = [layer for layer in downsample if type(layer) is not nn.Identity]
    return bool(last) and type(last[-1]) is PackedConv2d
