"""The benchmark of kept memory at its smallest."""

import platform
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_kept_memory_is_not_cleared_again(cli):
    small = "--model resnest14d --size 64 --batch 16 --modes training --dtypes fp32 --repeats 1 --calls 2"
    done = cli("benchmarks.allocator_speed", *small.split(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    head, line, row = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(head) == len(line) == len(row) == 5
    (kept, kept_cleared, _), (given, given_cleared, _) = (cell.split(", ") for cell in row[2:4])
    assert float(kept_cleared) < float(given_cleared) / 2
    assert float(row[4]) == pytest.approx(float(kept.split()[0]) / float(given.split()[0]), abs=0.02)
