"""The linear probe against scikit-learn."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from finetune.networks import linear_probe
from finetune.training import imbalance


def features(images, width, classes, seed=0):
    """Noisy clusters of unequal size, far from the origin and of unequal spread in each direction."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(classes, images, p=np.arange(1, classes + 1) / sum(range(classes + 1))))
    labels[:classes] = np.arange(classes)
    centres = rng.normal(0, 1, (classes, width))
    spread = np.geomspace(3, 0.1, width)
    return (20 + (centres[labels] + rng.normal(0, 2, (images, width))) * spread).astype(np.float32), labels


def theirs(values, labels, strength, weight=None):
    """scikit-learn's logits, which may be shifted by a number an image, and for two classes are the second's alone."""
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    model.fit(values.astype(np.float64), labels, sample_weight=weight)
    found = model.decision_function(values.astype(np.float64))
    return np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found - found.mean(axis=1, keepdims=True)


def centred(logits):
    logits = logits.double().numpy()
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(("images", "width", "classes"), [(60, 100, 3), (300, 20, 2), (300, 40, 10), (40, 39, 2)])
def test_the_optimum_is_scikit_learns(images, width, classes):
    values, labels = features(images, width, classes)
    probe = linear_probe.fit(values, labels, classes)
    np.testing.assert_allclose(centred(probe.logits(values)), theirs(values, labels, probe.strength), atol=1e-3)
    assert probe.images == images


def test_with_weights_of_the_classes():
    values, labels = features(200, 30, 4)
    counts = np.bincount(labels).tolist()
    probe = linear_probe.fit(values, labels, 4, class_weights=imbalance.class_weights(counts))
    balanced = compute_sample_weight("balanced", labels)
    np.testing.assert_allclose(
        centred(probe.logits(values)), theirs(values, labels, probe.strength, balanced), atol=1e-3
    )
    plain = linear_probe.fit(values, labels, 4)
    assert np.abs(centred(plain.logits(values)) - centred(probe.logits(values))).max() > 0.05


def test_logit_adjustment_is_taken_out_of_the_bias():
    """The loss of adjusted logits has its optimum where the adjusted ones are the plain optimum."""
    values, labels = features(200, 30, 4)
    plain = linear_probe.fit(values, labels, 4)
    probe = imbalance.unadjusted(plain, labels, "logit-adjustment")
    shares = np.bincount(labels) / len(labels)
    torch.testing.assert_close(probe.bias + torch.from_numpy(np.log(shares)), plain.bias, rtol=0, atol=1e-6)
    assert imbalance.unadjusted(plain, labels, "class-weights") is plain


def test_the_strength_is_the_best_in_cross_validation():
    values, labels = features(150, 12, 3)
    probe = linear_probe.fit(values, labels, 3, seed=5)
    numbers = linear_probe.folds(labels, 5, seed=5)
    unit = 1 / values.astype(np.float64).var(axis=0).sum()

    def loss(strength):
        total = 0.0
        for fold in range(5):
            rest, held = numbers != fold, numbers == fold
            model = LogisticRegression(C=strength * unit, tol=1e-8, solver="newton-cholesky").fit(
                values[rest].astype(float), labels[rest]
            )
            total += log_loss(labels[held], model.predict_proba(values[held]), normalize=False)
        return total

    losses = {strength: loss(strength) for strength in linear_probe.STRENGTHS}
    assert probe.strength == pytest.approx(min(losses, key=losses.get) * unit)
    assert probe.chosen_by == "cross-entropy in 5 folds of the training images"


def test_the_strength_of_many_is_chosen_on_validation(monkeypatch):
    values, labels = features(150, 12, 3)
    others, other_labels = features(150, 12, 3, seed=1)
    monkeypatch.setattr(linear_probe, "LARGEST_CROSS_VALIDATED", 149)
    probe = linear_probe.fit(values, labels, 3, (others, other_labels))
    unit = 1 / values.astype(np.float64).var(axis=0).sum()

    def loss(strength):
        model = LogisticRegression(C=strength * unit, tol=1e-8, solver="newton-cholesky").fit(
            values.astype(float), labels
        )
        return log_loss(other_labels, model.predict_proba(others))

    losses = {strength: loss(strength) for strength in linear_probe.STRENGTHS}
    assert probe.strength == pytest.approx(min(losses, key=losses.get) * unit)
    assert probe.chosen_by == "cross-entropy of 150 validation images"
    few = linear_probe.fit(values, labels, 3, (others[:99], other_labels[:99]))
    assert few.chosen_by.endswith("of the training images")


def test_a_class_without_images_is_the_least_likely():
    values, labels = features(100, 20, 3)
    whole = linear_probe.fit(values, labels, 3)
    gap = np.array([0, 2, 4])[labels]
    probe = linear_probe.fit(values, gap, 5)
    logits = probe.logits(values)
    torch.testing.assert_close(logits[:, [0, 2, 4]], whole.logits(values))
    assert torch.isfinite(logits).all()
    assert set(logits.argmax(dim=1).tolist()) <= {0, 2, 4}


def test_folds_have_their_share_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 23, 7])
    numbers = linear_probe.folds(labels, 5, seed=0)
    for label, count in enumerate((50, 23, 7)):
        found = np.bincount(numbers[labels == label], minlength=5)
        assert found.sum() == count
        assert found.max() - found.min() <= 1
    assert (linear_probe.folds(labels, 5, seed=0) == numbers).all()
    assert (linear_probe.folds(labels, 5, seed=1) != numbers).any()


def test_the_same_again():
    values, labels = features(100, 20, 3)
    one, other = (linear_probe.fit(values, labels, 3) for _ in range(2))
    assert dataclasses.replace(one, weight=None, bias=None) == dataclasses.replace(other, weight=None, bias=None)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (
            np.zeros((4, 2, 2), np.float32),
            [0, 1, 0, 1],
            r"expected finite features \[N, D\] of N labels, got \(4, 2, 2\)",
        ),
        (np.full((4, 2), np.nan, np.float32), [0, 1, 0, 1], r"expected finite features .* got \(4, 2\) and 4"),
        (np.zeros((4, 2), np.float32), [1, 1, 1, 1], "expected images of at least two classes, got those of one"),
    ],
)
def test_what_cannot_be_fitted(values, labels, message):
    with pytest.raises(ValueError, match=message):
        linear_probe.fit(values, np.array(labels), 3)


def test_features_that_do_not_differ_give_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    probe = linear_probe.fit(np.ones((100, 4), np.float32), labels, 3)
    shares = probe.logits(np.ones((1, 4), np.float32)).softmax(dim=1)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.3, 0.2]]), rtol=1e-4, atol=1e-4)
