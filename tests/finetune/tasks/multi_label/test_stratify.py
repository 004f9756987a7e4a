"""Iterative stratification: every class has its share, in every split, the same on every machine."""

import hashlib

import numpy as np
import pytest

from finetune.tasks.multi_label import stratify
from finetune.tasks.multi_label.schema import MultiLabelSchema


def rows(count=600, classes=12, seed=0):
    """Classes from frequent to rare, some of which go together."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.6, 0.01, classes)
    found = (rng.random((count, classes)) < shares).astype(np.int8)
    found[:, 3] |= found[:, 2] & (rng.random(count) < 0.7)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_each_class_is_drawn_in_its_share(seed):
    targets = rows(seed=seed)
    drawn = stratify.draw(targets, 0.2, np.random.default_rng(seed), keep=1)
    assert abs(int(drawn.sum()) - 120) <= 3
    here, all_ = (targets[drawn] > 0).sum(axis=0), (targets > 0).sum(axis=0)
    assert np.abs(here - 0.2 * all_).max() <= 3
    by_chance = np.zeros(600, dtype=bool)
    by_chance[np.random.default_rng(seed).permutation(600)[:120]] = True
    off = np.abs(here - 0.2 * all_).mean()
    assert off < np.abs((targets[by_chance] > 0).sum(axis=0) - 0.2 * all_).mean()


@pytest.mark.parametrize("seed", range(8))
def test_a_class_of_three_images_is_in_every_split(seed):
    rng = np.random.default_rng(seed)
    targets = rows(80, 6, seed)
    rare = np.zeros((80, 5), dtype=np.int8)
    for label in range(5):
        rare[rng.choice(80, 3, replace=False), label] = 1
    targets = np.concatenate([targets, rare], axis=1)
    test = stratify.draw(targets, 0.1, rng, keep=2)
    rest = targets[~test]
    validation = stratify.draw(rest, 0.1 * 80 / len(rest), rng, keep=1)
    enough = (targets > 0).sum(axis=0) >= 3
    for part in (targets[test], rest[validation], rest[~validation]):
        assert ((part > 0).any(axis=0) | ~enough).all()


def test_it_is_the_same_everywhere_and_whatever_the_order_of_classes():
    targets = rows(200, 8)
    names = tuple("hgfedcba")
    schema = MultiLabelSchema("image", "label", ("label",), "classes", names)
    drawn = schema.carve(targets, 0.3, np.random.default_rng(5), 1)
    turned = MultiLabelSchema("image", "label", ("label",), "classes", names[::-1])
    assert np.array_equal(drawn, turned.carve(targets[:, ::-1], 0.3, np.random.default_rng(5), 1))
    digest = hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest()[:16]
    assert digest == "890e53a8d6605a06"


def test_images_without_a_class_are_shared_out_too():
    targets = np.zeros((100, 2), dtype=np.int8)
    targets[:20, 0] = 1
    drawn = stratify.draw(targets, 0.2, np.random.default_rng(0), 1)
    assert drawn[:20].sum() == 4
    assert drawn[20:].sum() == 16


def test_a_few_rows_are_drawn_exactly():
    targets = rows()
    targets[::7] = -1
    schema = MultiLabelSchema("image", "label", ("label",), "classes", tuple("abcdefghijkl"))
    chosen = schema.draw(targets, 100, np.random.default_rng(0))
    assert len(chosen) == 100
    assert (np.diff(chosen) > 0).all()
    assert (targets[chosen] >= 0).all()
    assert len(schema.draw(targets, None, np.random.default_rng(0))) == int((targets >= 0).any(axis=1).sum())
