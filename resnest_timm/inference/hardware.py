"""What a device computes fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _capabilities() -> dict[str, Any]:
    find: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.11 does not have it
    return find()


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices by AMX, and shows it."""
    return bool(_capabilities().get("amx_bf16"))


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether bfloat16 is faster than float32: on a recent CUDA GPU, a CPU with AMX, or with AVX512-BF16 of its own.

    Intel's CPUs since Sapphire Rapids (those with AVX512-FP16) multiply bfloat16 by AMX. Where a hypervisor or an old
    kernel hides that, their AVX512-BF16 is slower than float32: convolutions ran at half its rate, a training step of
    resnest26d took 1.2 times as long (benchmarks/allocator_speed.py on such a machine).

    Args:
        device: For instance `cpu` or `cuda:1`. A CUDA device must be there.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = _capabilities()
    amx_is_hidden = str(capabilities.get("cpu_name")).startswith("Intel") and capabilities.get("avx512_fp16")
    return bool(has_amx() or (capabilities.get("avx512_bf16") and not amx_is_hidden))
