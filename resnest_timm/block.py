"""ResNeSt's bottleneck block, for timm's `ResNet` trunk.

Source: https://arxiv.org/abs/2004.08955 and the authors' code, https://github.com/zhanghang1989/ResNeSt (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from resnest_timm.kernels.plain import is_watched
from resnest_timm.split_attention import (
    Layer,
    SplitAttention,
    has_one_value_per_channel,
    normalize,
    running_statistics,
)


def refuse_aa_layer(aa_layer: object) -> None:
    """Raise for an anti-aliasing layer.

    Raises:
        ValueError: `aa_layer` is not None.
    """
    if aa_layer is not None:
        raise ValueError(
            f"aa_layer is not supported by ResNeSt, got {aa_layer!r}: every block with a stride already averages "
            "before it subsamples (avd=True). Leave aa_layer out."
        )


class ResNeStBottleneck(nn.Module):
    """Residual bottleneck with split attention, `[B, inplanes, H, W]` -> `[B, 4 * planes, H / stride, W / stride]`.

    Differs from timm's `ResNestBottleneck`, with the same parameter names and, at output stride 32 with ReLU and no
    stochastic depth, the same outputs:

    - Stochastic depth drops the residual branch, in blocks with and without a downsample.
    - The first block of a dilated stage has the authors' form: a 3x3 average pool of stride 1 beside the split
      attention (their `is_first`), and no pooling in the shortcut (theirs is the identity there).
    - `act_layer` reaches the split attention.
    - Train mode accepts a batch of 1, see `SplitAttention`; so do the block's own norms where the map is 1x1.

    Args:
        inplanes: Channels of the input.
        planes: Width of the stage; the output has 4 times as many channels.
        stride: Of the block, in pixels.
        downsample: Shortcut of a stage's first block; timm's: pooling, 1x1 convolution, normalisation.
        radix: Splits of the split attention; 0 has a plain convolution, norm and activation instead.
        cardinality: Groups within each split.
        base_width: Channels of a group at `planes` 64.
        avd: Average-pool where the block subsamples, instead of a strided convolution.
        avd_first: Pool before the split attention instead of after it.
        is_first: Pool at stride 1 too.
        reduce_first: Must be 1; timm's trunk passes it.
        dilation: Of the stage's 3x3 convolutions; above 1 in stages whose stride became dilation.
        first_dilation: Of this block's 3x3 convolution; `dilation` when not given.
        act_layer: Makes the activations.
        norm_layer: Makes the normalisations.
        attn_layer: Not supported: split attention is the attention.
        aa_layer: Not supported, see `refuse_aa_layer`.
        drop_block: Makes DropBlock, applied inside the split attention.
        drop_path: Stochastic depth, applied to the residual branch.
        device: Where parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: `reduce_first` other than 1, or `attn_layer` or `aa_layer` given.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        radix: int = 1,
        cardinality: int = 1,
        base_width: int = 64,
        avd: bool = False,
        avd_first: bool = False,
        is_first: bool = False,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: Layer = nn.ReLU,
        norm_layer: Layer = nn.BatchNorm2d,
        attn_layer: Any = None,
        aa_layer: Any = None,
        drop_block: Layer | None = None,
        drop_path: nn.Module | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        refuse_aa_layer(aa_layer)
        if attn_layer is not None:
            raise ValueError(
                f"attn_layer is not supported by ResNeSt, got {attn_layer!r}: split attention stands there"
            )
        if reduce_first != 1:
            raise ValueError(f"block_reduce_first must be 1 for ResNeSt, got {reduce_first}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        group_width = int(planes * (base_width / 64)) * cardinality
        first_dilation = first_dilation or dilation
        # A stage whose stride became dilation: its first block keeps the pool of the strided one, at stride 1.
        first_of_dilated = downsample is not None and dilation > 1
        pool_stride = stride if avd and (stride > 1 or is_first or first_of_dilated) else None
        convolution: dict[str, Any] = {
            "kernel_size": 3,
            "stride": 1 if pool_stride else stride,
            "padding": first_dilation,
            "dilation": first_dilation,
            "groups": cardinality,
            **factory,
        }
        self.radix = radix

        self.conv1 = nn.Conv2d(inplanes, group_width, 1, bias=False, **factory)
        self.bn1 = norm_layer(group_width, **factory)
        self.act1 = act_layer(inplace=True)
        self.avd_first = nn.AvgPool2d(3, pool_stride, padding=1) if pool_stride and avd_first else None
        if radix >= 1:
            layers: dict[str, Any] = {"act_layer": act_layer, "norm_layer": norm_layer, "drop_layer": drop_block}
            self.conv2: nn.Module = SplitAttention(group_width, group_width, radix=radix, **layers, **convolution)
            self.bn2: nn.Module = nn.Identity()
            self.drop_block: nn.Module = nn.Identity()
            self.act2: nn.Module = nn.Identity()
        else:
            self.conv2 = nn.Conv2d(group_width, group_width, bias=False, **convolution)
            self.bn2 = norm_layer(group_width, **factory)
            self.drop_block = drop_block() if drop_block is not None else nn.Identity()
            self.act2 = act_layer(inplace=True)
        self.avd_last = nn.AvgPool2d(3, pool_stride, padding=1) if pool_stride and not avd_first else None
        self.conv3 = nn.Conv2d(group_width, planes * self.expansion, 1, bias=False, **factory)
        self.bn3 = norm_layer(planes * self.expansion, **factory)
        self.act3 = act_layer(inplace=True)
        if first_of_dilated and isinstance(downsample, nn.Sequential) and len(downsample) == 3:
            # timm's trunk pools 2x2 at stride 1 here, which shifts the shortcut by half a pixel; the authors do not.
            downsample = nn.Sequential(nn.Identity(), *downsample[1:])
        self.downsample = downsample
        self.drop_path = drop_path
        # Where the authors have DropBlock beside the one in the split attention, see `resnest_timm.drop_block`.
        self.drop_block1: nn.Module | None = None
        self.drop_block3: nn.Module | None = None

    def zero_init_last(self) -> None:
        """Zero the last normalisation's weight, so that the block starts as its shortcut; timm's trunk calls it."""
        weight = getattr(self.bn3, "weight", None)
        if weight is not None:
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inplanes, H, W]` -> `[B, 4 * planes, H / stride, W / stride]`."""
        if is_scripting():  # TorchScript compiles calls of layers alone
            return self._scripted(x)
        else:  # it would compile what stands after the `if`
            return self._join(self._branch(x), x)  # no name here for the branch's map: `_join` lets go of it early

    def _branch(self, x: Tensor) -> Tensor:
        """The residual branch up to its last convolution."""
        out: Tensor = normalize(self.bn1, self.conv1(x))
        if self.drop_block1 is not None:
            out = self.drop_block1(out)
        out = self.act1(out)
        if self.avd_first is not None:
            out = self.avd_first(out)
        out = self.act2(self.drop_block(normalize(self.bn2, self.conv2(out))))
        if self.avd_last is not None:
            out = self.avd_last(out)
        return out

    def _join(self, out: Tensor, x: Tensor) -> Tensor:
        """The last convolution of the residual branch, added to the shortcut of the block's input x."""
        out = self.conv3(out)  # a line of its own lets go of the convolution's input before the norm makes another map
        out = normalize(self.bn3, out)
        if self.drop_block3 is not None:
            out = self.drop_block3(out)
        if self.drop_path is not None:
            out = self.drop_path(out)
        out += self._shortcut(x, out)
        activated: Tensor = self.act3(out)
        return activated

    def _shortcut(self, x: Tensor, out: Tensor) -> Tensor:
        """What is added to the branch's map `out`."""
        if self.downsample is None:
            return x
        layers = list(self.downsample) if type(self.downsample) is nn.Sequential else []
        if not layers or not has_one_value_per_channel(layers[-1], out):
            shortcut: Tensor = self.downsample(x)
            return shortcut
        if is_watched(self.downsample):  # whoever hooked it is to see the call
            with running_statistics(layers[-1]):
                shortcut = self.downsample(x)
            return shortcut
        for layer in layers[:-1]:
            x = layer(x)
        return normalize(layers[-1], x)

    def _scripted(self, x: Tensor) -> Tensor:
        """`forward` in the words that TorchScript knows."""
        out = self.bn1(self.conv1(x))
        if self.drop_block1 is not None:
            out = self.drop_block1(out)
        out = self.act1(out)
        if self.avd_first is not None:
            out = self.avd_first(out)
        out = self.act2(self.drop_block(self.bn2(self.conv2(out))))
        if self.avd_last is not None:
            out = self.avd_last(out)
        out = self.bn3(self.conv3(out))
        if self.drop_block3 is not None:
            out = self.drop_block3(out)
        if self.drop_path is not None:
            out = self.drop_path(out)
        if self.downsample is not None:
            x = self.downsample(x)
        out += x
        activated: Tensor = self.act3(out)
        return activated
