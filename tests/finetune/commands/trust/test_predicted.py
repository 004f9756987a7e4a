"""Predictions as comparisons take them, also of tasks that score no single images."""

import numpy as np
import pytest
import torch

from finetune.commands.trust import predicted
from finetune.evaluation.comparing import compare as statistics
from finetune.evaluation.comparing.compare import Entry
from finetune.tasks import registry
from finetune.tasks.regression.predictions import NumberPredictions


class Bare:
    """A task that brings no more than it must."""

    scores = registry.get("image-regression").scores
    resampler = staticmethod(registry.get("image-regression").resampler)


@pytest.mark.parametrize("bare", [True, False])
def test_the_scores_are_compared_on_the_same_resamples(bare):
    task, rng = Bare() if bare else registry.get("image-regression"), np.random.default_rng(0)
    truth = rng.normal(size=200)
    noise = {"near": rng.normal(size=200) / 10, "far": rng.normal(size=200)}
    entries = []
    for name, errors in noise.items():
        found = NumberPredictions(torch.from_numpy(truth + errors).float(), torch.from_numpy(truth).float())
        entries.append(Entry(name, [predicted.judged(task, found, ["y"], 200, {})]))
    (compared,) = statistics.compare(entries, task.scores)["comparisons"]
    assert list(compared["metrics"]) == (["mae"] if bare else ["mae", "rmse", "r2", "spearman"])
    assert ("images" in compared) != bare
    of = compared["metrics"]["mae"]
    difference = np.abs(noise["far"]) - np.abs(noise["near"])
    assert of["difference"] == pytest.approx(difference.mean(), abs=1e-6)
    assert of["verdict"] == "worse"
    half = 1.96 * difference.std(ddof=1) / np.sqrt(200)
    assert of["interval"] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.02)
    assert compared["per_class"] == []
    assert "mcnemar" not in compared
