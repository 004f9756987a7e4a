"""A whole finetuning job, ours and transformers' Trainer's, each a process of its own, in turn.

    python benchmarks/finetune_speed.py --dataset ../shared/data/clothing

Prints one Markdown table; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

HERE = Path(__file__).resolve().parent


@dataclass
class Options:
    """The job."""

    dataset: str
    """Folder or Hub id, with splits train, validation and test; a train split of one image more than whole batches
    crashes theirs."""
    model: str = "resnest26d"
    """timm's name; from scratch."""
    size: int = 128
    """Side of the square images, in pixels."""
    batch_size: int = 32
    """Images per step."""
    epochs: int = 2
    """Passes over the training split."""
    precision: str = "bf16"
    """bf16 (autocast) or 32."""
    crop_scale: float = 0.35
    """Smallest share of an image that a random crop keeps."""
    lr: float | None = None
    """Peak learning rate of ours; its preset's, which is for tens of epochs, when not given. Theirs keeps its own."""
    max_samples: int | None = None
    """Use at most so many images of each split, to try the script."""
    repeats: int = 3
    """Rounds; in each, both run once, and they take turns in being the first."""
    threads: int | None = None
    """Of torch; its own choice when not given."""


@dataclass
class Job:
    """Runs of one of both: seconds from the start of the process, and shares of the test images."""

    name: str
    trained: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


def launch(command: list[str], options: Options) -> tuple[float, float]:
    """Run a command: when it started, by the clock of files, and how many seconds it took."""
    threads = {} if options.threads is None else {"OMP_NUM_THREADS": str(options.threads)}
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **threads, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    begun, start = time.time(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return begun, time.perf_counter() - start


def run_ours(options: Options, job: Job, folder: Path) -> None:
    flags: dict[str, Any] = {"model": options.model, "dataset": options.dataset, "image-size": options.size}
    flags |= {"batch-size": options.batch_size, "epochs": options.epochs, "precision": options.precision}
    flags |= {"crop-scale": options.crop_scale, "output": folder / "run"}
    flags |= {} if options.lr is None else {"lr": options.lr}
    flags |= {} if options.max_samples is None else {"max-samples": options.max_samples}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    begun, whole = launch([sys.executable, "-m", "finetune", "--no-pretrained", *words], options)
    # A row is written when an epoch and its validation are over; nothing is added after the last.
    job.trained.append((folder / "run" / "metrics.csv").stat().st_mtime - begun)
    job.whole.append(whole)
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    job.accuracy.append(result["metrics"]["test"]["accuracy"])


def run_theirs(options: Options, job: Job, folder: Path) -> None:
    arguments = json.dumps(dataclasses.asdict(options) | {"folder": str(folder)})
    begun, whole = launch([sys.executable, str(HERE / "finetune_peer.py"), arguments], options)
    said = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    job.trained.append(said["trained"] - begun)
    job.whole.append(whole)
    job.accuracy.append(said["accuracy"])


def show(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.1f} ±{100 * (max(values) - min(values)) / 2 / middle:.0f} %"


def table(jobs: list[Job], options: Options) -> list[str]:
    epochs = f"end of epoch {options.epochs}, s"
    lines = [f"| | {epochs} | whole process, s | test accuracy | |", "| --- | ---: | ---: | ---: | --- |"]
    for job in jobs:
        shares = ", ".join(f"{value:.4f}" for value in job.accuracy)
        cells = [job.name, show(job.trained), show(job.whole), f"{statistics.median(job.accuracy):.4f}", shares]
        lines.append(f"| {' | '.join(cells)} |")
    ours, theirs = jobs
    ratios = [statistics.median(mine) / statistics.median(other) for mine, other in pairs(ours, theirs)]
    gained = statistics.median(ours.accuracy) - statistics.median(theirs.accuracy)
    return [*lines, f"| ours / transformers | {ratios[0]:.2f} | {ratios[1]:.2f} | {gained:+.4f} | |"]


def pairs(ours: Job, theirs: Job) -> list[tuple[list[float], list[float]]]:
    return [(ours.trained, theirs.trained), (ours.whole, theirs.whole)]


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, description=__doc__)
    missing = [name for name in ("accelerate", "transformers") if importlib.util.find_spec(name) is None]
    if missing:  # said before ours has trained for minutes
        print(f"error: no {' and no '.join(missing)}: pip install 'resnest-timm[bench]'", file=sys.stderr)
        return 2
    if Path(options.dataset).exists():  # not a Hub id
        options.dataset = str(Path(options.dataset).resolve())
    jobs = [Job("ours"), Job("transformers")]
    runs = [run_ours, run_theirs]
    for number in range(options.repeats):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            with tempfile.TemporaryDirectory() as temporary:
                runs[index](options, jobs[index], Path(temporary))
                print(f"{jobs[index].name}: {jobs[index].whole[-1]:.1f} s", file=sys.stderr, flush=True)
    print(
        f"{datetime.date.today()}; {options.model} from scratch on {Path(options.dataset).name}, {options.size} px, "
        f"batch {options.batch_size}, precision {options.precision}; {os.cpu_count()} cores; "
        f"python {platform.python_version()}; median of {options.repeats}\n"
    )
    print("\n".join(table(jobs, options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
