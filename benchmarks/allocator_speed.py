"""What it brings that training and inference keep freed memory (`finetune.loading.allocator`), on the CPU.

    python benchmarks/allocator_speed.py

Each measurement is a process of its own, because the setting is for a whole process; they take turns. Prints one
Markdown table.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

ROOT = Path(__file__).resolve().parent.parent
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Options:
    """Training steps (forward, backward, AdamW) and the inference form of one model, with and without."""

    model: str = "resnest26d"
    """timm's name."""
    batch: int = 32
    """Images per call."""
    size: int = 128
    """Side of the square images, in pixels."""
    modes: tuple[Literal["training", "inference"], ...] = ("training", "inference")
    """What to measure."""
    dtypes: tuple[Literal["bf16", "fp32"], ...] = ("bf16", "fp32")
    """In which arithmetic."""
    calls: int = 10
    """Of which a process takes the median, after eight to warm up."""
    repeats: int = 3
    """Rounds; in each, every process runs once."""


def measure(job: dict[str, Any]) -> dict[str, float]:
    """In a process of its own: seconds of a call, MiB that the system cleared for it, and the process's largest MiB."""
    import resource

    from finetune.loading.allocator import freed_memory_kept

    with freed_memory_kept() if job["kept"] else contextlib.nullcontext(True) as possible:
        if not possible:
            raise RuntimeError("needs Linux with a recent glibc, and nothing about malloc in the environment")
        call = _call(job)
        for _ in range(8):  # until the heap has found its size
            call()
        seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(job["calls"]):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cleared = (after.ru_minflt - before) * resource.getpagesize() / MEBIBYTE / job["calls"]
    return {"seconds": statistics.median(seconds), "cleared": cleared, "peak": after.ru_maxrss / 1024}


def _call(job: dict[str, Any]) -> Callable[[], object]:
    import timm
    import torch
    import torch.nn.functional as F
    from timm.optim import create_optimizer_v2

    import resnest_timm

    torch.manual_seed(0)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job["dtype"]]
    model = timm.create_model(job["model"], num_classes=10).to(memory_format=torch.channels_last)
    images = torch.randn(job["batch"], 3, job["size"], job["size"]).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(job["batch"]) % 10
    if job["mode"] == "inference":
        optimized, images = resnest_timm.optimize(model, dtype=dtype), images.to(dtype)
        return torch.no_grad()(lambda: optimized(images))
    optimizer = create_optimizer_v2(model.train(), opt="adamw", lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=job["dtype"] == "bf16"):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()

    return step


def run(job: dict[str, Any]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--measure", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(job: dict[str, Any], runs: dict[bool, list[dict[str, float]]]) -> str:
    def median(kept: bool, name: str) -> float:
        return statistics.median(found[name] for found in runs[kept])

    def cell(kept: bool) -> str:
        seconds = [found["seconds"] for found in runs[kept]]
        spread = (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)
        return f"{median(kept, 'seconds'):.3f} ±{spread:.0%}, {median(kept, 'cleared'):.0f}, {median(kept, 'peak'):.0f}"

    ratio = median(True, "seconds") / median(False, "seconds")
    return f"| {job['mode']} | {job['dtype']} | {cell(True)} | {cell(False)} | {ratio:.2f} |"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(json.loads(arguments[1]))))
        return 0
    options = tyro.cli(Options, args=arguments, description=__doc__)
    jobs = [asdict(options) | {"mode": mode, "dtype": dtype} for mode in options.modes for dtype in options.dtypes]
    runs: list[dict[bool, list[dict[str, float]]]] = [{True: [], False: []} for _ in jobs]
    for number in range(options.repeats):
        for job, found in zip(jobs, runs, strict=True):
            for kept in (True, False) if number % 2 else (False, True):
                found[kept].append(run(job | {"kept": kept}))
    print(f"{options.model}, {options.size} px, batch {options.batch}; {os.cpu_count()} cores; {platform.libc_ver()}\n")
    print("| mode | dtype | kept: s, MiB cleared per call, peak MiB | given back | kept / given back |")
    print("| --- | --- | ---: | ---: | ---: |")
    print("\n".join(row(job, found) for job, found in zip(jobs, runs, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
