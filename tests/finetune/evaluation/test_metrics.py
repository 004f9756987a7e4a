"""The reported numbers, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.utilities import dim_zero_sum

from finetune.evaluation.metrics import ClassificationScores


def draw(classes, count, seed=0, scale=3.0, among=None, never_predicted=()):
    """Random logits and targets; targets only of the classes in `among`."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    logits[:, list(never_predicted)] -= 20
    allowed = torch.tensor(range(classes) if among is None else among)
    return logits, allowed[torch.randint(len(allowed), (count,), generator=generator)]


def ours(logits, targets, *sizes):
    """Scores of the whole, added in batches of `sizes` and a last one of the rest."""
    scores = ClassificationScores(logits.shape[1])
    for start, stop in zip(np.cumsum([0, *sizes]), [*np.cumsum(sizes), len(targets)], strict=True):
        scores.update(logits[start:stop], targets[start:stop])
    return {name: value.item() for name, value in scores.compute().items()}


def theirs(logits, targets):
    """The same from scikit-learn, on the probabilities in float64."""
    classes = list(range(logits.shape[1]))
    probabilities = logits.double().softmax(dim=1).numpy()
    predictions, targets = logits.argmax(dim=1).numpy(), targets.numpy()
    scores = {
        "accuracy": sklearn_metrics.accuracy_score(targets, predictions),
        "macro_f1": sklearn_metrics.f1_score(targets, predictions, average="macro", zero_division=0),
        "balanced_accuracy": sklearn_metrics.recall_score(
            targets, predictions, average="macro", labels=np.unique(targets), zero_division=0
        ),
        "loss": sklearn_metrics.log_loss(targets, probabilities, labels=classes),
    }
    if np.isin(predictions, targets).all() and len(np.unique(targets)) > 1:  # else it warns, and answers the same
        assert scores["balanced_accuracy"] == sklearn_metrics.balanced_accuracy_score(targets, predictions)
    if len(classes) > 5:
        top5 = sklearn_metrics.top_k_accuracy_score(targets, logits.double().numpy(), k=5, labels=classes)
        scores["top5_accuracy"] = top5
    return scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("classes", "count", "options"),
    [
        (2, 101, {}),
        (3, 50, {}),
        (5, 200, {}),
        (6, 200, {}),
        (10, 503, {}),
        (100, 997, {}),
        (1000, 300, {}),  # most classes are among neither targets nor predictions
        (10, 300, {"among": [1, 4, 7]}),  # predicted, never a target
        (10, 300, {"never_predicted": [0, 9]}),  # a target, never predicted
        (10, 300, {"among": [1, 2, 3, 4], "never_predicted": [0, 9, 3]}),  # 0 and 9 nowhere
        (4, 1, {}),
    ],
)
def test_scores_equal_scikit_learns(classes, count, options, seed):
    logits, targets = draw(classes, count, seed, **options)
    assert ours(logits, targets, count // 3, count // 2) == pytest.approx(theirs(logits, targets), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("classes", "present"), [(2, False), (5, False), (6, True), (7, True)])
def test_top5_accuracy_is_given_above_five_classes_only(classes, present):
    assert ("top5_accuracy" in ours(*draw(classes, 20))) is present


def test_top5_counts_the_five_highest():
    logits = torch.arange(7.0).repeat(7, 1)  # the five highest are 2 to 6
    assert ours(logits, torch.arange(7))["top5_accuracy"] == 5 / 7
    assert ours(logits, torch.arange(7))["accuracy"] == 1 / 7


def test_numbers_by_hand():
    """Predicted 0, 0, 1, 1 for 0, 1, 1, 1: F1 2/3 and 4/5, recalls 1 and 2/3; class 2 occurs nowhere."""
    logits = torch.tensor([[2.0, 0, -9], [2, 0, -9], [0, 2, -9], [0, 2, -9]])
    scores = ours(logits, torch.tensor([0, 1, 1, 1]))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2, abs=1e-15)
    assert scores["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)


@pytest.mark.parametrize(
    "sizes", [(1,) * 199, (199,), (1, 198), (7,) * 28, (64, 64, 64), (100, 50, 25, 12, 6)], ids=str
)
def test_any_batching_gives_the_same_numbers(sizes):
    """Counts exactly; the loss is summed in float64, where the order costs its last digit."""
    logits, targets = draw(10, 200)
    whole, batched = ours(logits, targets), ours(logits, targets, *sizes)
    loss = batched.pop("loss")
    assert loss == pytest.approx(whole.pop("loss"), rel=1e-14)
    assert batched == whole


def test_large_logits_have_a_finite_loss():
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    assert ours(logits, torch.tensor([0, 1]))["loss"] == 1e4


def test_sums_of_processes_are_the_numbers_of_the_whole():
    """What torchmetrics does over processes: the states add up."""
    logits, targets = draw(10, 200)
    parts = [ClassificationScores(10), ClassificationScores(10)]
    parts[0].update(logits[:77], targets[:77])
    parts[1].update(logits[77:], targets[77:])
    whole = ClassificationScores(10)
    for name in whole._reductions:
        assert whole._reductions[name] is dim_zero_sum
        setattr(whole, name, getattr(parts[0], name) + getattr(parts[1], name))
    whole._update_count = 2
    got = {name: value.item() for name, value in whole.compute().items()}
    assert got == pytest.approx(ours(logits, targets), rel=1e-14)


def test_reset_forgets_everything():
    scores = ClassificationScores(10)
    scores.update(*draw(10, 100, seed=1))
    scores.compute()
    scores.reset()
    logits, targets = draw(10, 60, seed=2)
    scores.update(logits, targets)
    assert {name: value.item() for name, value in scores.compute().items()} == ours(logits, targets)
    assert all(value.dtype == torch.float64 for value in scores.compute().values())
