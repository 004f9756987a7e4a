"""Processes that share a counter of progress and a wish to stop.

Each is started afresh (spawn): none inherits threads or open files, whatever the main process did before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

from finetune.console import interactive
from finetune.errors import DatasetError

T = TypeVar("T")

_POLL = 0.1  # seconds between two looks at the counter


class Cancelled(Exception):
    """The main process wants to stop; never seen outside a worker, whose result nobody waits for."""


@dataclass(frozen=True)
class _Shared:
    """Memory that main process and workers share."""

    done: Any
    stop: Any


_shared: _Shared | None = None  # in a worker, set once when it starts


def advance(count: int) -> None:
    """Called by a worker: so much more is done.

    Raises:
        Cancelled: The main process wants to stop.
    """
    if _shared is None:
        return
    with _shared.done.get_lock():
        _shared.done.value += count
    if _shared.stop.value:
        raise Cancelled


def _start(shared: _Shared) -> None:
    """First thing in a worker: it must not outlive the main process, also where that is killed."""
    global _shared
    _shared = shared
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Workers:
    """A pool of processes; a context manager. Leaving it stops what still runs, within one call of `advance`."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._shared = _Shared(context.Value("q", 0), context.Value("b", 0))
        self._pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(self._shared,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._shared.stop.value = 1
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, calls: Sequence[Callable[[], T]], description: str, unit: str, total: int, done: int = 0) -> list[T]:
        """Make the calls, in parallel, with a bar where somebody watches.

        Args:
            calls: Functions that can be pickled, for instance `functools.partial`; they call `advance`.
            description: In front of the bar.
            unit: What `advance` counts.
            total: How many of these there are, with those that an earlier run did.
            done: How many of these an earlier run did.

        Returns:
            The results, in the order of the calls.

        Raises:
            DatasetError: A process was killed.
            Exception: The first that a call raised; the other calls are given up.
        """
        before = self._shared.done.value - done
        with _interrupts_held():
            futures = [self._pool.submit(call) for call in calls]
        quiet = not interactive()
        with tqdm(desc=description, unit=unit, total=total, initial=done, disable=quiet, unit_scale=True) as bar:
            pending: set[Future[T]] = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=_POLL, return_when=FIRST_EXCEPTION)
                bar.update(self._shared.done.value - before - bar.n)
                for future in finished:
                    _check(future)
        return [future.result() for future in futures]


def _check(future: Future[Any]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process was killed, perhaps for lack of memory: run the same command again with fewer --processes"
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C waiting while processes are started: they inherit that they never get it, and follow us instead."""
    if sys.platform == "win32":  # no signal masks
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
