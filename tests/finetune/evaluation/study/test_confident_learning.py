"""Confident learning by hand, and against its authors' own code."""

import numpy as np
import pytest

from finetune.evaluation.study import confident_learning


def noisy(images=600, classes=4, seed=0):
    """Labels of which a tenth is wrong, and probabilities of a fair classifier."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes)) + 3 * np.eye(classes)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = rng.random(images) < 0.1
    labels = np.where(wrong, (true + rng.integers(1, classes, images)) % classes, true)
    return labels, probabilities, wrong


def test_the_confident_joint_is_cleanlab_s():
    count = pytest.importorskip("cleanlab.count", reason="compared with cleanlab where it is installed")
    labels, probabilities, _ = noisy()
    joint, places = count.compute_confident_joint(
        labels, probabilities, calibrate=False, return_indices_of_off_diagonals=True
    )
    found = confident_learning.find(labels, probabilities)
    np.testing.assert_array_equal(found.joint - np.diag(np.diag(found.joint)), joint - np.diag(np.diag(joint)))
    assert np.flatnonzero(found.off).tolist() == sorted(places)


def test_the_ranking_is_cleanlab_s_normalized_margin():
    rank = pytest.importorskip("cleanlab.rank", reason="compared with cleanlab where it is installed")
    labels, probabilities, _ = noisy()
    scores = rank.get_normalized_margin_for_each_label(labels, probabilities)
    np.testing.assert_allclose(2 * scores - 1, confident_learning.find(labels, probabilities).margin, atol=1e-9)


def test_planted_errors_come_first_and_are_counted():
    labels, probabilities, wrong = noisy()
    found = confident_learning.find(labels, probabilities)
    assert wrong[found.order[: wrong.sum()]].mean() > 0.75
    assert 0.4 * wrong.sum() < found.likely.sum() < 1.4 * wrong.sum()
    assert wrong[found.likely].mean() > 0.75


def test_by_hand():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    found = confident_learning.find(labels, probabilities)
    # Thresholds: class 0 (0.9 + 0.1) / 2 = 0.5, class 1 (0.8 + 0.6) / 2 = 0.7.
    assert found.joint.tolist() == [[1, 1], [0, 1]]
    assert found.order.tolist() == [1, 3, 2, 0]
    assert found.likely.tolist() == [False, True, False, False]
    assert found.suggested.tolist() == [1, 1, 0, 0] or found.suggested.tolist() == [1, 0, 0, 0]


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="expected labels of 2 images from 0 to 1, got 3"):
        confident_learning.find(np.array([0, 1, 1]), np.full((2, 2), 0.5))
