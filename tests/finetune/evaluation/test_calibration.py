"""Temperature and calibration error, against scipy and a plain loop."""

import numpy as np
import pytest
import torch
from scipy import optimize, special
from sklearn.metrics import log_loss

from finetune.evaluation import calibration
from finetune.evaluation.predictions import Predictions


def draw(count=300, classes=5, scale=1.0, seed=0):
    """Logits from which the targets are drawn at temperature 1; then multiplied by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return Predictions(scale * logits, targets)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("count", "classes"), [(12, 3), (300, 5), (500, 40), (9000, 2)])
def test_temperature_is_scipys(count, classes, scale):
    found = draw(count, classes, scale)
    logits, targets = found.logits.double().numpy(), found.targets.numpy()

    def loss(inverse):
        return -special.log_softmax(inverse * logits, axis=1)[np.arange(count), targets].mean()

    theirs = optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    ours = calibration.fit_temperature(found)
    assert ours.note is None
    assert 1 / ours.value == pytest.approx(theirs.x, rel=1e-5)


def test_temperature_undoes_a_scale():
    assert calibration.fit_temperature(draw(20_000, 5, scale=2.0)).value == pytest.approx(2.0, rel=0.05)


def test_separated_images_say_nothing():
    found = draw(40)
    right = Predictions(found.logits, found.labels)
    fitted = calibration.fit_temperature(right)
    assert fitted.value == 1
    assert "every validation image is right" in fitted.note


@pytest.mark.parametrize(("scale", "bound"), [(1e-3, 0.1), (1e3, 10.0)])
def test_a_root_far_away_gives_the_bound(scale, bound):
    fitted = calibration.fit_temperature(draw(200, scale=scale))
    assert fitted.value == bound
    assert f"bound of {bound:g}" in fitted.note


def test_logits_that_point_the_wrong_way_give_the_upper_bound():
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert calibration.fit_temperature(Predictions(logits, torch.ones(3, dtype=torch.int64))).value == 10


def test_what_cannot_be_fitted_is_not():
    assert calibration.fit_temperature(Predictions(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))) is None
    broken = Predictions(torch.tensor([[float("nan"), 1.0]]), torch.tensor([1]))
    assert calibration.fit_temperature(broken) is None


def test_one_image_is_enough_not_to_fail():
    wrong = Predictions(torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([1]))
    assert 0.1 <= calibration.fit_temperature(wrong).value <= 10


@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
def test_error_is_that_of_the_definition(temperature):
    found = draw(400, 10, scale=1.7)
    probabilities = special.softmax(found.logits.double().numpy() / temperature, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == found.targets.numpy()
    error = 0.0
    for k in range(15):
        inside = (confidence >= k / 15) & ((confidence < (k + 1) / 15) | (k == 14))
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration.calibration_error(found, temperature) == pytest.approx(error, abs=1e-6)


def test_certain_confidences_share_the_last_bin():
    """0.95 that is right and 1.0 that is wrong: together 0.475 off, in two bins 0.525."""
    logits = torch.tensor([[np.log(19.0), 0.0], [200.0, 0.0]], dtype=torch.float32)
    found = Predictions(logits, torch.tensor([0, 1]))
    assert calibration.calibration_error(found) == pytest.approx(0.475, abs=1e-6)


def test_loss_is_scikit_learns():
    found = draw(100, 4)
    probabilities = special.softmax(found.logits.double().numpy() / 0.5, axis=1)
    assert calibration.mean_loss(found, 0.5) == pytest.approx(log_loss(found.targets, probabilities), rel=1e-12)


def test_summary_names_the_note_only_where_there_is_one():
    found = draw(50)
    plain = calibration.summary(found, calibration.Temperature(2.0))
    assert set(plain) == {"temperature", "fitted_on", "bins", "test"}
    assert plain["test"]["loss_calibrated"] == calibration.mean_loss(found, 2.0)
    assert calibration.summary(found, calibration.Temperature(1.0, "why"))["note"] == "why"
