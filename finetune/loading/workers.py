"""How many processes decode images; for data modules and for prediction, which knows nothing of Lightning."""

from __future__ import annotations

import os
import signal

from finetune.loading.cores import available_cores
from finetune.loading.sampler import process


def default_workers(count: int) -> int:
    """Decoding processes for `count` images: the cores at hand, shared by the processes of this machine."""
    if count < 256:
        return 0  # starting processes takes longer than decoding
    return min(8, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", process()[1]))))


def ignore_signals() -> None:
    """In a process of a loader: what asks the run to stop is the run's to answer, which stops its loaders itself.

    `timeout`, Slurm, Docker and a terminal send signals to all processes at once. A second SIGTERM ends a worker: the
    loader sends it to one that does not end by itself.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL) and None)
