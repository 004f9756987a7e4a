"""Random numbers that depend on where the training stands, not on how it got there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(device: torch.device, *entropy: int) -> Iterator[None]:
    """Within the block, torch's generators of the CPU and of `device` are seeded by `entropy`; then as before.

    Args:
        device: On which the block draws; other devices are left alone.
        entropy: Non-negative integers, for instance seed, step and rank.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else [], device_type="cuda"):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)  # nobody else draws there
        yield


def seed_augmentation(*entropy: int) -> None:
    """Seed the three generators that transforms draw from: Python's, torch's and numpy's.

    Args:
        entropy: Non-negative integers, for instance seed, epoch and image.
    """
    state = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(state[0]))
    torch.default_generator.manual_seed(int(state[1]))  # torch.manual_seed visits every kind of device
    np.random.seed(state[2])  # timm's policies draw from all three
