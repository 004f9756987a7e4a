"""How many processes decode images; for data modules and for prediction, which knows nothing of Lightning."""

from __future__ import annotations

import os

from finetune.loading.cores import available_cores
from finetune.loading.sampler import process


def default_workers(count: int) -> int:
    """Decoding processes for `count` images: the cores at hand, shared by the processes of this machine."""
    if count < 256:
        return 0  # starting processes takes longer than decoding
    return min(8, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", process()[1]))))
