"""Classes of unequal size: the loss against numpy and scikit-learn, the balanced sampler, what is said and kept."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from finetune import ImageClassificationTask
from finetune.errors import ConfigError
from finetune.loading.sampler import TrainBatches, balanced
from finetune.training.imbalance import ImbalanceLoss, class_shares, class_weights, ratio, summary

COUNTS = [70, 6, 24]
LABELS = np.repeat([0, 1, 2], COUNTS)
REMEDIES = ["none", "class-weights", "logit-adjustment"]


# --- the loss --------------------------------------------------------------------------------------------------------


def softmax_log(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def expected(logits, soft, remedy, smoothing):
    """The definitions in numpy, image by image, for targets `soft` that are not smoothed yet."""
    prior = np.array(COUNTS) / sum(COUNTS)
    losses = []
    for row, target in zip(logits, soft, strict=True):
        if remedy == "logit-adjustment":
            smoothed = (1 - smoothing) * target + smoothing * prior
            losses.append(-(smoothed * softmax_log((row + np.log(prior))[None])[0]).sum())
            continue
        weight = compute_class_weight("balanced", classes=np.arange(3), y=LABELS) @ target
        plain = -(((1 - smoothing) * target + smoothing / 3) * softmax_log(row[None])[0]).sum()
        losses.append(plain * (weight if remedy == "class-weights" else 1))
    return np.mean(losses)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("remedy", REMEDIES)
def test_losses_are_what_they_are_defined_as(remedy, smoothing, mixed):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(11, 3)) * 3, rng.integers(0, 3, 11)
    soft = np.eye(3)[targets]
    if mixed:
        soft = 0.3 * soft + 0.7 * soft[::-1]
    loss = ImbalanceLoss(COUNTS, remedy, smoothing)
    got = loss(torch.from_numpy(logits), torch.from_numpy(soft if mixed else targets))
    assert got.item() == pytest.approx(expected(logits, soft, remedy, smoothing), rel=1e-6)


@pytest.mark.parametrize("remedy", REMEDIES)
def test_unequal_shares_of_a_batch_add_up_to_its_loss(remedy):
    """Weights are not normalised within a share, so processes and accumulation make no difference."""
    torch.manual_seed(0)
    logits, targets = torch.randn(13, 3).double(), torch.randint(0, 3, (13,))
    loss = ImbalanceLoss(COUNTS, remedy, 0.1)
    parts = [loss(logits[a:b], targets[a:b]) * (b - a) / 13 for a, b in ((0, 7), (7, 11), (11, 13))]
    assert sum(parts).item() == pytest.approx(loss(logits, targets).item(), rel=1e-7)


def test_weights_average_to_one_over_the_training_split_and_absent_classes_have_none():
    assert class_weights(COUNTS)[LABELS].mean().item() == pytest.approx(1)
    with_absent = class_weights([70, 0, 6, 24])
    assert with_absent[1] == 0
    assert with_absent[[0, 2, 3]].tolist() == class_weights(COUNTS).tolist()


@pytest.mark.parametrize("remedy", ["class-weights", "logit-adjustment"])
def test_a_class_without_training_images_does_no_harm(remedy):
    loss = ImbalanceLoss([5, 0, 3], remedy, 0.1)
    logits = torch.randn(4, 3, requires_grad=True)
    value = loss(logits, torch.tensor([0, 2, 2, 0]))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_class_weights_train_what_scikit_learn_trains():
    """Down to the optimum of a linear classifier, with scikit-learn's regularisation."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(100, 4)) + LABELS[:, None] * np.array([0.6, -0.4, 0.2, 0])
    reference = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=1000).fit(features, LABELS)
    linear = nn.Linear(4, 3).double()
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )
    inputs, targets, loss = torch.from_numpy(features), torch.from_numpy(LABELS), ImbalanceLoss(COUNTS, "class-weights")

    def closure():
        optimizer.zero_grad()
        value = 100 * loss(linear(inputs), targets) + 0.5 * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        got = linear(inputs).softmax(dim=1).numpy()
    assert np.abs(got - reference.predict_proba(features)).max() < 1e-4


@pytest.mark.parametrize("remedy", ["none", "logit-adjustment"])
def test_adjusted_logits_forget_how_frequent_the_classes_were(remedy):
    """On features that say nothing the best plain logits are the class shares; adjusted ones are equal, also smoothed.

    With label smoothing spread uniformly, a rare class would win here.
    """
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
    targets, loss = torch.from_numpy(LABELS), ImbalanceLoss(COUNTS, remedy, 0.3)

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand(100, 3), targets)
        value.backward()
        return value

    optimizer.step(closure)
    found = logits.detach().softmax(dim=0)
    shares = class_shares(COUNTS).double()
    wanted = torch.full((3,), 1 / 3).double() if remedy == "logit-adjustment" else 0.7 * shares + 0.1
    assert torch.allclose(found, wanted, atol=1e-4)


