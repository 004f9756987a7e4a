"""Freed memory stays with the process, seen by the pages that the system has to clear."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import ImageClassificationTask
from finetune.cli import main
from finetune.loading import allocator
from finetune.serving.predictor import Predictor

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")

MAPS, SIZE = 4, 64 * 2**20
LARGE = 2 * MAPS * SIZE
"""Bytes; what no free range of the heap can hold, where several maps may still find their old place."""
PROGRAM = f"""
import os, resource, torch
from finetune.loading import allocator, datamodule

def step(sizes):
    maps = [torch.ones(size, dtype=torch.uint8) for size in sizes]

def cleared(sizes):
    for _ in range(8):  # the heap finds its size
        step(sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(sizes)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()

def resident():  # what is not of files: a forked process does not take those along
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon:"))

maps, one_map = [{SIZE}] * {MAPS}, [{LARGE}]
print(cleared(maps), flush=True)
with allocator.freed_memory_kept() as kept:
    assert kept
    empty = resident()
    print(cleared(maps), flush=True)
    print(resident() - empty, flush=True)
    if os.fork() == 0:
        datamodule.prepare_worker(0)
        print(resident() - empty, cleared(one_map), sep="\\n", flush=True)
        os._exit(0)
    os.wait()
print(resident() - empty, cleared(one_map), sep="\\n")
"""


def test_a_step_finds_the_memory_of_the_one_before_and_afterwards_all_is_as_it_was(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment | {"OMP_NUM_THREADS": "1"}
    )
    before, within, held, *others = map(int, done.stdout.split())
    needed = MAPS * SIZE
    assert before > needed / 2  # else the setting would be of no use
    assert within < needed / 20
    assert held > needed / 2
    assert len(others) == 4
    for left, cleared in (others[:2], others[2:]):  # in a worker, which was forked within, and after the block
        assert left < needed / 4
        assert cleared > LARGE / 2


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")]
)
def test_what_the_environment_says_goes_first(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("nothing may be set"))
    with allocator.freed_memory_kept() as kept:
        assert not kept


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_nothing_is_set(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("nothing may be set"))
    with allocator.freed_memory_kept() as kept:
        assert not kept


def test_training_evaluation_and_predictions_keep_it_and_nothing_else(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    kinds = {"training_step": ImageClassificationTask, "_evaluate": ImageClassificationTask, "predict": Predictor}

    def watch(kind, name):
        plain = getattr(kind, name)

        def method(self, *arguments):
            seen.add((name, allocator._keeping))
            return plain(self, *arguments)

        monkeypatch.setattr(kind, name, method)

    for name, kind in kinds.items():
        watch(kind, name)
    small = "--model resnest14d --dataset digits --no-pretrained --image-size 32 --epochs 1 --max-samples 60"
    rest = ["--accelerator", "cpu", "--workers", "0"]
    assert main([*small.split(), *rest, "--output", str(tmp_path / "run")]) == 0
    assert seen == {("training_step", True), ("_evaluate", True)}
    assert not allocator._keeping
    seen.clear()
    assert main(["evaluate", str(digits_run), *rest, "--devices", "1"]) == 0
    assert seen == {("_evaluate", True)}
    assert not allocator._keeping
    assert main(["predict", str(digits_run), "--split", "test", *rest, "--output", str(tmp_path / "lines")]) == 0
    assert ("predict", True) in seen
    assert not allocator._keeping
