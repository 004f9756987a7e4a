"""When an operation that PyTorch does not know may take the place of its own: where nobody records or transforms it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.jit._trace import is_tracing  # torch.jit does not export it in so many words


def is_eager() -> bool:
    """Whether this runs as it stands: compilers and exporters make better code of the plain form."""
    return not (torch.compiler.is_compiling() or is_tracing())  # type: ignore[no-untyped-call]


def are_plain(*tensors: Tensor) -> bool:
    """Whether these are values and no more: nothing records their gradient, and no `torch.func` transforms them.

    Subclasses of `Tensor` (fake, distributed, a tracer's) are not plain.
    """
    return (
        all(type(x) is Tensor or type(x) is torch.nn.Parameter for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and not torch._C._are_functorch_transforms_active()
        and all(unpack_dual(x).tangent is None for x in tensors)  # type: ignore[no-untyped-call]
    )
