"""The power law is recovered, its interval covers what it should, and its sentence says what it means."""

import json

import numpy as np
import pytest

from finetune.evaluation.study import learning_curve, power_law
from finetune.evaluation.study.learning_curve import Curve

SIZES = (100, 250, 500, 1000)


def measured(law, images=2000, seed=0, draws=3):
    """Right and wrong answers whose shares follow a law; images differ in difficulty, as they do."""
    rng = np.random.default_rng(seed)
    hard = rng.random(images)
    c, a, b = law
    each = []
    for size in SIZES:
        count = 1 if size == SIZES[-1] else draws
        share = c + a * size**-b
        each.append([(hard + 0.1 * rng.normal(0, 1, images) > share).astype(float) for _ in range(count)])
    return each


def test_exact_points_give_their_law():
    errors = np.array([[0.02 + 3.0 * size**-0.5] for size in SIZES])
    laws = power_law.fit(np.array(SIZES, dtype=float), errors, np.ones(4))
    np.testing.assert_allclose(laws[:, 0], (0.02, 3.0, 0.5), rtol=0.02)


def test_errors_that_do_not_fall_promise_nothing():
    found = learning_curve.fit(SIZES, [[np.r_[np.ones(80), np.zeros(20)]]] * 4)
    assert found.law.values[1] * SIZES[-1] ** -found.law.values[2] == pytest.approx(0, abs=1e-6)
    assert found.gain[0] == pytest.approx(0, abs=1e-6)
    assert "would help little" in found.sentence()


def test_the_interval_of_twice_the_images_covers():
    law = (0.02, 3.0, 0.5)
    truth = 3.0 * (1000**-0.5 - 2000**-0.5)
    inside, runs = 0, 40
    for seed in range(runs):
        low, high = learning_curve.fit(SIZES, measured(law, seed=seed), seed=seed, resamples=200).gain[1]
        inside += low <= truth <= high
    assert inside >= 0.8 * runs


def test_the_interval_is_wider_where_trainings_differ_by_more_than_the_test_images_say():
    """Every training has a chance of its own, as real ones have, and 20,000 test images would hide it."""
    law, inside, narrow, runs = (0.02, 3.0, 0.5), 0, 0, 60
    truth = 3.0 * (1000**-0.5 - 2000**-0.5)
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        now = np.array([1 - law[0] - law[1] * size ** -law[2] for size in SIZES]) + rng.normal(0, 0.02, 4)
        drawn = now[:, None] + rng.normal(0, 0.002, (4, 100))
        low, high = learning_curve.of_scores(SIZES, now, drawn, seed=seed).gain[1]
        inside += low <= truth <= high
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(power_law, "unexplained", lambda *_: np.zeros(4))
            low, high = learning_curve.of_scores(SIZES, now, drawn, seed=seed).gain[1]
            narrow += low <= truth <= high
    assert narrow < 0.5 * runs
    assert inside > narrow + 0.2 * runs


def test_points_on_the_law_leave_nothing_unexplained():
    errors = np.array([0.02 + 3.0 * size**-0.5 for size in SIZES])
    counts, weight = np.array(SIZES, dtype=float), np.full(4, 1e4)
    np.testing.assert_array_equal(power_law.unexplained(counts, errors, weight), 0)
    off = power_law.unexplained(counts, errors + np.array([0, 0.05, -0.05, 0]), weight)
    assert (off > 0.01).all()


def test_points_have_intervals_around_them_and_json_has_all():
    found = learning_curve.fit(SIZES, measured((0.02, 3.0, 0.5)))
    assert all(point.interval[0] < point.score < point.interval[1] for point in found.points)
    content = found.to_json()
    assert [point["images"] for point in content["points"]] == list(SIZES)
    assert content["gain"]["interval"][0] > 0
    assert "twice the training images (2,000) would bring +0.0" in found.sentence()


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e-3])
def test_an_error_falls_where_more_help_whatever_its_unit(unit):
    each = [[np.full(50, 2 * unit * size**-0.5)] for size in SIZES]
    found = learning_curve.fit(SIZES, each, "mean error", higher=False)
    assert found.doubled[0] < found.points[-1].score
    gain = 2 * unit * (1000**-0.5 - 2000**-0.5)
    assert found.gain[0] == pytest.approx(gain, rel=0.05)
    assert f"twice the training images (2,000) would bring {-found.gain[0]:+.4f} mean error [" in found.sentence()
    assert found.sentence().endswith("more labels would help")


def test_two_sizes_are_too_few():
    found = learning_curve.fit(SIZES[:2], [[np.ones(9)], [np.ones(9)]])
    assert found.law is None
    assert found.sentence() == "too few sizes to say what more images would bring"


def test_scores_that_are_no_means_over_images_make_the_same_curve():
    """Of means both ways are one: the second is given what the first draws."""
    each = measured((0.02, 3.0, 0.5), draws=1)
    rng = np.random.default_rng(0)
    drawn = np.stack([learning_curve._resampled([np.stack(of) for of in each], rng) for _ in range(300)], axis=1)
    now = np.array([of[0].mean() for of in each])
    assert learning_curve.of_scores(SIZES, now, drawn) == learning_curve.fit(SIZES, each, resamples=300)


def test_the_law_has_intervals_and_a_line_around_the_points():
    law = learning_curve.fit(SIZES, measured((0.02, 3.0, 0.5))).law
    assert all(low <= value <= high for value, (low, high) in zip(law.values, law.intervals, strict=True))
    assert law.intervals[0][0] <= 0.02 <= law.intervals[0][1]
    assert law.intervals[2][0] <= 0.5 <= law.intervals[2][1]
    assert (law.line[0].images, law.line[-1].images) == (SIZES[0], 2 * SIZES[-1])
    for point in law.line:
        assert point.interval[0] <= 1 - 0.02 - 3.0 * point.images**-0.5 <= point.interval[1]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:2]])
def test_what_was_written_is_read_again(sizes):
    found = learning_curve.fit(sizes, measured((0.02, 3.0, 0.5))[: len(sizes)])
    assert Curve.of(json.loads(json.dumps(found.to_json()))) == found
