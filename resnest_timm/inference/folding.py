"""BatchNorm in eval mode, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from resnest_timm.inference.following import find_followers, replace

NORMS_WITH_ACTIVATION = (BatchNormAct2d, FrozenBatchNormAct2d)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, *NORMS_WITH_ACTIVATION)


def fold_norms(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> None:
    """Fold in place every BatchNorm that alone uses a convolution's output, and put `nn.Identity` there.

    Stays: a norm without running statistics, and what `find_followers` leaves out.

    Args:
        model: In eval mode.
        input_size: C, H, W of an image that it accepts; found in `pretrained_cfg` when not given.

    Raises:
        OptimizeError: The model cannot be run on the device `meta`.
    """
    for convolution, norm in find_followers(model, _can_fold, input_size):
        _fold(model, convolution, norm)


def _can_fold(module: nn.Module) -> bool:
    return type(module) in NORMS and getattr(module, "running_mean", None) is not None


def _fold(model: nn.Module, convolution_name: str, norm_name: str) -> None:
    """Put a norm into a convolution, in float64 so that each value is rounded once."""
    convolution: Any = model.get_submodule(convolution_name)
    norm: Any = model.get_submodule(norm_name)

    def double(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.double()

    statistics = (double(norm.running_mean), double(norm.running_var), norm.eps)
    weight, bias = fuse_conv_bn_weights(
        double(convolution.weight), double(convolution.bias), *statistics, double(norm.weight), double(norm.bias)
    )
    dtype = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    rest = nn.Sequential(norm.drop, norm.act) if type(norm) in NORMS_WITH_ACTIVATION else nn.Identity()
    replace(model, norm, rest.eval())
