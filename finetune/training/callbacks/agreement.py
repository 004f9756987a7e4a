"""Lets all processes of a run do the same."""

from __future__ import annotations

from typing import TypeVar

import lightning as L
import torch

Number = TypeVar("Number", int, float)


def largest(trainer: L.Trainer, value: Number) -> Number:
    """The largest of all processes' values, so that all of them do the same."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return type(value)(tensor.item())
