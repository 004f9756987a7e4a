"""When an operation that PyTorch does not know may take the place of its own: where nobody records or transforms it."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.jit._trace import is_tracing  # torch.jit does not export it in so many words
from torch.nn.modules import module as every_module


def is_eager() -> bool:
    """Whether this runs as it stands: compilers and exporters make better code of the plain form."""
    return not (torch.compiler.is_compiling() or is_tracing())  # type: ignore[no-untyped-call]


def is_traced(x: object) -> bool:
    """Whether a tracer goes through the code for which no shape may decide anything: `torch.fx`, `torch.jit.trace`."""
    return isinstance(x, torch.fx.Proxy) or is_tracing()  # type: ignore[no-untyped-call]


def is_recorded() -> bool:
    """Whether `make_fx` records each operation, other than for a compiler or exporter."""
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


def is_transformed(x: Tensor) -> bool:
    """Whether x, or what is computed beside it, is more than values and a backward pass.

    `torch.func` and vmap, forward mode, `make_fx`, and subclasses (fake, distributed): they need operations that they
    have rules for.
    """
    return (
        type(x) not in (Tensor, nn.Parameter)
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(x)  # gradients of `is_grads_batched`
        or forward_ad._current_level >= 0
        or get_proxy_mode() is not None
    )


def are_plain(*tensors: Tensor) -> bool:
    """Whether these are values and no more: nothing records their gradient, and no `torch.func` transforms them.

    Subclasses of `Tensor` (fake, distributed, a tracer's) are not plain.
    """
    return (
        all(type(x) is Tensor or type(x) is nn.Parameter for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and not torch._C._are_functorch_transforms_active()
        and all(forward_ad.unpack_dual(x).tangent is None for x in tensors)  # type: ignore[no-untyped-call]
    )


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has put something around the module's call: hooks, his own `forward`, a compiler."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or "forward" in module.__dict__
        or every_module._global_forward_hooks
        or every_module._global_forward_pre_hooks
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
    )
