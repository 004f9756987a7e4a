"""When the functions of `mixing` run as the Triton kernels of `triton_mixing`: on large maps on a GPU, in eager mode.

`RESNEST_TRITON=0` in the environment turns the kernels off; it is read once, when a map on a GPU first comes by. Triton
is not imported before that. Where it is not installed PyTorch's kernels are used; where one of its kernels does not
compile or start, too, after one warning, for the rest of the process.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from resnest_timm.kernels.plain import are_plain, is_eager

Rest = ParamSpec("Rest")
Function = Callable[Concatenate[Tensor, Rest], Tensor]

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

MIN_VALUES = 2**20
"""In smaller maps there is nothing to gain: PyTorch's own kernels take a few microseconds, which is what it takes to
start one from Python. Reasoned, not measured."""

_failed = False


def fused(plain: Function[Rest]) -> Function[Rest]:
    """Let the function of the same name in `triton_mixing` answer where it can; `__wrapped__` is the plain one.

    Args:
        plain: Takes a map `[B, C, H, W]` first; what it computes in PyTorch is the reference.
    """
    name = plain.__name__.removeprefix("_")

    @functools.wraps(plain)
    def function(x: Tensor, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Tensor:
        if isinstance(x, Tensor) and is_eager() and is_on_gpu(x):  # else a tracer's stand-in
            out = _attempt(name, x, *args, **kwargs)
            if out is not None:
                return out
        return plain(x, *args, **kwargs)

    return function


def is_on_gpu(x: Tensor) -> bool:
    """Whether x is on a device that Triton has a compiler for."""
    return x.is_cuda


def _attempt(name: str, *args: object, **kwargs: object) -> Tensor | None:
    """The kernel's answer; None where there is none, or it is not made for these arguments, or it failed."""
    global _failed
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if _failed or not _is_for_kernels(tensors):
        return None
    kernels = load_kernels()
    if kernels is None:
        return None
    try:
        out: Tensor | None = getattr(kernels, name)(*args, **kwargs)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # not the kernels' fault: PyTorch's would not get further
    except Exception as error:  # Triton raises what its compilers, the driver and the C compiler raise
        _failed = True
        _warn(f"{type(error).__name__}: {error}")
        return None
    return out


def _is_for_kernels(tensors: list[Tensor]) -> bool:
    """Whether the kernels may read these tensors, of which the map is the first.

    They are neither differentiable nor known to PyTorch's dispatcher: where anything is recorded or transformed
    (autograd outside of `mixing`'s own functions, forward mode, `torch.func`, subclasses such as fake or distributed
    tensors), they must stay out.
    """
    first = tensors[0]
    return (
        first.numel() >= MIN_VALUES
        and all(x.dtype in DTYPES and x.device == first.device for x in tensors)
        and are_plain(*tensors)
    )


@functools.cache
def load_kernels() -> ModuleType | None:
    """The module of the kernels; None where the environment turns it off or Triton is not installed."""
    if os.environ.get("RESNEST_TRITON") == "0":
        return None
    try:
        return importlib.import_module("resnest_timm.kernels.triton")
    except ImportError:
        return None


def _warn(reason: str) -> None:
    lines = reason.strip().splitlines()
    shown = lines[0] if len(lines) == 1 else f"{lines[0]} [...] {lines[-1]}"
    warnings.warn(
        "ResNeSt's Triton kernels are expected to run on this GPU, but one did not, so PyTorch's are used from now on: "
        f"the same numbers, slower. Triton said: {shown}. It needs a C compiler and a GPU of compute capability 7.0 or "
        "later; RESNEST_TRITON=0 in the environment turns the kernels off, and this warning with them.",
        RuntimeWarning,
        stacklevel=5,
    )
