"""Some processes of one training, forked from a test, with the environment that torchrun would have given them."""

import contextlib
import os
import pickle
import random
import socket
import traceback
import warnings

from finetune.tasks import ImageClassificationTask  # noqa: F401  # imported once, before the processes fork


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
        function: Runs in each of them.
        arguments: Of `function`.
        folder: For files; another one each time.
        environment: (rank, world, port) -> what the launcher would set.
    """
    port, children = free_port(), []
    for rank in range(world):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: pytest has threads
            child = os.fork()
        if child == 0:
            _become(folder / str(rank), function, arguments, environment(rank, world, port))
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    outcomes = [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(world)]
    errors = [text for done, text in outcomes if not done]
    assert not errors, "\n".join(errors)
    assert not any(statuses), statuses
    return [result for _, result in outcomes]


def _become(path, function, arguments, environment):
    """The rest of a forked process: nothing of pytest runs in it."""
    code = 1
    try:
        import torch

        os.environ |= environment
        torch.set_num_threads(1)  # OpenMP's threads have not been forked along
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((True, function(*arguments))))
        code = 0
    except BaseException:
        path.write_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        os._exit(code)
