"""Scores, intervals, ridge regression and the scaled layer, against independent implementations."""

import math

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn

from finetune.errors import ModelError, SchemaError
from finetune.tasks.regression import conformal, intervals, judging, ridge, scaled
from finetune.tasks.regression.image_regression import ImageRegressionTask
from finetune.tasks.regression.metrics import NumberScores
from finetune.tasks.regression.predictions import NumberPredictions
from finetune.tasks.regression.probe import NumberProbing
from finetune.tasks.regression.scaled import Scale, ScaledLinear


def some(count=200, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    targets = rng.normal(40, 12, count)
    predicted = targets + rng.standard_t(3, count) * 4
    if ties:
        targets, predicted = targets.round(-1), predicted.round(-1)
    return predicted, targets


def expected(predicted, targets):
    return {
        "mae": mean_absolute_error(targets, predicted),
        "rmse": math.sqrt(mean_squared_error(targets, predicted)),
        "r2": r2_score(targets, predicted),
        "spearman": stats.spearmanr(predicted, targets).statistic,
    }


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [2, 3, 200])
def test_scores_are_those_of_scikit_learn_and_scipy(count, ties):
    predicted, targets = some(count, seed=count, ties=ties)
    metric = NumberScores()
    for start in range(0, count, 7):
        metric.update(torch.tensor(predicted[start : start + 7]), torch.tensor(targets[start : start + 7]))
    found = {name: value.item() for name, value in metric.compute().items()}
    wanted = expected(predicted, targets)
    if math.isnan(wanted["spearman"]):
        wanted["spearman"] = 0.0
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_scores_do_not_depend_on_how_images_are_dealt_out():
    predicted, targets = (torch.tensor(values, dtype=torch.float32) for values in some())
    whole, parts = NumberScores(), NumberScores()
    whole.update(predicted, targets)
    for part in torch.split(torch.arange(200), 9):
        parts.update(predicted[part], targets[part])
    parts.update(predicted[:0], targets[:0])  # of a process whose stream has ended
    assert {k: v.item() for k, v in whole.compute().items()} == {k: v.item() for k, v in parts.compute().items()}


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_scores_of_what_does_not_vary_are_numbers():
    metric = NumberScores()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
    found = metric.compute()
    assert (found["r2"].item(), found["spearman"].item()) == (r2_score([3, 3], [1, 2]), 0.0)
    metric.reset()
    metric.update(torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.0]))
    assert metric.compute()["r2"].item() == r2_score([3, 3], [3, 3]) == 1


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrapped_scores_are_those_of_the_drawn_images(ties):
    """The same resamples, drawn one by one and given to scikit-learn and scipy."""
    predicted, targets = some(30, ties=ties)
    found = intervals.bootstrap(predicted, targets, seed=5, resamples=60, level=0.8)
    rows = np.random.default_rng(5).integers(30, size=(60, 30))
    values = [expected(predicted[chosen], targets[chosen]) for chosen in rows]
    for name, ends in found.items():
        wanted = np.quantile([value[name] for value in values], [0.1, 0.9])
        assert ends == pytest.approx(tuple(wanted), rel=1e-9, abs=1e-9), name


def test_the_interval_of_a_difference_is_that_of_the_drawn_images():
    ours, theirs = np.abs(some(40, 1)[0]), np.abs(some(40, 2)[0])
    mean, ends = intervals.paired(ours, theirs, seed=3, resamples=50, level=0.8)
    rows = np.random.default_rng(3).integers(40, size=(50, 40))
    assert mean == pytest.approx((ours - theirs).mean())
    assert ends == pytest.approx(tuple(np.quantile((ours - theirs)[rows].mean(axis=1), [0.1, 0.9])))


