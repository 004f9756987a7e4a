"""Losses, mixtures and the probe of several classes an image."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from finetune import RunConfig
from finetune.errors import ConfigError
from finetune.networks import one_vs_rest
from finetune.tasks.multi_label import learning, losses
from finetune.tasks.multi_label.module import MultiLabelTask
from finetune.tasks.multi_label.probe import MultiLabelProbing


def batch(dtype=torch.float32, count=8, classes=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator).mul(3).to(dtype)
    return logits, (torch.rand(count, classes, generator=generator) < 0.4).float()


def test_binary_cross_entropy_is_pytorch_s():
    logits, targets = batch()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(losses.MultiLabelLoss()(logits, targets), expected, atol=1e-6)
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0, 10.0])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    assert torch.allclose(losses.MultiLabelLoss("bce", weights)(logits, targets), expected, atol=1e-6)


def test_the_asymmetric_loss_is_the_paper_s():
    logits, targets = batch(torch.float64)
    p = logits.sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    positive, negative = (1 - p) * p.log(), shifted**4 * (1 - shifted).log()
    expected = -(targets * positive + (1 - targets) * negative).mean()
    assert torch.allclose(losses.MultiLabelLoss("asymmetric")(logits, targets), expected, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda values: losses.MultiLabelLoss("asymmetric")(values, targets), logits.clone().requires_grad_()
    )


@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_losses_are_computed_in_float32_and_touch_nothing_else(kind):
    logits, targets = batch(torch.bfloat16)
    logits = (logits * 20).requires_grad_()
    loss = losses.MultiLabelLoss(kind)(logits, targets)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        losses.MultiLabelLoss(kind)(logits, targets)
        assert not torch.is_grad_enabled()
    loss.backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_what_is_unknown_has_no_gradient_and_parts_add_up(kind):
    logits, targets = batch(torch.float64)
    targets[2, 1] = targets[5] = float("nan")
    logits.requires_grad_()
    loss = losses.MultiLabelLoss(kind)
    whole = loss(logits, targets)
    whole.backward()
    assert logits.grad[2, 1] == 0
    assert (logits.grad[5] == 0).all()
    assert (logits.grad[2, 0] != 0).all()
    parts = (2 * loss(logits[:2], targets[:2]) + 6 * loss(logits[2:], targets[2:])) / 8
    assert torch.allclose(parts, whole, atol=1e-12)


def test_positive_weights_are_negatives_over_positives_within_bounds():
    found = losses.positive_weights([25, 80, 1, 0], [100, 100, 100, 100])
    assert found.tolist() == pytest.approx([3.0, 0.25, 10.0, 1.0])


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixtures_mix_all_classes_and_keep_unknown_ones_unknown(options):
    task = MultiLabelTask(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)), 3, **options)
    seen = {}
    task.loss.forward = lambda logits, shares: seen.update(shares=shares) or logits.sum()
    targets = torch.tensor([[1, 0, -1], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.int8)
    torch.manual_seed(0)
    task.training_loss(torch.rand(4, 3, 8, 8), targets)
    shares = seen["shares"]
    other = targets.roll(1, 0)
    assert torch.equal(shares.isnan(), (targets < 0) | (other < 0))
    both = torch.maximum(targets, other).float()
    known = ~shares.isnan()
    assert (shares[known] <= both[known]).all()
    assert ((shares[known] > 0) & (shares[known] < 1)).any()


def test_the_bias_starts_at_the_prior():
    probing = MultiLabelProbing(np.array([10, 0, 50]), np.array([90, 100, 50]))
    layer = nn.Linear(4, 3)
    probing.start_at_zero(layer)
    assert not layer.weight.any()
    assert layer.bias.sigmoid().tolist() == pytest.approx([0.1, 0.5 / 100.5, 0.5], abs=1e-6)


def problem(count=160, width=12, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width)).astype(np.float32)
    scores = features @ rng.normal(size=(width, classes)) + 2 * rng.normal(size=(count, classes)) - 1
    return features, (scores > 0).astype(np.int8)


def test_the_probe_is_scikit_learn_s():
    features, targets = problem()
    targets[np.random.default_rng(1).random(targets.shape) < 0.2] = -1
    groups = np.zeros(len(targets), dtype=np.int64)
    found = one_vs_rest.fit(features, targets, groups)
    for label in range(4):
        known = targets[:, label] >= 0
        expected = LogisticRegression(C=found.strength, tol=1e-10, max_iter=10_000)
        expected.fit(features[known].astype(np.float64), targets[known, label])
        assert found.weight[label].numpy() == pytest.approx(expected.coef_[0], abs=1e-5)
        assert found.bias[label].item() == pytest.approx(expected.intercept_[0], abs=1e-5)


def test_the_probe_weights_positives_as_scikit_learn_does():
    features, targets = problem()
    weights = torch.tensor([0.5, 1.0, 4.0, 2.0])
    found = one_vs_rest.fit(features, targets, np.zeros(len(targets), dtype=np.int64), weights)
    for label in range(4):
        expected = LogisticRegression(C=found.strength, tol=1e-10, max_iter=10_000, class_weight={1: weights[label]})
        expected.fit(features.astype(np.float64), targets[:, label])
        assert found.weight[label].numpy() == pytest.approx(expected.coef_[0], abs=1e-5)


def test_a_class_that_tells_nothing_apart_gets_its_share():
    features, targets = problem()
    targets[:, 1], targets[:, 2] = 0, 1
    found = one_vs_rest.fit(features, targets, np.zeros(len(targets), dtype=np.int64))
    assert not found.weight[1:3].any()
    assert found.bias[1] == pytest.approx(np.log(0.5 / 160))
    assert found.bias[2] == pytest.approx(np.log(160 / 0.5))
    with pytest.raises(ValueError, match="a class that some images show and others do not"):
        one_vs_rest.fit(features, targets * 0, np.zeros(len(targets), dtype=np.int64))


def test_the_remedies_of_one_class_an_image_are_refused():
    for remedy in ("logit-adjustment", "balanced-sampler"):
        config = RunConfig(model="resnest14d", dataset="digits", imbalance=remedy).resolved()
        with pytest.raises(ConfigError, match=rf"--imbalance {remedy} is for one class an image.*class-weights"):
            learning.preset(config)
    config = RunConfig(model="resnest14d", dataset="digits", imbalance="class-weights").resolved()
    assert learning.preset(config) == {"label_smoothing": 0.0, "crop_scale": 0.8}
    config = RunConfig(model="resnest14d", dataset="digits", freeze="backbone").resolved()
    assert "crop_scale" not in learning.preset(config)  # else features could not be computed once
    with pytest.raises(ConfigError, match="is for one class an image"):
        MultiLabelTask(nn.Flatten(), 3, imbalance="logit-adjustment")
    with pytest.raises(ConfigError, match="needs class_counts and known_counts of 3 classes, got None"):
        MultiLabelTask(nn.Flatten(), 3, imbalance="class-weights")
