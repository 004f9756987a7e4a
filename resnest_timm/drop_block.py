"""DropBlock where ResNeSt's authors have it.

timm's `drop_block_rate` puts one DropBlock into each block of the last two stages, inside the split attention. The
authors have three: after the first norm, in the split attention (their PyTorch code; in Gluon right after it) and after
the last norm of the residual branch.

Source: Ghiasi et al., "DropBlock", https://arxiv.org/abs/1810.12890, and `resnest/gluon/resnet.py` of
https://github.com/zhanghang1989/ResNeSt (Apache-2.0).
"""

from __future__ import annotations

from timm.layers import DropBlock2d
from torch import nn

from resnest_timm.block import ResNeStBottleneck
from resnest_timm.split_attention import SplitAttention

STAGES = ("layer3", "layer4")


def add_drop_block(model: nn.Module, rate: float, block_size: int = 3) -> int:
    """Put DropBlock into a ResNeSt's last two stages; parameters and state dict stay as they are.

    Args:
        model: A ResNeSt of this package; others are left alone.
        rate: Share of each map to drop, in [0, 1); `drop_prob` of the modules, which a schedule may change.
        block_size: Side of the dropped squares, in pixels of the map.

    Returns:
        How many were put in; 0 for other models.
    """
    stages = [module for name, module in model.named_children() if name in STAGES]
    blocks = [block for stage in stages for block in stage.modules() if isinstance(block, ResNeStBottleneck)]
    for block in blocks:
        # One mask per channel, as theirs.
        first, second, third = (DropBlock2d(rate, block_size, couple_channels=False) for _ in range(3))
        block.drop_block1, block.drop_block3 = first, third
        if isinstance(block.conv2, SplitAttention):
            block.conv2.drop = second
        else:  # radix 0
            block.drop_block = second
    return 3 * len(blocks)
