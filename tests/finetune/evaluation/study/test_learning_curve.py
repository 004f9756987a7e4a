"""The power law is recovered, its interval covers what it should, and its sentence says what it means."""

import numpy as np
import pytest

from finetune.evaluation.study import learning_curve

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
    laws = learning_curve._laws(np.array(SIZES, dtype=float), errors, np.ones(4))
    np.testing.assert_allclose(laws[:, 0], (0.02, 3.0, 0.5), rtol=0.02)


def test_errors_that_do_not_fall_promise_nothing():
    found = learning_curve.fit(SIZES, [[np.r_[np.ones(80), np.zeros(20)]]] * 4)
    assert found.law[1] * SIZES[-1] ** -found.law[2] == pytest.approx(0, abs=1e-6)
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


def test_points_have_intervals_around_them_and_json_has_all():
    found = learning_curve.fit(SIZES, measured((0.02, 3.0, 0.5)))
    assert all(point.interval[0] < point.score < point.interval[1] for point in found.points)
    content = found.to_json()
    assert [point["images"] for point in content["points"]] == list(SIZES)
    assert content["gain"]["interval"][0] > 0
    assert "twice the training images (2,000) would bring +0.0" in found.sentence()


def test_an_error_falls_where_more_help():
    found = learning_curve.fit(SIZES, [[np.full(50, 2 * size**-0.5)] for size in SIZES], "mean error", higher=False)
    assert found.doubled[0] < found.points[-1].score
    assert found.gain[0] == pytest.approx(2 * (1000**-0.5 - 2000**-0.5), rel=0.05)


def test_two_sizes_are_too_few():
    found = learning_curve.fit(SIZES[:2], [[np.ones(9)], [np.ones(9)]])
    assert found.law is None
    assert found.sentence() == "too few sizes to say what more images would bring"
