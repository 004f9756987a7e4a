"""How long each part of a run took: what `--max-time` limits is one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """Adds up the seconds of parts; while one is within another, the clock of the outer one stands.

    Args:
        clock: Gives seconds.

    Attributes:
        seconds: By part, in the order in which they were begun.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time until the end under a name."""
        self._turn()
        self._open.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the part that is open."""
        now = self.clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def line(self) -> str:
        """`time: 3 s reading, 12 min training, ...`."""
        return f"time: {', '.join(f'{spoken(seconds)} {name}' for name, seconds in self.seconds.items())}"


def spoken(seconds: float) -> str:
    """A duration with as many digits as anybody reads: `0.4 s`, `45 s`, `12 min`, `3.4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
