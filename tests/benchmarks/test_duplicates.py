"""The benchmark of copies at its smallest: planted faults of each kind are counted as what they are."""

import importlib

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.finetune.data.checks.test_copies import encoded, scene


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("duplicates")


def test_swapped_splits_and_flipped_labels_are_among_the_planted_faults(script):
    values = [encoded(scene(seed)) for seed in range(10)]
    planted = [script.changed(value, "jpeg 30", np.random.default_rng(0)) for value in values[:8]]
    found = script.measure(script.looked([*values, *planted]), 10, 8)
    assert (found["recall"], found["precision"], found["other_pairs"]) == (1, 1, 0)
    assert (found["swapped_found"], found["flipped_found"], found["contradictions_that_are_none"]) == (1, 1, 0)


def test_what_is_missed_and_what_is_no_copy_are_counted_too(script):
    values = [encoded(scene(seed)) for seed in range(9)]
    copied = [values[0], values[1], encoded(scene(90)), encoded(scene(91))]  # two of four, and two others
    found = script.measure(script.looked([*values, values[8], *copied]), 10, 4)
    assert (found["recall"], found["swapped_found"], found["flipped_found"]) == (0.5, 0.5, 0)
    assert (found["other_pairs"], found["images_in_other_pairs"]) == (1, 0.1)
    assert found["precision"] == pytest.approx(2 / 3, abs=1e-3)