# --- ridge regression ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "width"), [(80, 12), (20, 50)])
def test_ridge_is_scikit_learn_s(count, width):
    rng = np.random.default_rng(1)
    features, targets = rng.normal(3, 2, (count, width)), rng.normal(5, 1, count)
    alphas = [1e-2, 1.0, 300.0]
    found = ridge.solve(torch.tensor(features), torch.tensor(targets), alphas)
    for number, alpha in enumerate(alphas):
        theirs = Ridge(alpha=alpha, solver="svd").fit(features, targets)
        assert found.weights[number].numpy() == pytest.approx(theirs.coef_, rel=1e-7, abs=1e-9)
        assert found.biases[number].item() == pytest.approx(theirs.intercept_, rel=1e-7)


def test_the_penalty_is_the_one_that_cross_validation_chooses():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(60, 40)).astype(np.float32)
    targets = features[:, :3].sum(axis=1) + rng.normal(size=60)
    found = ridge.fit(features, targets, seed=4)
    unit = float(((features - features.mean(axis=0)).astype(np.float64) ** 2).sum())
    held_out = ridge.folds(np.zeros(60, dtype=np.int64), ridge.FOLDS, 4)
    errors = []
    for alpha in ridge.ALPHAS:
        models = [
            (Ridge(alpha=alpha * unit).fit(features[held_out != f], targets[held_out != f]), held_out == f)
            for f in range(ridge.FOLDS)
        ]
        errors.append(sum(((of.predict(features[held]) - targets[held]) ** 2).sum() for of, held in models))
    assert 0 < int(np.argmin(errors)) < len(ridge.ALPHAS) - 1
    assert found.strength == pytest.approx(ridge.ALPHAS[int(np.argmin(errors))] * unit, rel=1e-6)
    assert found.chosen_by == "squared error in 5 folds of the training images"


def test_many_images_choose_the_penalty_on_validation():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2_200, 5)).astype(np.float32)
    targets = features.sum(axis=1)
    found = ridge.fit(features[:2_050], targets[:2_050], (features[2_050:], targets[2_050:]))
    assert found.chosen_by == "squared error of 150 validation images"
    assert found.weight[0].numpy() == pytest.approx(np.ones(5), abs=1e-3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.full((9, 2), np.nan), "expected finite features"),
        (np.zeros((4, 2)), "expected at least 5 images, got 4"),
        (np.zeros((9, 2)), "expected features that differ"),
    ],
)
def test_what_cannot_be_fitted_is_said(features, message):
    with pytest.raises(ValueError, match=message):
        ridge.fit(features.astype(np.float32), np.arange(len(features), dtype=np.float64))


def test_a_probe_answers_in_the_dataset_s_unit():
    rng = np.random.default_rng(4)
    features = {role: rng.normal(size=(60, 4)).astype(np.float32) for role in ("train", "validation", "test")}
    targets = {role: (of.sum(axis=1) * 500 + 9000).astype(np.float32) for role, of in features.items()}
    found = NumberProbing(Scale.of(targets["train"])).fit(features, targets, 1, 0, torch.device("cpu"))
    said = found.predictions["test"]
    assert said.values.numpy() == pytest.approx(targets["test"], abs=1)
    assert found.scores["test"]["mae"] == pytest.approx(mean_absolute_error(said.targets, said.values), rel=1e-6)
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(found.probe.weight)
        layer.bias.copy_(found.probe.bias)
    again = ScaledLinear(layer, Scale.of(targets["train"]))(torch.from_numpy(features["test"]))[:, 0]
    assert again.detach().numpy() == pytest.approx(said.values.numpy(), rel=1e-6)


# --- the scaled layer ------------------------------------------------------------------------------------------------


def test_a_layer_that_starts_at_zero_answers_with_the_median():
    scale = Scale.of(np.array([1, 2, 30, 4, 5], np.float32))
    layer = ScaledLinear(nn.Linear(3, 1), scale)
    NumberProbing(scale).start_at_zero(layer)
    assert layer(torch.randn(2, 3)).tolist() == [[pytest.approx(4, rel=1e-6)]] * 2


