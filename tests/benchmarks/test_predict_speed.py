"""The benchmark of predict at its smallest: its table, and that it refuses loops that disagree."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model", "resnest14d", "--size", "32", "--images", "20", "--batch-size", "8", "--workers", "0"]


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module; `main` reads the arguments."""
    spec = importlib.util.spec_from_file_location("predict_speed", ROOT / "benchmarks" / "predict_speed.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "predict_speed", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["predict_speed.py", *SMALL, "--repeats", "2"])
    return module


def test_prints_both_speeds_and_their_ratio(benchmark, capsys):
    assert benchmark.main() == 0
    row = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"\| resnest14d \| 32 \| (\S+) ±\d+ % \| (\S+) ±\d+ % \| (\S+) \|", row)
    assert found, row
    predict, evaluate, ratio = map(float, found.groups())
    assert ratio == pytest.approx(predict / evaluate, rel=0.05)


def test_loops_that_disagree_get_no_ratio(benchmark, capsys, monkeypatch):
    whole = benchmark.loops
    monkeypatch.setattr(benchmark, "loops", lambda *given: whole(*given) | {"evaluate": lambda: 2.0})
    assert benchmark.main() == 1
    captured = capsys.readouterr()
    assert "the two loops disagree: no ratio" in captured.err
    assert captured.out == ""
