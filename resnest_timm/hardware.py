"""What a device computes natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def has_native_bf16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively: a recent CUDA GPU, a CPU with AMX or AVX512-BF16.

    Args:
        device: For instance `cpu` or `cuda:1`. A CUDA device must be there.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    find: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.11 does not have it
    capabilities = find()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
