"""What the C library does with memory that PyTorch gives back."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of mallopt's parameters in glibc's malloc.h."""
LARGEST_KEPT = 2**30
"""Bytes; a larger block is given back at once."""
USUAL_MMAP, USUAL_TRIM = 2**25, 2**26
"""Bytes; the highest that glibc's thresholds rise to by themselves on a 64-bit system."""

_keeping = False


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within the block this process keeps the memory that it frees, for its next step; after it, all goes back.

    On the CPU PyTorch takes each map from malloc. Those of a training step are so large that glibc returns them to the
    system at every step, which has to clear them page by page for the next: an eighth of a bf16 step, a quarter of one
    in float32 (benchmarks/allocator_speed.py). The next step needs as much, so that the process's peak grows little (by
    2 and 8 % there).

    What the environment says of malloc goes first. Not to be nested.

    Yields:
        Whether memory is kept: only on Linux with glibc, and not where that refuses so high a threshold.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    global _keeping
    library = _glibc()
    # Both or none: a heap that is never trimmed is of no use where each map is mapped by itself.
    _keeping = bool(library and library.mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and library.mallopt(TRIM_THRESHOLD, -1))
    try:
        yield _keeping
    finally:
        give_back()


def give_back() -> None:
    """Let go of what is kept, and keep no more; for processes that are forked within the block, too.

    In a process that decodes, the memory of the largest image would stay.
    """
    global _keeping
    library = _glibc()
    if _keeping and library:
        library.mallopt(MMAP_THRESHOLD, USUAL_MMAP)
        library.mallopt(TRIM_THRESHOLD, USUAL_TRIM)
        library.malloc_trim(0)
    _keeping = False


def _glibc() -> Any:
    """The C library, where it is glibc and the environment does not say how its malloc should be."""
    said = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or said:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
