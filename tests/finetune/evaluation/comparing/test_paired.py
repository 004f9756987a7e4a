"""Paired tests and intervals, against scipy and by simulation."""

import math

import numpy as np
import pytest

from finetune.evaluation.comparing import compare, paired
from finetune.evaluation.comparing.judged import Judged
from finetune.task import Score

stats = pytest.importorskip("scipy.stats", reason="the oracle")


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 9), (9, 3), (40, 60), (700, 800)])
def test_mcnemar_is_scipys_exact_binomial_test(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert paired.mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_the_ends_of_tango_are_where_the_score_is_the_quantile_and_no_point_where_nothing_differs():
    for b, c, n in ((1, 12, 44), (0, 0, 30), (5, 5, 100), (30, 2, 32), (0, 7, 7)):
        low, high = paired.tango(b, c, n)
        assert -1 <= low <= (b - c) / n + 1e-9 <= high + 2e-9 <= 1 + 2e-9
        assert high > low
        for end, score in ((low, 1.959964), (high, -1.959964)):
            if abs(end) < 1 - 1e-6:
                assert paired._tango_score(end, b, c, n) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(("b", "c"), [(10, 2), (12, 5), (20, 9), (9, 4), (30, 15)])
def test_tango_excludes_no_difference_where_the_asymptotic_test_of_mcnemar_rejects(b, c):
    p = stats.chi2.sf((b - c) ** 2 / (b + c), 1)
    low, high = paired.tango(b, c, 200)
    assert (low > 0 or high < 0) == (p < 0.05)


@pytest.mark.parametrize(("apart", "images"), [(0.05, 100), (0.1, 400), (0.02, 300)])
def test_coverage_and_type_1_error_by_simulation(apart, images):
    """Where two models differ on a share `apart` of the images; the standard error of 2,000 samples is 0.005."""
    rng = np.random.default_rng(0)
    for gap in (0.0, apart / 2):
        shares = [(apart + gap) / 2, (apart - gap) / 2]
        drawn = rng.multinomial(images, [*shares, 1 - apart], size=2000)
        ends = np.array([paired.tango(int(b), int(c), images) for b, c, _ in drawn])
        covered = ((ends[:, 0] <= gap) & (gap <= ends[:, 1])).mean()
        assert covered >= (0.94 if gap == 0 else 0.92), (gap, covered)  # of no difference: a type-1 error below 6 %
        assert covered <= 0.985


@pytest.mark.parametrize(("degrees", "share"), [(1, 0.975), (2, 0.975), (3.7, 0.95), (30, 0.9917), (1e9, 0.975)])
def test_students_quantiles_are_scipys(degrees, share):
    assert compare.student(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-4)


def test_holm_by_hand():
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([]) == []


def test_sign_flips_are_scipys_permutation_test():
    values = np.random.default_rng(3).normal(0.3, 1, 12)
    exact = stats.permutation_test(
        (values, np.zeros(12)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    assert paired.sign_flips(values) == pytest.approx(exact, abs=0.02)
    assert paired.sign_flips(np.zeros(5)) == 1.0


def test_draws_are_resamples_of_all_images():
    parts = list(paired.draws(7, seed=1, resamples=50))
    weights = np.concatenate(parts)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == 1


def values(array, key="error"):
    """A regression's view of its errors."""
    array = np.asarray(array, dtype=np.float64)
    return Judged(
        scores=lambda weights: {key: weights @ array / weights.sum(axis=1)},
        values=array,
        worth=Score(key, key, higher=False),
        right=None,
        said=[f"{v:.2f}" for v in array],
        true=[""] * len(array),
        shows=np.stack([np.arange(len(array)) % 2 == 0, np.ones(len(array), dtype=bool)], axis=1),
        names=["every second", "all"],
    )


def test_lower_is_better_where_the_score_says_so_and_seeds_widen():
    rng = np.random.default_rng(0)
    base = rng.normal(1, 0.2, 200)
    scores = [Score("error", "error", higher=False)]
    one = compare.compare([compare.Entry("a", [values(base)]), compare.Entry("b", [values(base - 0.1)])], scores)
    (only,) = one["comparisons"]
    assert only["metrics"]["error"]["verdict"] == "better"
    assert only["metrics"]["error"]["difference"] == pytest.approx(-0.1)
    assert [(row["class"], row["images"], row["verdict"]) for row in only["per_class"]] == [
        ("every second", 100, "better")  # of all images the scores themselves are compared
    ]
    assert "mcnemar" not in only
    seeds = [values(base - 0.1 + shift) for shift in (-0.3, 0.3)]
    several = compare.compare([compare.Entry("a", [values(base)]), compare.Entry("b", seeds)], scores)
    (wide,) = several["comparisons"]
    assert wide["metrics"]["error"]["verdict"] == "tie"
    assert several["models"][1]["sd"]["error"] == pytest.approx(math.sqrt(0.18))


def test_the_width_with_seeds_is_right_by_simulation():
    """Settings whose seeds scatter, equally good in truth: few intervals may exclude 0."""
    rng = np.random.default_rng(1)
    wrong, trials = 0, 3000
    for _ in range(trials):
        images = rng.normal(0, 0.02)
        a, b = rng.normal(0, 0.03, 3), rng.normal(0, 0.03, 3)
        spreads = [(a.var(ddof=1) / 3, 3), (b.var(ddof=1) / 3, 3)]
        wrong += abs(images + a.mean() - b.mean()) > compare.half_width(0.02**2, spreads, 0.95)
    assert 0.03 <= wrong / trials <= 0.06


def test_several_comparisons_are_widened():
    rng = np.random.default_rng(0)
    models = [compare.Entry(name, [values(rng.normal(1, 0.2, 60))]) for name in "abc"]
    scores = [Score("error", "error", higher=False)]
    two = compare.compare(models[:2], scores)["comparisons"][0]["metrics"]["error"]["interval"]
    three = compare.compare(models, scores)["comparisons"][0]["metrics"]["error"]["interval"]
    assert three[1] - three[0] > two[1] - two[0]


def test_the_images_on_which_one_is_ahead_the_furthest_first():
    ours, theirs = [0.5, 0.2, 1.0, np.nan, 0.3], [0.5, 0.9, 0.8, 0.1, 0.4]
    entries = compare.Entry("theirs", [values(theirs)]), compare.Entry("ours", [values(ours)])
    found = compare.apart(*entries, most=1)  # of errors: lower is better
    assert found["images"] == {
        "by": "error",
        "title": "error",
        "higher": False,
        "ahead_model": 2,
        "ahead_reference": 1,
    }
    assert found["ahead_model"] == [{"place": 1, "model": 0.2, "reference": 0.9}]
    assert found["ahead_reference"] == [{"place": 2, "model": 1.0, "reference": 0.8}]
    seeds = compare.Entry("two seeds", [values(ours), values([0.5, 0.2, 0.0, 0.0, 0.3])])
    assert [one["place"] for one in compare.apart(entries[0], seeds)["ahead_model"]] == [1, 2, 4]
    assert compare.apart(*[compare.Entry(name, [values([np.nan] * 3)]) for name in "ab"]) == {}
