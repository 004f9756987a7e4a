"""Votes of neighbours and out-of-fold probabilities against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from finetune.networks import neighbours, out_of_fold
from finetune.networks.linear_probe import STRENGTHS, folds


def clusters(images=240, width=12, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    centres = rng.normal(0, 1, (classes, width))
    return (centres[labels] + rng.normal(0, 0.9, (images, width))).astype(np.float32), labels


def test_votes_are_scikit_learn_s():
    values, labels = clusters()
    model = neighbours.fit(values[:200], labels[:200], 4, counts=(5,))
    centred = values - values[:200].mean(axis=0)
    scaled = centred / np.linalg.norm(centred, axis=1, keepdims=True)

    def weights(distances):
        return np.exp((1 - distances) / neighbours.TEMPERATURE)

    theirs = KNeighborsClassifier(5, metric="cosine", weights=weights).fit(scaled[:200], labels[:200])
    shares = theirs.predict_proba(scaled[200:])
    expected = (1 - neighbours.FLOOR) * shares + neighbours.FLOOR / 4
    np.testing.assert_allclose(model.logits(values[200:]).exp().numpy(), expected, atol=1e-4)


def test_the_number_of_votes_is_chosen_without_the_image_itself():
    values, labels = clusters()
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(240) < 0.3, rng.integers(0, 4, 240), labels)  # itself, a neighbour is always right
    assert neighbours.fit(values, noisy, 4, counts=(1, 10)).count == 10


def test_no_image_is_its_own_neighbour():
    values, _ = clusters()
    close = neighbours.nearest(values, 3)
    assert close.shape == (240, 3)
    assert (close != np.arange(240)[:, None]).all()


def test_out_of_fold_probabilities_are_those_of_probes_of_the_other_folds():
    values, labels = clusters(120)
    found = out_of_fold.probabilities(values, labels, 5, seed=3)
    assert found.shape == (120, 5)
    assert (found[:, 4] == 0).all()  # a class without images
    numbers, centred = folds(labels, out_of_fold.FOLDS, 3), values - values.mean(axis=0)
    unit = 1 / centred.var(axis=0).sum()

    def theirs(strength):
        made = np.zeros((120, 4))
        for fold in range(out_of_fold.FOLDS):
            model = LogisticRegression(C=strength * unit, tol=1e-8, max_iter=2000)
            model.fit(values[numbers != fold], labels[numbers != fold])
            made[numbers == fold] = model.predict_proba(values[numbers == fold])
        return made

    near = min(np.abs(theirs(strength) - found[:, :4]).max() for strength in STRENGTHS[:8])
    assert near < 0.02


def test_random_labels_cannot_be_told():
    values, _ = clusters(300)
    labels = np.random.default_rng(5).integers(0, 4, 300)
    found = out_of_fold.probabilities(values, labels, 4)
    assert (found.argmax(axis=1) == labels).mean() < 0.4


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="expected images of at least two classes"):
        out_of_fold.probabilities(np.ones((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int64), 2)
