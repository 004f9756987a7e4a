"""Bootstrap intervals, against scipy and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from finetune.evaluation.intervals import bootstrap, wilson
from finetune.evaluation.predictions import Predictions


def predictions(targets, labels, classes):
    logits = torch.nn.functional.one_hot(torch.as_tensor(labels), classes).float()
    return Predictions(logits, torch.as_tensor(targets))


def draw(count, classes, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, count, p=weights)
    labels = np.where(rng.random(count) < 0.7, targets, rng.integers(classes, size=count))
    return targets, labels


REFERENCE = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": lambda t, p: metrics.recall_score(t, p, labels=np.unique(t), average="macro", zero_division=0),
    "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro", zero_division=0),
}


@pytest.mark.parametrize(("count", "classes", "weights"), [(150, 4, None), (60, 3, [0.8, 0.15, 0.05])])
def test_intervals_equal_scipys(count, classes, weights):
    """Two sets of resamples: the ends agree within a few standard errors of a quantile."""
    targets, labels = draw(count, classes, weights=weights)
    found = bootstrap(predictions(targets, labels, classes).pairs(), classes, seed=1, resamples=4000)
    assert found.method == "percentile bootstrap over images"
    for name, score in REFERENCE.items():
        theirs = stats.bootstrap(
            (targets, labels),
            score,
            paired=True,
            vectorized=False,
            n_resamples=500,
            method="percentile",
            rng=np.random.default_rng(2),
        )
        error = theirs.standard_error
        assert found.ends[name][0] == pytest.approx(theirs.confidence_interval.low, abs=0.35 * error), name
        assert found.ends[name][1] == pytest.approx(theirs.confidence_interval.high, abs=0.35 * error), name


def test_every_resample_has_the_scores_of_scikit_learn():
    from finetune.evaluation.intervals import weighted

    targets, labels = draw(25, 6, seed=3)  # classes go missing in resamples
    pairs = predictions(targets, labels, 6).pairs()
    drawn = np.random.default_rng(0).multinomial(25, pairs[2] / 25, size=40)
    ours = weighted(drawn, pairs[0], pairs[1], 6)
    for i, counts in enumerate(drawn):
        t, p = np.repeat(pairs[0], counts), np.repeat(pairs[1], counts)
        assert ours[:, i] == pytest.approx([score(t, p) for score in REFERENCE.values()], abs=1e-12)


def test_a_seed_gives_the_same_interval_whatever_the_order_of_the_images():
    targets, labels = draw(200, 5)
    order = np.random.default_rng(1).permutation(200)
    first = bootstrap(predictions(targets, labels, 5).pairs(), 5, seed=7)
    assert bootstrap(predictions(targets[order], labels[order], 5).pairs(), 5, seed=7) == first
    assert bootstrap(predictions(targets, labels, 5).pairs(), 5, seed=8) != first


def test_chunks_of_resamples_are_all_counted():
    """1,500 pairs of 1,000 classes: more than one chunk."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(1000), 2)
    labels = np.where(rng.random(2000) < 0.5, targets, rng.integers(1000, size=2000))
    low, high = bootstrap(predictions(targets, labels, 1000).pairs(), 1000).ends["accuracy"]
    share, half = (targets == labels).mean(), 1.96 * np.sqrt(0.25 / 2000)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.15 * half)


def test_all_right_is_not_certain():
    targets = np.array([0] * 30 + [1] * 6)
    found = bootstrap(predictions(targets, targets, 3).pairs(), 3)
    assert found.ends["accuracy"] == wilson(1, 36)
    # A mean of two shares has the variance of one share of 4 / (1/30 + 1/6) = 20 images.
    assert found.ends["balanced_accuracy"] == found.ends["macro_f1"] == pytest.approx(wilson(1, 20), abs=1e-12)
    assert "all right" in found.method


def test_all_wrong_is_not_certain():
    found = bootstrap(predictions(np.zeros(9, int), np.ones(9, int), 2).pairs(), 2)
    assert found.ends["accuracy"] == wilson(0, 9)
    assert "all wrong" in found.method


def test_intervals_cover_the_truth():
    """Of 200 samples of 150 images from a classifier of known accuracy, about 95 % of the intervals hold it."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        targets = rng.integers(4, size=150)
        labels = np.where(rng.random(150) < 0.8, targets, (targets + 1) % 4)
        low, high = bootstrap(predictions(targets, labels, 4).pairs(), 4, resamples=500).ends["accuracy"]
        held += low <= 0.8 <= high
    assert 180 <= held <= 199


def test_pairs_are_the_confusion_matrix():
    targets, labels = draw(300, 7)
    rows, columns, counts = predictions(targets, labels, 7).pairs()
    matrix = np.zeros((7, 7), int)
    matrix[rows, columns] = counts
    assert (matrix == metrics.confusion_matrix(targets, labels, labels=range(7))).all()
    assert all(counts > 0)
    assert list(zip(rows, columns, strict=True)) == sorted(
        set(itertools.product(range(7), repeat=2)) & set(zip(targets.tolist(), labels.tolist(), strict=True))
    )
