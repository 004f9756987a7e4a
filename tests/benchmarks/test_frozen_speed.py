"""The benchmark of the frozen backbone at its smallest: its table, and that the features are not there before."""

import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_made_of_the_seconds(cli, tmp_path):
    small = "--model resnest14d --dataset digits --image-size 32 --max-samples 60 --epochs 2 --repeats 2"
    numbers = tmp_path / "numbers.json"
    done = cli("benchmarks.frozen_speed", *small.split(), "--accelerator", "cpu", "--json", numbers, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(numbers.read_text())
    seconds = found["seconds"]
    assert (found["dataset"], found["images"], {len(values) for values in seconds.values()}) == ("digits", 60, {2})
    assert all(0 < part < whole for part, whole in zip(seconds["features"], seconds["cold"], strict=True))
    assert min(seconds["warm"]) < min(seconds["cold"])  # the first finds nothing, the second what the first has left
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    names = ["one evaluation pass", "2 epochs, features not cached", "of which features", "2 epochs, features cached"]
    assert list(cells) == names
    for name, kind in zip(names, ("evaluation", "cold", "features", "warm"), strict=True):
        assert float(cells[name][0]) == pytest.approx(statistics.median(seconds[kind]), abs=0.006)
        ratios = [value / base for value, base in zip(seconds[kind], seconds["evaluation"], strict=True)]
        assert float(cells[name][2]) == pytest.approx(statistics.median(ratios), abs=0.006)
