"""Numbers are scikit-learn's, and do not depend on how images were spread; thresholds, intervals, calibration."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss

from finetune.tasks.multi_label import judging
from finetune.tasks.multi_label.measures import calibration, intervals, metrics, precision
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions


def drawn(count=200, classes=6, seed=0, ties=True):
    """Logits that know something, and targets; scores repeat where there are ties."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.int8)
    logits = rng.normal(size=(count, classes)) + 2 * targets - 1
    return (logits.round(1) if ties else logits).astype(np.float32), targets


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_those_of_scikit_learn(ties):
    logits, targets = drawn(ties=ties)
    thresholds = np.linspace(-0.53, 0.57, 6)
    found = metrics.scores(logits, targets, thresholds)
    answers = logits >= thresholds
    assert found == pytest.approx(
        {
            "mean_average_precision": average_precision_score(targets, logits, average="macro"),
            "micro_average_precision": average_precision_score(targets, logits, average="micro"),
            "macro_f1": f1_score(targets, answers, average="macro"),
            "micro_f1": f1_score(targets, answers, average="micro"),
            "exact_match": accuracy_score(targets, answers),
            "loss": log_loss(targets.ravel(), 1 / (1 + np.exp(-logits.ravel().astype(np.float64)))),
        },
        abs=1e-12,
    )


def test_what_is_unknown_stays_out():
    logits, targets = drawn()
    hidden = targets.copy()
    hidden[np.random.default_rng(1).random(hidden.shape) < 0.3] = -1
    each = precision.per_class(logits, hidden)
    for label in range(6):
        known = hidden[:, label] >= 0
        expected = average_precision_score(hidden[known, label], logits[known, label])
        assert each[label] == pytest.approx(expected, abs=1e-12)
    changed = np.where(hidden < 0, 99.0, logits).astype(np.float32)
    thresholds = precision.thresholds(logits, hidden)
    assert metrics.scores(changed, hidden, thresholds) == metrics.scores(logits, hidden, thresholds)
    assert np.array_equal(precision.thresholds(changed, hidden), thresholds)


def test_a_class_without_a_positive_is_in_no_mean():
    logits, targets = drawn()
    targets[:, 2] = 0
    found = metrics.scores(logits, targets, np.full(6, 9.0))
    others = [0, 1, 3, 4, 5]
    expected = average_precision_score(targets[:, others], logits[:, others])
    assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    rows = judging.per_class(
        MultiLabelPredictions(torch.from_numpy(logits), torch.from_numpy(targets)), np.zeros(6), [0.5] * 6, "abcdef"
    )
    assert rows[2]["average_precision"] is None
    assert rows[2]["recall"] is None
    assert rows[2]["support"] == 0


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_batches_and_their_order_change_nothing(parts):
    logits, targets = (torch.from_numpy(of) for of in drawn(seed=3))
    whole = metrics.MultiLabelScores(6)
    whole.update(logits, targets)
    expected = {name: value.item() for name, value in whole.compute().items()}
    split = metrics.MultiLabelScores(6)
    for part in torch.randperm(200, generator=torch.Generator().manual_seed(parts)).tensor_split(parts):
        split.update(logits[part], targets[part])
    split.update(logits[:0], targets[:0])
    assert {name: value.item() for name, value in split.compute().items()} == expected


def test_thresholds_have_the_best_f1_of_each_class():
    logits, targets = drawn(ties=False)
    found = precision.thresholds(logits, targets)
    for label in np.flatnonzero(targets.sum(axis=0) >= precision.ENOUGH):
        best = max(
            f1_score(targets[:, label], logits[:, label] >= threshold) for threshold in np.unique(logits[:, label])
        )
        assert f1_score(targets[:, label], logits[:, label] >= found[label]) == pytest.approx(best)


