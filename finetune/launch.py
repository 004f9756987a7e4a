"""Processes that torchrun or srun started all at once: where each is, what they agree on, and who goes first.

Where Lightning starts the further processes itself, when the training begins, there is nobody to talk to before that,
and everything here concerns one process alone.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]  # documented all the same

from finetune.errors import ConfigError, PeerError, RunFolderError, suggest
from finetune.runfolder import RunFolder

T = TypeVar("T")

_SPLITTING = ("fsdp", "deepspeed", "model_parallel")
"""How the names begin of Lightning's strategies that split a model."""

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


def _environment() -> ClusterEnvironment | None:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_NTASKS" in os.environ and SLURMEnvironment.detect():
        try:
            # No requeueing by Lightning: a signal saves, and the job's script repeats the command.
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise ConfigError(f"srun: {error}") from error
    return None


def plugins() -> list[ClusterEnvironment]:
    """What Lightning must be told of the cluster; it finds out the rest itself."""
    environment = _environment()
    return [environment] if isinstance(environment, SLURMEnvironment) else []


def placement() -> Placement | None:
    """Where torchrun or srun has put this process; None where neither has started it.

    Raises:
        ConfigError: The machines have different numbers of processes.
    """
    environment = _environment()
    if environment is None:
        return None
    world = environment.world_size()
    if isinstance(environment, TorchElasticEnvironment):
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    else:
        processes = world // int(os.environ.get("SLURM_NNODES", 1))
    if processes < 1 or world % processes:
        raise ConfigError(f"{world} processes on machines of {processes}: start equally many on each machine")
    return Placement(environment.global_rank(), environment.local_rank(), world // processes, processes)


def check(num_nodes: int, strategy: str) -> None:
    """What would wait for ever, or has never been seen to work, is refused.

    Raises:
        ConfigError: Several machines and nothing that starts processes on them, or a strategy that Lightning does not
            know, or that splits the model otherwise than `fsdp`.
    """
    if num_nodes > 1 and _environment() is None and "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"--num-nodes {num_nodes}: nothing has started processes on the other machines; start this command "
            "on each by torchrun or srun, see docs/scaling.md"
        )
    if strategy != "fsdp" and strategy.startswith(_SPLITTING):
        raise ConfigError(
            f"--strategy {strategy}: of those that split a model over devices only fsdp is known here; take that, or "
            "build your own Lightning Trainer around the task (docs/scaling.md)"
        )
    known = ["auto", "fsdp", *(name for name in StrategyRegistry if not name.startswith(_SPLITTING))]
    if strategy not in known:
        raise ConfigError(
            f"--strategy: unknown {strategy!r}{suggest(strategy, known)}; known are {', '.join(sorted(known))}"
        )


def set_threads(here: Placement) -> None:
    """Share the machine's cores among its processes, unless OMP_NUM_THREADS says otherwise.

    Each process would start as many threads as there are cores, and OpenMP's threads wait for each other by spinning.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    own = os.environ.get("SLURM_CPUS_PER_TASK")
    torch.set_num_threads(int(own) if own else max(1, cores() // here.processes))


def cores() -> int:
    """Cores that this process may use; fewer than the machine has in a container or under a batch system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
            identity: What must be the same everywhere, as `finetune.resume.identity` gives it, by names for a message.
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
    environment, here = _environment(), placement()
    if environment is None or here is None or here.world == 1:
        return Peers(Placement(0, 0, 1, 1), None)
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(here.processes))  # as torchrun does
    set_threads(here)
    address = {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    os.environ |= address
    query = f"env://?rank={here.rank}&world_size={here.world}"
    store, _, _ = next(iter(rendezvous(query)))
    return Peers(here, PrefixStore("finetune", store))
