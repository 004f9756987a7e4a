"""A classifier's predictions as statistics take them: the scores are the metric's, and comparisons are honest."""

import numpy as np
import pytest
import torch

from finetune.evaluation.comparing import compare
from finetune.evaluation.comparing.compare import Entry
from finetune.evaluation.metrics import SCORES, ClassificationScores
from finetune.evaluation.predictions import Predictions
from finetune.tasks.classification import judging

CLASSES = [str(n) for n in range(7)]


def predictions(rng, images, noise, targets=None):
    targets = torch.from_numpy(rng.integers(7, size=images)) if targets is None else targets
    logits = 3 * torch.nn.functional.one_hot(targets, 7) + torch.from_numpy(rng.normal(0, noise, (len(targets), 7)))
    return Predictions(logits.float(), targets)


def test_weighted_scores_are_the_metric_s_of_repeated_images():
    rng = np.random.default_rng(0)
    found = predictions(rng, 50, 2.0)
    weights = rng.integers(0, 4, (3, 50))
    scores = judging.judged(found, CLASSES).scores(weights)
    for row in range(3):
        places = np.repeat(np.arange(50), weights[row])
        metric = ClassificationScores(7)
        metric.update(found.logits[places], found.targets[places])
        for key, value in metric.compute().items():
            assert scores[key][row] == pytest.approx(value.item(), abs=1e-9), key


def test_of_two_models_that_are_equally_good_few_are_said_to_differ():
    """Type-1 error of every score's verdict by simulation; 5 % is meant, the standard error is 1.3 %."""
    rng = np.random.default_rng(1)
    rounds, wrong = 300, dict.fromkeys((score.key for score in SCORES), 0)
    for _ in range(rounds):
        first = predictions(rng, 120, 2.0)
        both = [first, predictions(rng, 120, 2.0, first.targets)]
        entries = [Entry(name, [judging.judged(one, CLASSES)]) for name, one in zip("ab", both, strict=True)]
        (found,) = compare.compare(entries, SCORES)["comparisons"]
        for key, of in found["metrics"].items():
            wrong[key] += of["verdict"] != "tie"
    assert {key: n / rounds for key, n in wrong.items() if n / rounds > 0.05 + 3 * 0.013} == {}


def test_a_better_model_is_found():
    rng = np.random.default_rng(2)
    first = predictions(rng, 400, 2.5)
    entries = [Entry("a", [judging.judged(first, CLASSES)])]
    entries.append(Entry("b", [judging.judged(predictions(rng, 400, 1.5, first.targets), CLASSES)]))
    (found,) = compare.compare(entries, SCORES)["comparisons"]
    assert {key: of["verdict"] for key, of in found["metrics"].items()}["accuracy"] == "better"
    assert found["metrics"]["loss"]["verdict"] == "better"
    assert found["mcnemar"]["only_model"] > found["mcnemar"]["only_reference"]
    assert any(row["verdict"] == "better" for row in found["per_class"])
