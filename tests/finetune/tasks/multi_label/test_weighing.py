"""What an image is worth, and the scores of any weighting, against scikit-learn's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from finetune.tasks import registry
from finetune.tasks.multi_label.measures import weighing
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions

NAMES = ("a", "b", "c", "d")
TASK = registry.get("multi-label-classification")


def drawn(count=60, unknown=False):
    rng = np.random.default_rng(0)
    targets = (rng.random((count, 4)) < 0.4).astype(np.int8)
    logits = (rng.normal(size=(count, 4)) + 1.5 * targets).astype(np.float32)
    if unknown:
        targets[rng.random((count, 4)) < 0.2] = -1
        targets[0] = -1
    return MultiLabelPredictions(torch.from_numpy(logits), torch.from_numpy(targets))


def test_an_image_is_worth_its_f1_at_the_thresholds():
    found, limits = drawn(), np.array([0.0, 0.5, 1.0, -0.5])
    judged = weighing.judged(found, NAMES, limits)
    logits, targets = found.arrays()
    each = [f1_score(t, a, zero_division=1.0) for t, a in zip(targets, logits >= limits, strict=True)]
    assert judged.values == pytest.approx(each)
    assert judged.shows.sum() == (targets > 0).sum()
    assert judged.true[0] == ", ".join(np.array(NAMES)[targets[0] > 0])


def test_of_unknown_classes_nothing_is_said():
    found = drawn(unknown=True)
    logits, targets = found.arrays()
    values = weighing.judged(found, NAMES, np.zeros(4)).values
    assert np.isnan(values[0])
    for value, said, true in zip(values[1:], logits[1:] >= 0, targets[1:], strict=True):
        known = true >= 0
        if known.any():
            assert value == pytest.approx(f1_score(true[known], said[known], zero_division=1.0))


def test_the_scores_of_a_weighting_are_those_of_repeated_images():
    found, limits = drawn(), np.array([0.0, 0.5, 1.0, -0.5])
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 3, (3, 60))
    scores = weighing.judged(found, NAMES, limits).scores(weights)
    logits, targets = found.arrays()
    for row, times in enumerate(weights):
        chosen = np.repeat(np.arange(60), times)
        true, said = targets[chosen], logits[chosen] >= limits
        expected = {
            "mean_average_precision": average_precision_score(true, logits[chosen], average="macro"),
            "micro_average_precision": average_precision_score(true, logits[chosen], average="micro"),
            "macro_f1": f1_score(true, said, average="macro"),
            "micro_f1": f1_score(true, said, average="micro"),
            "exact_match": (true == said).all(axis=1).mean(),
        }
        assert {name: values[row] for name, values in scores.items()} == pytest.approx(expected)


def test_thresholds_of_a_run_and_those_of_its_network_are_the_same():
    network = SimpleNamespace(calibration={"thresholds": [0.3, 0.5, 0.9, 0.2], "temperature": 1.7})
    evaluation = {"thresholds": {"values": [0.3, 0.5, 0.9, 0.2]}, "calibration": {"temperature": 1.7}}
    found = drawn()
    of_run = TASK.judged(found, NAMES, evaluation)
    of_network = TASK.judged(found, NAMES, TASK.decisions(network))
    assert of_run.values.tolist() == of_network.values.tolist()
    assert of_run.values.tolist() != TASK.judged(found, NAMES, {}).values.tolist()
    answered = 1 / (1 + np.exp(-found.logits.double().numpy() / 1.7)) >= [0.3, 0.5, 0.9, 0.2]
    assert [text == "none" for text in of_run.said] == (~answered.any(axis=1)).tolist()
