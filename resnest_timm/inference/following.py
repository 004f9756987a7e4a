"""Which layer alone uses what a convolution makes, observed in one forward pass."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnest_timm.errors import OptimizeError

# Exact types: a subclass may compute something else from its weight (weight standardisation, a parametrisation).
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)


def find_followers(
    model: nn.Module, is_follower: Callable[[nn.Module], bool], input_size: tuple[int, int, int] | None = None
) -> list[tuple[str, str]]:
    """Pairs of a convolution and the layer that could be made part of it.

    They are observed in one forward pass on the device `meta`, without memory or arithmetic: names and the order of
    registration only suggest them. Left out is what is called twice, has hooks (they may change the weight, or look at
    values that would no longer be there), or follows a convolution that is not plain.

    Args:
        model: In eval mode.
        is_follower: Whether a layer is of the kind that is looked for.
        input_size: C, H, W of an image that the model accepts; found in `pretrained_cfg` when not given.

    Returns:
        Names of a convolution and of the layer that takes its output, which nothing else uses.

    Raises:
        OptimizeError: The model cannot be run on the device `meta`.
    """
    plain = {name: module for name, module in model.named_modules() if not _has_hooks(module)}
    followers = {name for name, module in plain.items() if is_follower(module)}
    convolutions = {name for name, module in plain.items() if type(module) in CONVOLUTIONS}
    if not (followers and convolutions):
        return []
    ghost, watch = copy.deepcopy(model).to("meta"), _Watch()
    for name, module in ghost.named_modules():
        module._forward_hooks.clear()  # somebody else's, who would wonder about tensors without values
        module._forward_pre_hooks.clear()
        if name in convolutions:
            watch.observe_convolution(name, module)
        if name in followers:
            watch.observe_follower(name, module)
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


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module where another one is, under each of its names."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(name, new)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no annotations
    """Counts how often each tensor is used, and notes which tensor a convolution made and a follower got.

    Attributes:
        uses: Operations that a tensor goes into, by its id.
        made: Name of the convolution that made a tensor, by the tensor's id.
        got: Id of the tensor that a follower got, by the follower's name.
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

    def observe_convolution(self, name: str, module: nn.Module) -> None:
        """Note the calls of a convolution."""

        def called(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.calls[name] += 1
            self.made[id(out)] = name

        module.register_forward_hook(called)

    def observe_follower(self, name: str, module: nn.Module) -> None:
        """Note the calls of what may follow a convolution."""

        def called(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.calls[name] += 1
            self.got[name] = id(args[0])

        module.register_forward_hook(called)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Names of a convolution and of the follower that alone uses its output, each called once."""
        for follower, tensor in self.got.items():
            convolution = self.made.get(tensor)
            if convolution and self.uses[tensor] == self.calls[follower] == self.calls[convolution] == 1:
                yield convolution, follower


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _input_size(model: nn.Module) -> tuple[int, int, int]:
    """C, H, W by the pretrained config, with the channels that the first convolution takes."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return (first.in_channels if first else channels), height, width
