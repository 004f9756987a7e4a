"""The benchmark of segmentation at its smallest: its table, and that both sides do the same job."""

import importlib
from pathlib import Path

import pytest

from tests.finetune.tasks.segmentation import drawn

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow(seconds=15)
def test_a_row_for_steps_and_one_for_input(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("segmentation_speed")
    (tmp_path / "scenes").mkdir()
    drawn.in_memory(drawn.scenes(24)).to_parquet(tmp_path / "scenes/train.parquet")
    small = "--model resnest14d --size 32 --batch-size 2 --steps 1 --repeats 2"
    assert benchmark.main(["--dataset", str(tmp_path / "scenes"), *small.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, _, steps, read = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    assert len(head) == len(steps) == len(read) == 5
    assert steps[0].strip() == "steps: resnest14d, fpn, 32 px, float32"
    assert read[0].strip() == "input: scenes"
    for _, ours, plain, ratio, by_cpu in (steps, read):
        rates = [float(cell.split()[0]) for cell in (ours, plain)]
        times = [float(cell.split()[-1]) for cell in (ours, plain)]
        assert float(ratio) == pytest.approx(rates[0] / rates[1], abs=0.02, rel=0.05)
        assert float(by_cpu) == pytest.approx(times[1] / times[0], abs=0.02, rel=0.1)


def test_both_networks_are_one(monkeypatch):
    """The same weights in the same places, so that a difference of speed is one of code."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("segmentation_speed")
    options = benchmark.Options("none", size=32, batch_size=2, steps=1)
    assert [candidate.go() for candidate in benchmark.steps_of_both(options)] == [2, 2]
