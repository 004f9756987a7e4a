"""By simulation: how often compare and slices see what is not there, and how often an interval holds the truth."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from finetune.evaluation import slices
from finetune.evaluation.comparing import compare, paired
from finetune.evaluation.comparing.compare import TIE, WORSE, Entry
from finetune.evaluation.metrics import SCORES
from finetune.evaluation.predictions import Predictions
from finetune.tasks.classification import judging

pytestmark = pytest.mark.slow(seconds=30)
NAMES = ("a", "b", "c")
IMAGES, RUNS = 150, 200


def most(rate, runs=RUNS):
    """As often as not one in a thousand runs of a test that has this rate would see."""
    return int(stats.binom.ppf(0.999, runs, rate))


def least(rate, runs=RUNS):
    return int(stats.binom.ppf(0.001, runs, rate))


def model(rng, targets, accuracy):
    """A classifier of some accuracy on images of unequal difficulty, as sure as it should be on the whole."""
    easy = rng.random(len(targets)) < accuracy
    labels = np.where(easy, targets, (targets + rng.integers(1, 3, len(targets))) % 3)
    logits = rng.normal(0, 0.5, (len(targets), 3))
    logits[np.arange(len(targets)), labels] += 2.5
    found = Predictions(torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(targets))
    return judging.judged(found, NAMES)


def compared(monkeypatch, accuracies, runs=RUNS, shares=False):
    """What `compare` finds of models against the first, in many datasets; `shares`: of the accuracy alone."""
    monkeypatch.setattr(paired, "bootstrap", partial(paired.bootstrap, resamples=2 if shares else 200))
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        targets = rng.choice(3, IMAGES, p=(0.5, 0.3, 0.2))
        entries = [Entry(str(n), [model(rng, targets, accuracy)]) for n, accuracy in enumerate(accuracies)]
        yield compare.compare(entries, SCORES[:1] if shares else SCORES, seed)["comparisons"]


def test_two_models_that_are_equally_good_are_told_apart_in_one_of_twenty_datasets(monkeypatch):
    seen = {"accuracy": 0, "macro_f1": 0, "balanced_accuracy": 0, "loss": 0}
    classes, runs = 0, 100
    for (one,) in compared(monkeypatch, (0.8, 0.8), runs):
        for key in seen:
            seen[key] += one["metrics"][key]["verdict"] != TIE
        classes += any(row["verdict"] != TIE for row in one["per_class"])
    assert all(count <= most(0.07, runs) for count in seen.values()), seen  # percentiles of few images
    assert sum(seen.values()) > 0
    assert classes <= most(0.05, runs)  # in all classes together: Holm's


def test_of_three_models_none_is_told_apart_in_nineteen_of_twenty_datasets(monkeypatch):
    false = sum(
        any(one["metrics"]["accuracy"]["verdict"] != TIE for one in found)
        for found in compared(monkeypatch, (0.8,) * 4, shares=True)
    )
    assert 0 < false <= most(0.05)


def test_a_model_that_is_worse_is_found_out(monkeypatch):
    found = [one["metrics"] for (one,) in compared(monkeypatch, (0.9, 0.7), runs=20)]
    for key in ("accuracy", "macro_f1", "loss"):
        assert sum(metrics[key]["verdict"] == WORSE for metrics in found) >= 18


def test_intervals_of_a_difference_hold_the_true_one(monkeypatch):
    """Of accuracy, whose true difference is known: 0.9 - 0.8."""
    ends = [one["metrics"]["accuracy"]["interval"] for (one,) in compared(monkeypatch, (0.8, 0.9), shares=True)]
    assert sum(low <= 0.1 <= high for low, high in ends) >= least(0.95)


@pytest.mark.parametrize("higher", [True, False])
def test_intervals_of_a_slice_hold_its_true_score(monkeypatch, higher):
    """Shares (Wilson's) where higher is better, and errors (bootstrap) where lower is."""
    monkeypatch.setattr(slices, "PERMUTATIONS", 20)
    inside = np.arange(200) < 60
    held = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        values = (rng.random(200) < 0.8).astype(float) if higher else rng.gamma(4, 0.25, 200)
        (row,) = slices.find(values, [slices.Slice("kind", "first", inside)], higher, seed)
        low, high = row["interval"]
        held += low <= (0.8 if higher else 1.0) <= high
    assert least(0.93) <= held < RUNS


def test_overlapping_slices_of_nothing_are_seldom_worse():
    """All slices together, also where a score of an image is no share."""
    slices_, rng = [], np.random.default_rng(0)
    for number in range(12):
        slices_.append(slices.Slice("kind", str(number), rng.random(120) < 0.3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "PERMUTATIONS", 400)
        seen = sum(
            any(row["worse"] for row in slices.find(np.random.default_rng(seed).exponential(size=120), slices_, False))
            for seed in range(RUNS)
        )
    assert least(0.05) <= seen <= most(0.05)