def test_a_class_of_few_positives_takes_the_threshold_of_all():
    logits, targets = drawn(ties=False)
    targets[:, 0] = 0
    common = precision.best_threshold(precision.of_all(logits, targets))
    assert precision.thresholds(logits, targets)[0] == common
    targets[:5, 0] = 1
    common = precision.best_threshold(precision.of_all(logits, targets))
    own = precision.best_threshold(precision.of_classes(logits, targets)[0])
    assert precision.thresholds(logits, targets)[0] == pytest.approx(0.25 * own + 0.75 * common)


def test_thresholds_of_probabilities_are_those_of_logits():
    answered = np.array([-3.0, 0.0, 2.5])
    limits = torch.sigmoid(torch.from_numpy(answered) / 1.7).tolist()
    assert judging.logits_of(limits, 1.7, 3) == pytest.approx(answered, abs=1e-12)
    assert judging.logits_of(None, 1.0, 2).tolist() == [0.0, 0.0]


def test_resamples_are_scored_as_the_images_they_draw():
    logits, targets = drawn(60, 4)
    targets[::9, 1] = -1
    thresholds = np.zeros(4)
    found = intervals.bootstrap(logits, targets, thresholds, seed=7)
    times = np.random.default_rng(7).multinomial(60, np.full(60, 1 / 60), size=intervals.RESAMPLES)
    for resample in (0, 11, 1999):
        rows = np.repeat(np.arange(60), times[resample])
        expected = metrics.scores(logits[rows], targets[rows], thresholds)
        for name, values in found.values.items():
            assert values[resample] == pytest.approx(expected[name], abs=1e-12), name


def test_a_perfect_score_has_an_interval_all_the_same():
    targets = drawn()[1]
    entry, _ = intervals.summary(targets.astype(np.float32) - 0.5, targets, np.zeros(6), 0)
    low, high = entry["test"]["exact_match"]
    assert high == 1
    assert 0.97 < low < 1
    assert entry["test"]["mean_average_precision"][0] < low
    assert "Wilson" in entry["method"]


def test_the_temperature_is_found_again():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    targets = torch.bernoulli(torch.sigmoid(logits), generator=generator).to(torch.int8)
    targets[::5] = -1
    found = calibration.fit_temperature(MultiLabelPredictions(logits * 3, targets))
    assert found.value == pytest.approx(3, rel=0.05)
    hot = MultiLabelPredictions(logits * 3, targets)
    assert calibration.error(hot, found.value) < 0.02 < calibration.error(hot)
    scaled = torch.tensor(found.value, dtype=torch.float64).requires_grad_()
    known = targets >= 0
    values = (logits * 3).double()[known] / scaled
    torch.nn.functional.binary_cross_entropy_with_logits(values, targets[known].double()).backward()
    assert abs(scaled.grad.item()) < 1e-9


def test_a_temperature_needs_a_mistake():
    logits = torch.tensor([[2.0, -1.0], [1.0, -3.0]])
    found = calibration.fit_temperature(MultiLabelPredictions(logits, (logits > 0).to(torch.int8)))
    assert found.value == 1
    assert "every validation pair is right" in found.note
    assert (
        calibration.fit_temperature(MultiLabelPredictions(logits * float("nan"), (logits > 0).to(torch.int8))) is None
    )


def test_which_classes_are_taken_for_which():
    logits = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])
    targets = torch.tensor([[1, 0, 0], [1, 1, -1]], dtype=torch.int8)
    matrix = judging.taken_for(MultiLabelPredictions(logits, targets), np.zeros(3))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_the_floor_is_the_mean_prevalence():
    _, targets = drawn()
    flat = np.zeros(targets.shape, dtype=np.float32)
    found = MultiLabelPredictions(torch.from_numpy(flat), torch.from_numpy(targets))
    entry, _ = judging.assess(found, found, np.zeros(6), "abcdef", 0)
    assert entry["prevalence"]["test"] == pytest.approx(average_precision_score(targets, flat), abs=1e-12)
