"""Slices: planted ones are found, none is made up, p-values are those of an exact test."""

import numpy as np
import pytest

from finetune.evaluation import slices
from finetune.evaluation.slices import Slice

stats = pytest.importorskip("scipy.stats", reason="the oracle")


def masks(rng, count, number=20):
    return [Slice("kind", str(n), rng.random(count) < rng.uniform(0.1, 0.5)) for n in range(number)]


def test_a_planted_slice_is_found_and_stands_first():
    rng = np.random.default_rng(0)
    candidates = masks(rng, 400)
    chance = np.where(candidates[7].inside, 0.6, 0.9)
    found = slices.find((rng.random(400) < chance).astype(float), candidates)
    assert found[0]["slice"] == "7"
    assert found[0]["worse"]
    assert found[0]["interval"][0] < found[0]["score"] < found[0]["interval"][1] < found[0]["rest"]


def test_of_errors_the_large_ones_are_worse():
    rng = np.random.default_rng(0)
    inside = np.arange(200) < 40
    found = slices.find(
        rng.normal(1 + inside, 0.5), [Slice("kind", "a", inside), Slice("kind", "b", ~inside)], higher=False
    )
    assert [row["slice"] for row in found] == ["a", "b"]
    assert [row["worse"] for row in found] == [True, False]


def test_where_nothing_is_wrong_one_in_twenty_runs_says_so_at_most():
    rng = np.random.default_rng(1)
    wrong = sum(
        any(row["worse"] for row in slices.find((rng.random(150) < 0.85).astype(float), masks(rng, 150)))
        for _ in range(100)
    )
    assert wrong / 100 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def f1_scores(rng, count):
    """In [0, 1], many of them 1, and of some images there is none."""
    values = np.where(rng.random(count) < 0.3, 1.0, rng.beta(4, 1, count))
    return np.where(rng.random(count) < 0.05, np.nan, values)


def absolute_errors(rng, count):
    """With a heavy tail."""
    return rng.exponential(size=count) ** 2


@pytest.mark.parametrize(("draw", "higher"), [(f1_scores, True), (absolute_errors, False)])
def test_of_scores_that_are_no_yes_or_no_one_in_twenty_runs_says_so_too(draw, higher, monkeypatch):
    monkeypatch.setattr(slices, "PERMUTATIONS", 400)
    rng, runs = np.random.default_rng(3), 200
    wrong = 0
    for _ in range(runs):
        values, number = draw(rng, 120), rng.normal(size=120)
        kinds = [*masks(rng, 120, 12), *slices.quarters("number", number, "low", "high")]
        wrong += any(row["worse"] for row in slices.find(values, kinds, higher))
    assert stats.binom.ppf(0.001, runs, 0.05) <= wrong <= stats.binom.ppf(0.999, runs, 0.05)


def test_images_without_a_score_are_in_no_slice():
    rng = np.random.default_rng(0)
    inside, values = np.arange(100) < 40, rng.random(100)
    values[30:60] = np.nan
    (row,) = slices.find(values, [Slice("kind", "a", inside)])
    assert (row["images"], row["score"], row["rest"]) == (30, values[:30].mean(), values[60:].mean())
    assert slices.find(np.full(100, np.nan), [Slice("kind", "a", inside)]) == []


def test_p_values_of_one_slice_are_fishers():
    rng = np.random.default_rng(2)
    values, inside = (rng.random(120) < 0.8).astype(float), rng.random(120) < 0.3
    (row,) = slices.find(values, [Slice("kind", "a", inside)])
    table = [[(values[mask] == v).sum() for v in (1, 0)] for mask in (inside, ~inside)]
    assert row["p"] == pytest.approx(stats.fisher_exact(table, alternative="less").pvalue, abs=0.02)
    assert row["p"] == row["p_adjusted"]


def test_quarters_and_categories():
    low, high = slices.quarters("size", np.arange(100.0), "small", "large")
    assert (low.inside.sum(), high.inside.sum()) == (25, 25)
    assert list(slices.quarters("size", np.ones(100), "small", "large")) == []
    assert [(one.name, one.inside.sum()) for one in slices.categories("camera", np.array(["a", "b", "b"]))] == [
        ("a", 1),
        ("b", 2),
    ]
    assert list(slices.categories("camera", np.array(["a", "a"]))) == []
    shows = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 0]], dtype=bool)
    kinds = slices.memberships("class", shows, ["everywhere", "b", "c"])
    assert [(one.name, one.inside.tolist()) for one in kinds] == [
        ("b", [False, True, True]),
        ("c", [True, False, False]),
    ]
    assert list(slices.categories("id", np.arange(50))) == []


def test_clusters_part_what_lies_apart():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 16)
    truth = np.repeat([0, 1, 2], 30)
    labels = slices.clusters(centres[truth] + rng.normal(0, 0.05, (90, 16)), 3)
    assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 3


def test_all_right_has_no_slices():
    assert slices.find(np.ones(50), [Slice("kind", "a", np.arange(50) < 20)]) == []
