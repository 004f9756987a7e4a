"""Some processes of one training, started for a test with the environment that torchrun would have given them."""

import contextlib
import multiprocessing
import os
import pickle
import random
import socket
import traceback

# Not forked from the test's own process: where autograd has run, it cannot run in a fork.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["finetune.commands.train", "finetune.tasks.modules", "timm"])  # imported once


def free_port():
    """Not one that the system hands out by itself: until it is used, somebody else might get it."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def torchrun(rank, world, port):
    """What torchrun sets, on one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in (numbers | address).items()}


def ranks(world, function, *arguments, folder, environment=torchrun):
    """What `function(*arguments)` returns in each of `world` processes, by rank; there is no process group yet.

    Args:
        world: How many processes, all on this machine.
        function: Runs in each of them; found there by its module and name.
        arguments: Of `function`.
        folder: For files; another one each time.
        environment: (rank, world, port) -> what the launcher would set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, call = free_port(), pickle.dumps((function, arguments))
    outcomes = [folder / str(rank) for rank in range(world)]
    children = [
        SERVER.Process(target=_become, args=(outcome, call, {**os.environ, **environment(rank, world, port)}))
        for rank, outcome in enumerate(outcomes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    found = [pickle.loads(outcome.read_bytes()) for outcome in outcomes]
    errors = [text for done, text in found if not done]
    assert not errors, "\n".join(errors)
    codes = [child.exitcode for child in children]
    assert not any(codes), codes
    return [result for _, result in found]


def _become(outcome, call, variables):
    """All that one process does, then it is gone."""
    code = 1
    try:
        import torch

        os.environ.clear()
        os.environ.update(variables)
        torch.set_num_threads(1)
        function, arguments = pickle.loads(call)
        outcome.write_bytes(pickle.dumps((True, function(*arguments))))
        code = 0
    except BaseException:
        outcome.write_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        os._exit(code)
