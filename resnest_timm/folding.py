"""BatchNorm in eval mode, folded into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

from resnest_timm.errors import OptimizeError

# Exact types: a subclass may compute something else from its weight (weight standardisation, a parametrisation).
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS_WITH_ACTIVATION = (BatchNormAct2d, FrozenBatchNormAct2d)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, *NORMS_WITH_ACTIVATION)


def fold_norms(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> None:
    """Fold in place every BatchNorm that alone uses a convolution's output, and put `nn.Identity` there.

    Which do is observed in one forward pass on the device `meta`, without memory or arithmetic: names and the order of
    registration only suggest it. Stays: a norm without running statistics, one that is called twice, one whose
    convolution is not plain, and either of them with hooks.

    Args:
        model: In eval mode.
        input_size: C, H, W of an image that it accepts; found in `pretrained_cfg` when not given.

    Raises:
        OptimizeError: The model cannot be run on the device `meta`.
    """
    for convolution, norm in _pairs(model, input_size):
        _fold(model, convolution, norm)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no annotations
    """Counts how often each tensor is used, and notes which tensor a convolution made and a norm got.

    Attributes:
        uses: Operations that a tensor goes into, by its id.
        made: Name of the convolution that made a tensor, by the tensor's id.
        got: Id of the tensor that a norm got, by the norm's name.
        calls: Of each module, by its name.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: Counter[int] = Counter()
        self.made: dict[int, str] = {}
        self.got: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count its tensors."""
        self.count((args, kwargs))
        out = func(*args, **(kwargs or {}))
        self._alive.extend(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))  # no id comes a second time
        return out

    def count(self, values: Any) -> None:
        """Add one use of every tensor in `values`."""
        self.uses.update(id(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor))

    def observe(self, name: str, module: nn.Module) -> None:
        """Note the calls of a convolution or a norm."""

        def called(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.calls[name] += 1
            if type(module) in CONVOLUTIONS:
                self.made[id(out)] = name
            else:
                self.got[name] = id(args[0])

        module.register_forward_hook(called)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Names of a convolution and of the norm that alone uses its output, each called once."""
        for norm, tensor in self.got.items():
            convolution = self.made.get(tensor)
            if convolution and self.uses[tensor] == self.calls[norm] == self.calls[convolution] == 1:
                yield convolution, norm


def _pairs(model: nn.Module, input_size: tuple[int, int, int] | None) -> list[tuple[str, str]]:
    """Names of the convolutions, and of the norms to fold into them."""
    candidates = {name: module for name, module in model.named_modules() if _can_fold(module)}
    if not any(type(module) in NORMS for module in candidates.values()):
        return []
    ghost, watch = copy.deepcopy(model).to("meta"), _Watch()
    for name, module in ghost.named_modules():
        module._forward_hooks.clear()  # somebody else's, who would wonder about tensors without values
        module._forward_pre_hooks.clear()
        if name in candidates:
            watch.observe(name, module)
    size = input_size or _input_size(model)
    try:
        with torch.no_grad(), watch:
            out = ghost(torch.empty(2, *size, dtype=next(ghost.parameters()).dtype, device="meta"))
    except Exception as error:  # whatever a stranger's forward raises
        raise OptimizeError(
            f"expected a network that takes images [B, {', '.join(map(str, size))}] and runs on the device 'meta', got "
            f"{type(model).__name__}: {' '.join(str(error).split())[:200]}. If its images have another size, give "
            "input_size=(C, H, W)"
        ) from error
    watch.count(out)
    return list(watch.pairs())


def _can_fold(module: nn.Module) -> bool:
    """Whether a convolution or norm computes what its type says, of values that are known by now."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False  # a hook may change the weight (weight_norm), or looks at values that folding would change
    if type(module) in CONVOLUTIONS:
        return True
    return type(module) in NORMS and getattr(module, "running_mean", None) is not None


def _input_size(model: nn.Module) -> tuple[int, int, int]:
    """C, H, W by the pretrained config, with the channels that the first convolution takes."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return (first.in_channels if first else channels), height, width


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
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is norm:
            model.set_submodule(name, rest.eval())
