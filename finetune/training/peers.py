"""The processes of a run that torchrun or srun started all at once: what they agree on, and who goes first.

Imports no torch; a process that nobody else started needs none of it.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.errors import ConfigError, PeerError, RunFolderError
from finetune.runs.runfolder import RunFolder

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # documented all the same

T = TypeVar("T")

_STARTED = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS")
"""Variables without which it was neither torchrun nor srun."""

PATIENCE = 60.0
"""Seconds until a file that one machine has written must be visible on the others; NFS caches folders for up to 60."""


@dataclass(frozen=True)
class Placement:
    """Where this process is among those of its run.

    Attributes:
        rank: Among all.
        local_rank: On its machine.
        nodes: Number of machines.
        processes: Number of processes on each.
    """

    rank: int
    local_rank: int
    nodes: int
    processes: int

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.nodes * self.processes


class Peers:
    """The processes of a run, before there is a process group, and without its time limits: a dataset may take hours.

    Args:
        here: This process.
        store: Shared by all; None where this process is alone.
    """

    def __init__(self, here: Placement, store: Store | None) -> None:
        self.here, self.store, self.count = here, store, 0

    def exchange(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; returns when all have them. What is exchanged must be picklable."""
        if self.store is None:
            return [value]
        self.count += 1
        keys = [f"{self.count}/{rank}" for rank in range(self.here.world)]
        self.store.set(keys[self.here.rank], pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes too
        while not self.store.check(keys):  # not `wait`, which Ctrl-C cannot interrupt
            time.sleep(0.02)
        values = [pickle.loads(self.store.get(key)) for key in keys]
        read = self.store.add(f"{self.count}/read", 1)
        while self.here.rank == 0 and read < self.here.world:  # the first process may keep the store, and may end now
            time.sleep(0.02)
            read = self.store.add(f"{self.count}/read", 0)
        return values

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the first of each other machine, then in the rest.

        So nobody reads a cache that another process is writing, whether the machines share it or not.

        Raises:
            PeerError: Another process has failed; if this one has, its own error.
        """
        turn = 0 if self.here.rank == 0 else 1 if self.here.local_rank == 0 else 2
        results: list[T] = []
        for now in range(3):
            error: Exception | None = None
            if now == turn:
                try:
                    results.append(work())
                except Exception as problem:
                    error = problem
            self._raise(error)
        return results[0]

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, for all.

        Raises:
            PeerError: It has failed there.
        """
        result: T | None = None
        error: Exception | None = None
        if self.here.rank == 0 or self.store is None:
            try:
                result = work()
            except Exception as problem:
                error = problem
        self._raise(error)
        first: T = self.exchange(result)[0]
        return first

    def _raise(self, error: Exception | None) -> None:
        failed = [rank for rank, bad in enumerate(self.exchange(error is not None)) if bad]
        if error is not None:
            raise error
        if failed:
            raise PeerError(f"process {failed[0]} has failed, see its message")

    def agree(self, folder: RunFolder, identity: Mapping[str, Any], start: Path | None) -> None:
        """Make sure that all processes see the same run folder and the same data, before they train one model.

        Args:
            folder: The run folder, made by the first process.
            identity: What must be the same everywhere, as `training.resume.identity` gives it, by names for a message.
            start: Checkpoint to go on from.

        Raises:
            RunFolderError: The folder is not on a file system that all machines share.
            ConfigError: Another process reads other data, or was started with other flags.
        """
        if self.store is None:
            return
        deadline = time.monotonic() + PATIENCE
        while not folder.begun and time.monotonic() < deadline:
            time.sleep(0.1)
        seen = self.exchange((folder.begun, start and start.name, dict(identity)))
        for rank, (begun, checkpoint, theirs) in enumerate(seen):
            if not begun or checkpoint != seen[0][1]:
                raise RunFolderError(
                    f"process {rank} does not see what is in {folder.path}: the run folder must lie on a file system "
                    "that all machines share; name one by --output"
                )
            other = [name for name in theirs if theirs[name] != seen[0][2].get(name)]
            if other:
                raise ConfigError(
                    f"process {rank} differs from the first in {', '.join(other)}: start all with the same command, on "
                    "the same data"
                )


def connect() -> Peers:
    """Meet the other processes of this run; where there are none, or Lightning will start them later, be alone."""
    if not any(name in os.environ for name in _STARTED):
        return Peers(Placement(0, 0, 1, 1), None)
    from finetune.training import launch  # with Lightning, which knows what the variables mean

    return launch.connect()
