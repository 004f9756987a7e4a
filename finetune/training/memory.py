"""What to do when the device's memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune.errors import DeviceMemoryError, SplitError
from finetune.loading.sampler import micro_batches

_SHARED = ("Bus error", "insufficient shared memory", "unable to mmap", "unable to allocate shared memory")
"""What torch says where shared memory is full."""


@contextmanager
def advised(count: int, batch_size: int, world: int, device_batch_size: int | None, advice: str) -> Iterator[None]:
    """Within the block, a full device memory is an error that says which `--device-batch-size` to try.

    Args:
        count: Images of the training split.
        batch_size: Images per optimizer step over all processes.
        world: Number of processes.
        device_batch_size: Images at a time on a device at present; its whole share when not given.
        advice: The command that goes on, to which a flag can be added.

    Raises:
        DeviceMemoryError: Instead of torch's.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        present = min(-(-batch_size // world), device_batch_size or batch_size)
        smaller = _smaller(count, batch_size, world, present)
        if smaller is None:
            remedy = (
                f"go on with {advice} --grad-checkpointing, or with --precision bf16, or start again with a smaller "
                "--image-size or model"
            )
        else:
            remedy = (
                f"go on with {advice} --device-batch-size {smaller}, a step still takes {batch_size} (--batch-size); "
                "or with --grad-checkpointing or --precision bf16"
            )
        raise DeviceMemoryError(f"out of memory with {present} images at a time on a device: {remedy}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SHARED):
            raise
        raise DeviceMemoryError(
            "the processes that decode images share batches in memory (/dev/shm), which is full: give the container "
            f"more (docker's --shm-size=2g), or go on with {advice} --workers 0"
        ) from error


def _smaller(count: int, batch_size: int, world: int, present: int) -> int | None:
    """About half of `present` images, such that every part of a batch has at least 2; None where nothing is smaller."""
    for size in range(max(2, present // 2), present):
        try:
            micro_batches(count, batch_size, world, size)
        except SplitError:
            continue
        return size
    return None
