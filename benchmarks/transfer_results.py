"""What transfer.py has measured: one line of JSON for each run, so that a benchmark that was interrupted goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked: a run is not repeated where its request has been answered.

    Attributes:
        case: Dataset and number of its images.
        subset: Which of the carved subsets.
        seed: Of everything random; None where nothing that counts is.
        row: Whose run.
        flags: Of `python -m finetune`, for ours.
        epochs: For a peer.
        batch_size: For a peer; its own default where it is None.
        lr: For a peer; its own default where it is None.
    """

    case: str
    subset: int
    seed: int | None
    row: str
    flags: str = ""
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None

    @property
    def way(self) -> tuple[Any, ...]:
        """All but which images and seed: runs that are one row of the table agree in it."""
        return (self.case, self.row, self.flags, self.epochs, self.batch_size, self.lr)


@dataclass(frozen=True)
class Run:
    """A request, and what came of it.

    Attributes:
        request: What was asked.
        settings: Of the whole benchmark.
        correct: A digit for each scored image: 1 where it was right.
        seconds: Of the whole process.
        loss: Mean cross entropy.
        facts: What else is worth keeping: `epochs` and `batch_size` of ours, `probe` (its accuracy in ours), ...
    """

    request: Request
    settings: dict[str, Any]
    correct: str
    seconds: float
    loss: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of the scored images that were right."""
        return self.correct.count("1") / len(self.correct)


class Results:
    """The runs of a file, and those to come.

    Args:
        path: JSON lines; made with the first run.
        settings: Of this benchmark: those of the file must be the same.

    Raises:
        ValueError: They are not, or the file holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.runs: list[Run] = []
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                content = json.loads(line)
            except ValueError:  # it was being written when the benchmark was interrupted: that run is made again
                continue
            self.runs.append(self._read(content, number))

    def _read(self, content: Any, number: int) -> Run:
        try:
            run = Run(**{**content, "request": Request(**content["request"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{self.path}, line {number}: expected a run of transfer.py, got {content!r}") from error
        for name in sorted(self.settings.keys() | run.settings.keys()):
            there, here = run.settings.get(name), self.settings.get(name)
            if there != here:
                raise ValueError(
                    f"{self.path} was measured with {name} {there!r}, this is {here!r}: give another --results"
                )
        return run

    def find(self, request: Request) -> Run | None:
        """The last answer to a request."""
        return next((run for run in reversed(self.runs) if run.request == request), None)

    def rows(self, case: str) -> dict[str, list[Run]]:
        """By row, its runs by subset and seed. Where a row was run in several ways, the last one counts."""
        last = {run.request.row: run.request.way for run in self.runs if run.request.case == case}
        chosen: dict[str, dict[tuple[int, int], Run]] = {row: {} for row in last}
        for run in self.runs:
            asked = run.request
            if asked.case == case and asked.way == last[asked.row]:
                chosen[asked.row][asked.subset, asked.seed or 0] = run
        return {row: [runs[cell] for cell in sorted(runs)] for row, runs in chosen.items()}

    def add(self, run: Run) -> None:
        """Append a run, at once to the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            torn = file.read(1) not in (b"", b"\n")
            file.write((b"\n" if torn else b"") + json.dumps(dataclasses.asdict(run)).encode() + b"\n")
        self.runs.append(run)
