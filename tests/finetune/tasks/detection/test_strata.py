"""Splits of images with several classes each: every class has its share, rare ones are in every split."""

import numpy as np
import pytest

from finetune.errors import SplitError
from finetune.tasks.detection.reads import strata
from tests.finetune.tasks.detection import drawn
from tests.finetune.tasks.detection.test_strange_rows import rows_of


def targets(count=600, classes=6, seed=0):
    """Objects of classes that are ever rarer; a tenth of the images has none."""
    rng = np.random.default_rng(seed)
    made = rng.poisson(2.0 / (1 + 2.0 * np.arange(classes)) ** 1.5, (count, classes))
    made[rng.random(count) < 0.1] = 0
    return made.astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_each_class_and_the_images_without_objects_have_their_share(seed):
    whole = targets(seed=seed)
    drawn_rows = strata.carve(whole, 0.2, np.random.default_rng(seed), 1)
    assert abs(drawn_rows.sum() - 120) <= 6
    present = np.concatenate([whole > 0, (whole == 0).all(1, keepdims=True)], axis=1)
    share = present[drawn_rows].sum(0) / present.sum(0)
    assert (np.abs(share - 0.2) < np.maximum(0.06, 3 / present.sum(0))).all(), share


def test_a_class_of_three_images_is_in_all_three_splits():
    whole = np.zeros((60, 3), dtype=np.int64)
    whole[:, 0] = 1
    whole[[7, 21, 40], 2] = 2
    whole[[3, 9], 1] = 1
    rng = np.random.default_rng(0)
    test = strata.carve(whole, 0.1, rng, 2)
    rest = whole[~test]
    validation = strata.carve(rest, 0.1 * 60 / len(rest), rng, 1)
    counts = [(part > 0).sum(0)[2] for part in (whole[test], rest[validation], rest[~validation])]
    assert counts == [1, 1, 1]
    assert (rest[~validation] > 0).sum(0)[1] >= 1  # two images: train has one


def test_a_class_of_one_image_stays_in_training():
    whole = np.ones((40, 2), dtype=np.int64)
    whole[:, 1] = 0
    whole[5, 1] = 1
    for seed in range(20):
        assert not strata.carve(whole, 0.5, np.random.default_rng(seed), 1)[5]


def test_where_every_image_is_needed_some_are_drawn_all_the_same():
    assert strata.carve(np.eye(10, dtype=np.int64), 0.2, np.random.default_rng(0), 1).sum() == 2


def test_a_draw_is_that_of_its_seed():
    whole = targets()
    first, second, other = (strata.carve(whole, 0.2, np.random.default_rng(seed), 1) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_few_samples_have_rare_classes():
    data = drawn.prepared(drawn.HUB["cppe-5: a struct of lists"](), max_samples=6)
    assert data.splits.counts() == {"train": 6, "validation": 4, "test": 4}
    assert (data.targets("train").sum(axis=0) > 0).all()


def test_too_few_images_with_objects():
    empty = {"bbox": [], "category": []}
    one = {"bbox": [[0, 0, 20, 10]], "category": [1]}
    with pytest.raises(SplitError, match="expected at least 3 images with objects, got 2"):
        drawn.prepared(rows_of([one, one, *[empty] * 8]), box_format="xywh")
