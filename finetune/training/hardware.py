"""Flags -> Lightning's terms, and what `auto` means on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from finetune.errors import ConfigError
from resnest_timm.inference.hardware import has_amx, has_fast_bf16

_LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def precision(choice: str, accelerator: str = "auto", depthwise: Callable[[], bool] = lambda: False) -> str:
    """Lightning's name of the training precision.

    On CPUs without AMX a depthwise convolution in bfloat16 is so slow that float32 is faster for the whole network:
    tf_efficientnet_lite0 trained at 21 to 24 images a CPU second in bfloat16 and at 42 to 44 in float32 (AMD EPYC); a
    step of convnext_atto, whose wide layers are linear, took 0.28 s in bfloat16 and 0.38 s in float32.

    Args:
        choice: `auto`, or a precision as the command line takes it.
        accelerator: As the command line takes it.
        depthwise: Whether the network works in depthwise convolutions; asked only where that decides.

    Returns:
        `bf16-mixed` for `auto` where that is faster, see `has_fast_bf16`; else `32-true`.
    """
    if choice != "auto":
        return _LIGHTNING.get(choice, choice)
    if has_cuda(accelerator):
        fast = has_fast_bf16("cuda")
    else:
        fast = accelerator in ("auto", "cpu") and has_fast_bf16("cpu")
        fast = fast and (has_amx() or not depthwise())
    return "bf16-mixed" if fast else "32-true"


def has_cuda(accelerator: str) -> bool:
    """Whether Lightning will take a CUDA GPU for `accelerator`."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def peak_memory(device: torch.device) -> float | None:
    """Most memory that was in use so far, in MB of 2**20 bytes.

    Returns:
        On a CUDA GPU what tensors took on it; else what this process took of main memory (its largest resident set),
        None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def devices(choice: str) -> int | str:
    """Lightning's form of `--devices`: a number stays a number, indices and `auto` stay text."""
    return int(choice) if choice.lstrip("-").isdigit() else choice


def device(accelerator: str) -> torch.device:
    """The one device that `accelerator` means, where no Trainer chooses it.

    Raises:
        ConfigError: There is no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    name = {"gpu": "mps" if there["mps"] else "cuda"}.get(accelerator, accelerator)
    if not there.get(name, False):
        known = ", ".join(name for name, found in there.items() if found)
        raise ConfigError(f"--accelerator {accelerator}: not on this machine, which has {known}")
    return torch.device(name)