def test_rarest_classes_do_not_win_on_images_of_the_largest():
    """One-to-one features, 1000:1: the best logits are known, and the largest class keeps its images."""
    counts = [10000, 10, 1000]
    loss, targets = ImbalanceLoss(counts, "logit-adjustment", 0.1), torch.arange(3)
    logits = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(logits, targets)
        value.backward()
        return value

    optimizer.step(closure)
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]


def test_the_task_takes_the_remedy_in_training_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    task = ImageClassificationTask(model, num_classes=3, imbalance="class-weights", class_counts=COUNTS)
    assert task.loss.weights.tolist() == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(3), y=LABELS).tolist()
    )
    assert not [name for name in task.state_dict() if name.startswith("loss")]  # checkpoints stay as they were
    pixels, targets = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 1, 2, 0])
    task._evaluate((pixels, targets), "val")
    plain = nn.functional.cross_entropy(task(pixels).double(), targets)
    assert task.scores["val"].compute()["loss"].item() == pytest.approx(plain.item())
    with pytest.raises(
        ConfigError, match=r"needs class_counts, the training images of each of the 3 classes, got None"
    ):
        ImageClassificationTask(model, num_classes=3, imbalance="logit-adjustment")


# --- the balanced sampler --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_has_every_class_equally_often_and_is_as_long(epoch):
    sampler = TrainBatches(100, 16, seed=3, balance=LABELS)
    sampler.set_epoch(epoch)
    items = [item for batch in sampler for item in batch]
    counts = np.bincount(LABELS[[index for _, index in items]])
    assert len(items) == 100
    assert counts.max() - counts.min() <= 1
    assert len(set(items)) == 100  # an image that comes again is augmented anew


def test_images_of_a_class_are_used_equally_often_over_the_training_and_never_augmented_alike():
    items = np.concatenate([balanced(LABELS, seed=3, epoch=epoch) for epoch in range(7)])
    assert len({tuple(item) for item in items.tolist()}) == len(items) == 700
    used = np.bincount(items[:, 1], minlength=100)
    for label in range(3):
        of_class = used[LABELS == label]
        assert of_class.max() - of_class.min() <= 1
        assert abs(of_class.sum() - 700 / 3) < 1


def test_balanced_images_come_in_random_order_another_one_each_time():
    items = balanced(LABELS, seed=3, epoch=0)
    orders = [items[(LABELS[items[:, 1]] == 1) & (items[:, 0] == visit), 1].tolist() for visit in range(5)]
    assert len({tuple(order) for order in orders}) == 5  # equal ones are as likely as 1 in 72
    assert all(sorted(order) == list(range(70, 76)) for order in orders)
    of_epoch = LABELS[[index for batch in TrainBatches(100, 16, seed=3, balance=LABELS) for _, index in batch]]
    assert np.count_nonzero(np.diff(of_epoch)) > 40  # classes do not come one after the other


@pytest.mark.parametrize("world", [2, 3])
def test_balanced_steps_have_the_same_images_on_every_number_of_processes_and_after_a_resume(world):
    alone = TrainBatches(100, 20, seed=3, balance=LABELS)
    alone.set_epoch(4)
    parts = [TrainBatches(100, 20, 3, rank, world, epoch=4, start=2, balance=LABELS) for rank in range(world)]
    shared = [[item for share in step for item in share] for step in zip(*parts, strict=True)]
    assert shared == list(alone)[2:]
    alone.set_epoch(5)
    assert list(alone)[2:] != shared


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "remedy", "line"),
    [
        ([20, 20, 20], "none", "class ratio 1:1"),
        ([30, 20, 24], "none", "class ratio 1.5:1 (30 training images of a, 20 of b)"),
        (
            [70, 6, 24],
            "none",
            "class ratio 11.7:1 (70 training images of a, 6 of b): if rare classes matter as much as frequent ones, "
            "try --imbalance logit-adjustment",
        ),
        (
            [70, 0, 7],
            "class-weights",
            "class ratio 10:1 (70 training images of a, 7 of c); 1 of 3 classes have no training image; "
            "--imbalance class-weights",
        ),
    ],
)
def test_the_ratio_is_said_in_one_line(counts, remedy, line):
    assert summary(counts, ["a", "b", "c"], remedy) == line
    assert ratio(counts) == max(counts) / min(count for count in counts if count)
