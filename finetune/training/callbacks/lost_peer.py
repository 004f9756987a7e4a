"""Says which process of a run is gone, where another one ends over it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch.distributed

from finetune.errors import FinetuneError, LostPeerError

_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "process group", "socket")


class NotePeers(L.Callback):
    """Notes who the processes of a training are, while they can still say so.

    Attributes:
        peers: Machine and process id by rank; empty where there is only one process.
    """

    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Asks all."""
        if trainer.world_size > 1:
            found: list[tuple[str, int]] = [("", 0)] * trainer.world_size
            torch.distributed.all_gather_object(found, (socket.gethostname(), os.getpid()))
            self.peers = found

    @contextmanager
    def watched(self, advice: str) -> Iterator[None]:
        """Turn an error of the communication into a line on who is missing.

        Args:
            advice: How the run goes on.

        Raises:
            LostPeerError: Another process is gone, or its machine cannot be reached.
        """
        try:
            yield
        except FinetuneError:
            raise
        except (RuntimeError, OSError) as error:  # torch's DistBackendError is a RuntimeError
            text = str(error).lower()
            if not self.peers or not any(sign in text for sign in _SIGNS):
                raise
            raise LostPeerError(
                f"{self._gone()}: it was killed, ran out of memory, or its machine cannot be reached; what was saved "
                f"is intact: {advice}"
            ) from error

    def _gone(self) -> str:
        here = socket.gethostname()
        ranks = [rank for rank, (host, number) in enumerate(self.peers) if host == here and not _alive(number)]
        if not ranks:
            return "another process of this run is gone"
        return f"process {', '.join(map(str, ranks))} of {len(self.peers)} of this run is gone (counted from 0)"


def _alive(number: int) -> bool:
    """Whether a process of this machine runs; one that has ended stays in the table until its parent has asked."""
    try:
        os.kill(number, 0)
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system without /proc
        return True