def test_the_folded_network_gives_the_same_numbers_and_then_is_as_it_was():
    model = timm.create_model("test_efficientnet", num_classes=1).eval()
    names = list(model.state_dict())
    scaled.install(model, Scale(1990.0, 25.0))
    assert list(model.state_dict()) == names
    pixels = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        live = model(pixels)
        layer = model.get_classifier()
        with scaled.folded(model) as plain:
            assert type(plain.get_classifier()) is nn.Linear
            stranger = timm.create_model("test_efficientnet", num_classes=1).eval()
            stranger.load_state_dict(plain.state_dict())
            assert torch.allclose(stranger(pixels), live, rtol=1e-6, atol=1e-4)
        assert model.get_classifier() is layer
        assert torch.equal(model(pixels), live)


def test_half_precision_does_not_round_the_answer():
    layer = ScaledLinear(nn.Linear(4, 1), Scale(1990.0, 25.0))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(torch.randn(5, 4))
    assert found.dtype == torch.float32
    assert len(found.unique()) == 5


def test_a_head_of_several_layers_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Sigmoid())
    with pytest.raises(ModelError, match="the head of Sequential is not one linear layer"):
        scaled.install(model, Scale(1.0, 2.0))


@pytest.mark.parametrize("values", [[], [2.5, 2.5]])
def test_there_is_no_scale_of_a_constant(values):
    with pytest.raises(SchemaError, match="expected numbers that differ, got"):
        Scale.of(np.array(values, np.float32))


def test_the_loss_is_smooth_l1_of_standardised_numbers():
    model = timm.create_model("test_efficientnet", num_classes=1)
    task = ImageRegressionTask(model, mean=100.0, sd=10.0).eval()
    pixels, targets = torch.randn(4, 3, 64, 64), torch.tensor([90.0, 100.0, 110.0, 150.0])
    said = (task(pixels)[:, 0] - 100) / 10
    far = (said - (targets - 100) / 10).abs()
    wanted = torch.where(far < 1, far**2 / 2, far - 0.5).mean()
    assert task.training_loss(pixels, targets).item() == pytest.approx(wanted.item(), rel=1e-5)


# --- intervals for single predictions --------------------------------------------------------------------------------


def test_the_half_width_is_the_quantile_of_lei_and_others():
    errors = np.array([3, -1, 4, -1, 5, -9, 2, -6, 5, 3.5])
    assert conformal.half_width(errors, 0.9) == 9  # the ceil(11 * 0.9) = 10th smallest
    assert conformal.half_width(errors, 0.8) == 6  # the 9th
    assert conformal.half_width(errors[:9], 0.9) == 9
    assert conformal.half_width(errors[:8], 0.9) is None
    assert conformal.coverage(errors, 5) == 0.8


def test_new_images_are_covered_as_often_as_promised():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        width = conformal.half_width(rng.standard_t(3, 39))
        covered.append(conformal.coverage(rng.standard_t(3, 500), width))
    assert 0.89 < np.mean(covered) < 0.92


def test_errors_that_are_not_finite_give_no_interval():
    assert conformal.half_width(np.full(50, np.nan)) is None


def test_the_scores_of_a_weighting_are_those_of_repeated_images():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, 40).astype(np.float32)
    said = truth + rng.normal(size=40).astype(np.float32)
    judged = judging.judged(NumberPredictions(torch.from_numpy(said), torch.from_numpy(truth)))
    assert judged.values == pytest.approx(np.abs(said.astype(float) - truth))
    weights = rng.integers(0, 3, (3, 40))
    scores = judged.scores(weights)
    for row, times in enumerate(weights):
        chosen = np.repeat(np.arange(40), times)
        expected = {
            "mae": mean_absolute_error(truth[chosen], said[chosen]),
            "rmse": math.sqrt(mean_squared_error(truth[chosen], said[chosen])),
            "r2": r2_score(truth[chosen], said[chosen]),
            "spearman": stats.spearmanr(truth[chosen], said[chosen]).statistic,
        }
        assert {name: of[row] for name, of in scores.items()} == pytest.approx(expected, rel=1e-5)
    part = judged.of(np.array([5, 1, 9]))
    assert part.once()["mae"] == pytest.approx(judged.values[[5, 1, 9]].mean())
