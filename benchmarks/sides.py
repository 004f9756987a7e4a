"""Two sides of a comparison, measured in turn: images per second, CPU time per image, and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from input_speed import cpu_seconds


@dataclass
class Candidate:
    """One side, and what each round of it took."""

    name: str
    go: Callable[[], int]
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round: images per second, and seconds of CPU per image."""
        cpu, start = cpu_seconds(), time.perf_counter()
        count = self.go()
        self.rates.append(count / (time.perf_counter() - start))
        self.cpu.append((cpu_seconds() - cpu) / count)


def compare(what: str, found: list[Candidate], repeats: int) -> str:
    """One row of the table."""
    for candidate in found:
        candidate.go()  # starts workers, and what is made on the first call
    for number in range(repeats):
        for candidate in found[:: 1 if number % 2 else -1]:
            candidate.measure()
    ours, plain = found
    cells = [what, *(show(candidate) for candidate in found)]
    cells += [f"{statistics.median(ours.rates) / statistics.median(plain.rates):.2f}"]
    cells += [f"{statistics.median(plain.cpu) / statistics.median(ours.cpu):.2f}"]
    return f"| {' | '.join(cells)} |"


def show(candidate: Candidate) -> str:
    """Median of the rounds, half their range, and the median of the CPU time."""
    middle = statistics.median(candidate.rates)
    spread = (max(candidate.rates) - min(candidate.rates)) / 2 / middle
    return f"{middle:.1f} ±{100 * spread:.0f} %, {1e3 * statistics.median(candidate.cpu):.1f}"


HEADER = ("", "ours: img/s, CPU ms/img", "the other", "ours / the other", "by CPU time")


def table(rows: Sequence[str]) -> str:
    """The rows of `compare` with their heading, in Markdown."""
    return "\n".join([f"| {' | '.join(HEADER)} |", f"| {' | '.join(['---', *['---:'] * (len(HEADER) - 1)])} |", *rows])
