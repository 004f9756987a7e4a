"""Seconds until a command answers, beside the imports that it cannot do without, in turn.

    python benchmarks/startup.py --against ../older-checkout

Every command is a new Python. Each runs once before the rounds, so that the system has cached the files and we timm's
names. Where the first line is the answer, the command is stopped there. Prints one Markdown table: seconds on the
clock, and the processor's (user and system), which change less on a machine that others use too.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    model: str = "resnest14d"
    """Any timm name; of the run that is evaluated and predicts."""
    size: int = 64
    """Side of its input in pixels."""
    repeats: int = 5
    """Rounds; each measures every command."""
    against: Path | None = None
    """Checkout of an older version, measured in the same rounds."""


@dataclass(frozen=True)
class Command:
    """What is run.

    Attributes:
        name: In the table.
        words: After `python`.
        beside: Name of the command that is subtracted from its time.
        first_line: Whether the answer is the first line on standard output, not the end.
        exit_code: That it must end with, unless it is stopped.
        ours: Whether it depends on the checkout.
    """

    name: str
    words: tuple[str, ...]
    beside: str | None = None
    first_line: bool = False
    exit_code: int = 0
    ours: bool = True


@dataclass(frozen=True)
class Time:
    """Seconds of one answer: on the clock, and of the processor."""

    wall: float
    cpu: float


def commands(run: Path, photographs: Path) -> list[Command]:
    """Imports first, then what is compared with them."""
    finetune = ("-m", "finetune")
    typo: dict[str, Any] = {"beside": "nothing", "exit_code": 2}
    train = ("--no-pretrained", "--accelerator", "cpu")
    some = ("--model", "resnest14d")
    photograph = next(photographs.rglob("*.jpg"))
    found = [Command("nothing", ("-c", "pass"), ours=False)]
    found += [Command(f"import {name}", ("-c", f"import {name}"), ours=False) for name in ("torch", "datasets", "timm")]
    found += [
        Command("--help", (*finetune, "--help"), "nothing"),
        Command("a mistyped flag", (*finetune, "--modell", "resnest14d"), **typo),
        Command("a mistyped model", (*finetune, "--model", "resnest140", "--dataset", str(photographs)), **typo),
        Command("a mistyped dataset", (*finetune, *some, "--dataset", f"{photographs}x"), **typo),
        Command(
            "train, first line", (*finetune, *some, "--dataset", str(photographs), *train), "import datasets", True
        ),
        Command("evaluate RUN, first line", (*finetune, "evaluate", str(run)), "nothing", True),
        Command("predict RUN photo.jpg", (*finetune, "predict", str(run), str(photograph)), "import timm"),
    ]
    if importlib.util.find_spec("gradio"):
        found.append(Command("demo RUN, first line", (*finetune, "demo", str(run)), "nothing", True))
    return found


def answer(command: Command, checkout: Path, scratch: Path) -> Time:
    """Run a command of a checkout until it has answered.

    Raises:
        RuntimeError: It ended otherwise than it should.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "FINETUNE_VERIFY": "0"}
    errors = scratch / "errors.txt"
    start = time.perf_counter()
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command.words], stdout=subprocess.PIPE, stderr=file, cwd=scratch, env=environment
        )
    assert process.stdout is not None
    said = process.stdout.readline() if command.first_line else process.stdout.read()
    at_line = time.perf_counter() - start
    if command.first_line:
        os.kill(process.pid, signal.SIGKILL)  # Popen's own would first reap one that has ended, and with it its times
    process.stdout.close()
    _, status, used = os.wait4(process.pid, 0)
    at_end = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    answered = bool(said) if command.first_line else process.returncode == command.exit_code
    if not answered:
        raise RuntimeError(f"{command.name} in {checkout}: exit code {process.returncode}, {errors.read_text()}")
    return Time(at_line if command.first_line else at_end, used.ru_utime + used.ru_stime)


def photographs(folder: Path, count: int = 40) -> None:
    """Noise of two classes: what is in them costs nothing here."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03}.jpg")


def train(options: Options, data: Path, run: Path) -> None:
    """A run to evaluate and to predict with: one epoch from scratch."""
    words = ["--model", options.model, "--image-size", options.size, "--dataset", data, "--output", run]
    words += ["--no-pretrained", "--epochs", 1, "--batch-size", 8, "--workers", 0]
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FINETUNE_VERIFY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=data.parent)
    if done.returncode != 0:
        raise RuntimeError(f"the run failed: {done.stderr}")


def measure(
    found: Sequence[Command], checkouts: Sequence[Path], repeats: int, scratch: Path
) -> dict[tuple[str, Path], list[Time]]:
    """Times by name and checkout; what does not depend on a checkout is measured once a round."""
    jobs = [(command, checkout) for command in found for checkout in checkouts[: None if command.ours else 1]]
    times: dict[tuple[str, Path], list[Time]] = {(command.name, checkout): [] for command, checkout in jobs}
    for command, checkout in jobs:  # warms up
        answer(command, checkout, scratch)
    for turn in range(repeats):
        for command, checkout in jobs[turn % len(jobs) :] + jobs[: turn % len(jobs)]:
            times[command.name, checkout].append(answer(command, checkout, scratch))
    return times


def median(times: Sequence[Time]) -> Time:
    """Of both, each by itself."""
    return Time(statistics.median(one.wall for one in times), statistics.median(one.cpu for one in times))


def table(found: Sequence[Command], checkouts: Sequence[Path], times: dict[tuple[str, Path], list[Time]]) -> str:
    """Markdown; medians of the rounds, ± half the range of the clock's seconds."""
    header = "| answer | s | CPU s | beside | s more | CPU s more |"
    rule = "| --- | ---: | ---: | --- | ---: | ---: |"
    older = checkouts[1:]
    rows = [header + " before: s | CPU s |" * len(older), rule + " ---: | ---: |" * len(older)]
    middle = {key: median(several) for key, several in times.items()}
    for command in found:
        key = (command.name, checkouts[0])
        walls = [one.wall for one in times[key]]
        cells = [command.name, f"{middle[key].wall:.2f} ±{(max(walls) - min(walls)) / 2:.2f}", f"{middle[key].cpu:.2f}"]
        other = middle[command.beside, checkouts[0]] if command.beside else None
        cells += [command.beside or "", *_numbers(other and _difference(middle[key], other))]
        for checkout in older:
            cells += _numbers(middle.get((command.name, checkout)))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _difference(one: Time, other: Time) -> Time:
    return Time(one.wall - other.wall, one.cpu - other.cpu)


def _numbers(time: Time | None) -> list[str]:
    return [f"{time.wall:.2f}", f"{time.cpu:.2f}"] if time else ["", ""]


def main() -> int:
    options = tyro.cli(Options)
    checkouts = [ROOT, *([options.against.resolve()] if options.against else [])]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        photographs(scratch / "photographs")
        train(options, scratch / "photographs", scratch / "run")
        found = commands(scratch / "run", scratch / "photographs")
        times = measure(found, checkouts, options.repeats, scratch)
    print(table(found, checkouts, times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
