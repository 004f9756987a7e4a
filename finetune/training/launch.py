"""Processes that torchrun or srun started all at once: where each is, what they agree on, and who goes first.

Where Lightning starts the further processes itself, when the training begins, there is nobody to talk to before that,
and everything here concerns one process alone.
"""

from __future__ import annotations

import os

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # documented all the same

from finetune.errors import ConfigError, suggest
from finetune.training.peers import Peers, Placement

_SPLITTING = ("fsdp", "deepspeed", "model_parallel")
"""How the names begin of Lightning's strategies that split a model."""


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
            "on each by torchrun or srun, see docs/how-to/resume.md"
        )
    if strategy != "fsdp" and strategy.startswith(_SPLITTING):
        raise ConfigError(
            f"--strategy {strategy}: of those that split a model over devices only fsdp is known here; take that, or "
            "build your own Lightning Trainer around the task (docs/how-to/python.md)"
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
