"""Which split plays which role, and what is held out where one is missing."""

import json
import math

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from finetune.data.columns import UNLABELLED
from finetune.data.splits import ROLES, SplitRows, Splits, assign, carve, make, subset
from finetune.errors import SplitError
from finetune.tasks.classification.schema import DatasetSchema


def generator(seed=0):
    return np.random.default_rng(seed)


def labels_of(counts, seed=0):
    """Shuffled labels with `counts[k]` images of class `k`."""
    return generator(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def made(counts, roles=None, extra=None, **options):
    """Splits of one source split, train, with `counts`, and of those in `extra`."""
    labels = {"train": labels_of(counts)} | (extra or {})
    usable = {name: np.flatnonzero(column != UNLABELLED) for name, column in labels.items()}
    names = [f"class {k}" for k in range(len(counts))]
    return labels, make(labels, usable, roles or {"train": "train"}, schema(names), **options)


def schema(names):
    """Of a dataset with these classes."""
    return DatasetSchema(
        "image-classification", "image", "label", "class-label", tuple(names), tuple(range(len(names)))
    )


# --- assign ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev", "VAL", "Dev"])
@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("test", ["test", "testing", "Test"])
def test_three_splits_are_taken_as_they_are(train, validation, test):
    for names in ([train, validation, test], [test, train, validation], [validation, test, train]):
        assert assign(names) == {"train": train, "validation": validation, "test": test}


@pytest.mark.parametrize("other", ["validation", "valid", "val", "dev", "test", "testing", "extra", "holdout"])
def test_train_and_one_other_hold_out_validation(other):
    assert assign(["train", other]) == assign([other, "train"]) == {"train": "train", "test": other}


@pytest.mark.parametrize("name", ["train", "training", "val", "dev", "test", "images"])
def test_a_single_split_is_train(name):
    assert assign([name]) == {"train": name}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test", "extra"], {"train": "train", "test": "test"}),
        (["train", "val", "test", "extra"], {"train": "train", "validation": "val", "test": "test"}),
        (["train", "extra", "unsupervised"], {"train": "train"}),
        (["images", "test"], {"train": "images", "test": "test"}),
        (["images", "val", "test"], {"train": "images", "validation": "val", "test": "test"}),
    ],
)
def test_other_sets_of_splits(names, expected):
    assert assign(names) == expected


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["train", "val"], {"validation": "val"}, {"train": "train", "validation": "val"}),
        (["train", "val"], {"test": "val"}, {"train": "train", "test": "val"}),
        (["train", "val", "test"], {"test": "val"}, {"train": "train", "test": "val"}),
        (["train", "val", "test"], {"train": "val"}, {"train": "val", "test": "test"}),
        (["train", "test", "extra"], {"train": "extra"}, {"train": "extra", "test": "test"}),
        (["a", "b", "c"], {"train": "b"}, {"train": "b"}),
        (["a", "b"], {"train": "b"}, {"train": "b", "test": "a"}),
        (["a", "b"], {"test": "b"}, {"train": "a", "test": "b"}),
        (
            ["a", "b", "c"],
            {"train": "c", "validation": "a", "test": "b"},
            {"train": "c", "validation": "a", "test": "b"},
        ),
        (["train", "test"], {"train": None, "validation": "", "test": None}, {"train": "train", "test": "test"}),
    ],
)
def test_named_splits_win(names, asked, expected):
    found = assign(names, asked)
    assert found == expected
    assert list(found) == [role for role in ROLES if role in expected]


@pytest.mark.parametrize(
    ("role", "flag"), [("train", "--train-split"), ("validation", "--val-split"), ("test", "--test-split")]
)
def test_a_named_split_that_does_not_exist_suggests_the_nearest(role, flag):
    with pytest.raises(SplitError, match=rf"{flag}: no labelled split 'holdut'; did you mean holdout\?.*: train, hold"):
        assign(["train", "holdout"], {role: "holdut"})
    with pytest.raises(SplitError, match=rf"{flag}: no labelled split 'zzz'\W+Splits: train, holdout"):
        assign(["train", "holdout"], {role: "zzz"})


@pytest.mark.parametrize("names", [["a", "b"], ["val", "test"], ["a", "b", "test"]])
def test_where_none_is_called_train_one_must_be_named(names):
    with pytest.raises(SplitError, match=rf"no split is called train \({', '.join(names)}\): name one by --train-s"):
        assign(names)


@pytest.mark.parametrize(("names", "role"), [(["train"], "test"), (["train"], "validation"), (["images"], "test")])
def test_the_only_split_cannot_be_asked_for_as_another_than_train(names, role):
    with pytest.raises(SplitError, match=rf"no split is left to train on.*{names[0]}"):
        assign(names, {role: names[0]})


# --- carve -----------------------------------------------------------------------------------------------------------

COUNTS = [
    [50, 50],
    [5, 5, 5],
    [100, 10, 3],
    [7, 11, 13, 17],
    [1000, 2, 2, 2],
    [33] * 10,
    [2, 3, 4, 5, 6],
    [178, 182, 177, 183, 181, 182, 181, 179, 174, 180],  # digits
]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("fraction", [0.1, 0.2, 1 / 3, 0.5])
def test_every_class_gives_its_share_and_keeps_the_rest(counts, fraction):
    labels = labels_of(counts)
    drawn = carve(labels, fraction, generator())
    assert drawn.dtype == bool
    assert drawn.shape == labels.shape
    taken = np.bincount(labels[drawn], minlength=len(counts))
    for number, count in zip(taken, counts, strict=True):
        low = max(1, math.floor(fraction * count + 1e-9))
        assert min(low, count - 1) <= number <= min(max(1, math.ceil(fraction * count - 1e-9)), count - 1)
    floors = sum(min(max(1, math.floor(fraction * count + 1e-9)), count - 1) for count in counts)
    room = sum(min(math.ceil(fraction * count - 1e-9), count - 1) for count in counts)
    wanted = round(fraction * sum(counts))
    if floors <= wanted <= room:
        assert taken.sum() == wanted


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("counts", [[40, 60], [33] * 10, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]], ids=str)
def test_class_counts_are_those_of_scikit_learn(counts, fraction):
    """Up to the one image by which it, too, rounds each class; its totals are exactly ours."""
    labels = labels_of(counts)
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=round(fraction * len(labels)), random_state=0)
    theirs = np.bincount(labels[next(splitter.split(labels, labels))[1]])
    ours = np.bincount(labels[carve(labels, fraction, generator())])
    assert ours.sum() == theirs.sum()
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - fraction * np.array(counts)).max() <= np.abs(theirs - fraction * np.array(counts)).max()


def test_the_largest_remainder_gets_the_image_that_is_left():
    # Shares of a tenth: 1.9, 1.2, 1.1, 1.8; floors make 4 of the 6, and the two left go to the first and the last.
    labels = labels_of([19, 12, 11, 18])
    assert np.bincount(labels[carve(labels, 0.1, generator())]).tolist() == [2, 1, 1, 2]
    # All remainders equal: the first classes by index.
    labels = labels_of([15, 15, 15, 15])
    assert np.bincount(labels[carve(labels, 0.1, generator())]).tolist() == [2, 2, 1, 1]


def test_the_draw_depends_on_the_seed_alone():
    labels = labels_of([40, 60])
    first = carve(labels, 0.2, generator(7))
    np.testing.assert_array_equal(first, carve(labels.copy(), 0.2, generator(7)))
    assert (first != carve(labels, 0.2, generator(8))).any()


def test_images_of_a_class_are_drawn_at_random_and_not_from_its_front():
    labels = np.zeros(1000, dtype=np.int64)
    labels[500:] = 1
    positions = np.flatnonzero(carve(labels, 0.2, generator()))
    assert 200 < positions[:100].mean() < 300
    assert 700 < positions[100:].mean() < 800


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 1.0])
def test_so_many_of_each_class_stay(keep, fraction):
    counts = [keep + 1, keep + 2, 10, 40]
    labels = labels_of(counts)
    drawn = carve(labels, fraction, generator(), keep=keep)
    assert np.bincount(labels[~drawn], minlength=4).min() >= keep
    assert np.bincount(labels[drawn], minlength=4).min() >= 1
    with pytest.raises(ValueError, match=f"class 1 has {keep} images, {keep + 1} are needed"):
        carve(labels_of([20, keep]), fraction, generator(), keep=keep)


def test_labels_need_not_be_consecutive():
    labels = np.repeat([3, 900], [10, 20])
    assert np.unique(labels[carve(labels, 0.1, generator())], return_counts=True)[1].tolist() == [1, 2]


# --- make ------------------------------------------------------------------------------------------------------------


def check_partition(splits, sources):
    """The parts of each source are disjoint, ascending, and hold exactly its usable rows."""
    for source, rows in sources.items():
        parts = [part for part in splits.parts.values() if part.source == source]
        for part in parts:
            assert (np.diff(part.rows) > 0).all()
        np.testing.assert_array_equal(np.sort(np.concatenate([part.rows for part in parts])), rows)


@pytest.mark.parametrize("counts", [[30, 50], [3, 3, 3], [178, 182, 177], [101, 7, 4], [99, 98, 97, 96]], ids=str)
@pytest.mark.parametrize("fractions", [(0.1, 0.1), (0.2, 0.3), (0.5, 0.25), (0.05, 0.4)], ids=str)
def test_train_alone_is_cut_in_three_and_fractions_are_of_the_whole(counts, fractions):
    validation, test = fractions
    labels, splits = made(counts, val_fraction=validation, test_fraction=test)
    check_partition(splits, {"train": np.arange(sum(counts))})
    for role, fraction in (("validation", validation), ("test", test)):
        part = splits.parts[role]
        np.testing.assert_array_equal(part.targets, labels["train"][part.rows])
        taken = np.bincount(part.targets, minlength=len(counts))
        # Two draws round one after the other, each by less than one image a class; a small class gives at least one.
        assert (np.abs(taken - np.maximum(fraction * np.array(counts), 1)) < 2).all()
        if min(counts) >= 30:
            assert abs(len(part.rows) - fraction * sum(counts)) <= 0.5
        assert splits.held_out[role] == {"from": "train", "fraction": fraction}
        assert not part.whole
    assert list(splits.parts) == list(splits.counts()) == list(ROLES)
    assert splits.counts() == {role: len(splits.parts[role].rows) for role in ROLES}
    assert all(np.bincount(part.targets, minlength=len(counts)).min() >= 1 for part in splits.parts.values())


def test_digits_split_by_hand():
    """1,797 images: 180 are held out for the test, 180 for validation, and 1,437 stay."""
    _, splits = made([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert splits.counts() == {"train": 1437, "validation": 180, "test": 180}
    # A tenth of each class is 17.4 to 18.3: the floors make 176, and the four largest remainders rise to 18.
    assert np.bincount(splits.parts["test"].targets).tolist() == [18] * 10
    # Of the 1,617 that stay, 179.7 / 1617: class 3 has 18.3368 and class 8 has 17.3366, the last to rise or not.
    assert np.bincount(splits.parts["validation"].targets).tolist() == [18, 18, 18, 19, 18, 18, 18, 18, 17, 18]


def test_validation_is_held_out_where_the_test_is_given():
    extra = {"val": labels_of([4, 6], seed=1)}
    labels, splits = made([50, 70], {"train": "train", "test": "val"}, extra, val_fraction=0.2)
    check_partition(splits, {"train": np.arange(120), "val": np.arange(10)})
    assert splits.counts() == {"train": 96, "validation": 24, "test": 10}
    assert splits.held_out == {"validation": {"from": "train", "fraction": 0.2}}
    assert splits.parts["test"].whole
    assert splits.parts["test"].source == "val"
    np.testing.assert_array_equal(splits.parts["test"].targets, labels["val"])


def test_three_given_splits_stay_whole_and_the_rest_is_listed_as_ignored():
    extra = {"dev": labels_of([4, 6]), "test": labels_of([3, 3]), "extra": labels_of([9, 9])}
    _, splits = made([50, 70], {"train": "train", "validation": "dev", "test": "test"}, extra)
    assert splits.counts() == {"train": 120, "validation": 10, "test": 6}
    assert splits.held_out == {}
    assert splits.ignored == ("extra",)
    assert all(part.whole for part in splits.parts.values())
    assert {part.to_json()["rows"] for part in splits.parts.values()} == {"all"}


def test_unusable_rows_are_in_no_part_and_a_split_without_them_is_not_whole():
    labels = {"train": labels_of([30, 30]), "test": labels_of([5, 5])}
    usable = {"train": np.setdiff1d(np.arange(60), [0, 7, 59]), "test": np.setdiff1d(np.arange(10), [4])}
    splits = make(labels, usable, {"train": "train", "test": "test"}, schema(["a", "b"]))
    check_partition(splits, usable)
    assert not splits.parts["test"].whole
    assert splits.parts["test"].to_json() == {"source": "test", "rows": [0, 1, 2, 3, 5, 6, 7, 8, 9]}


def test_rows_as_json_name_the_same_images():
    _, splits = made([20, 30])
    for part in splits.parts.values():
        entry = json.loads(json.dumps(part.to_json()))
        assert entry == {"source": "train", "rows": part.rows.tolist()}
    assert SplitRows("x", np.arange(3), np.zeros(3, dtype=np.int64), whole=True).to_json() == {
        "source": "x",
        "rows": "all",
    }
    assert Splits({}).counts() == {}


def test_splits_depend_on_the_seed_alone():
    same = [made([40, 60], seed=3)[1] for _ in range(2)]
    other = made([40, 60], seed=4)[1]
    for role in ROLES:
        np.testing.assert_array_equal(same[0].parts[role].rows, same[1].parts[role].rows)
        assert len(same[0].parts[role].rows) == len(other.parts[role].rows)
        assert set(same[0].parts[role].rows) != set(other.parts[role].rows)


@pytest.mark.parametrize(
    ("counts", "roles", "message"),
    [
        (
            [30, 2, 40, 1],
            {"train": "train"},
            r"too few images to hold out test and validation: every class needs at least 3 images, not 'class 1' \(2\)"
            r", 'class 3' \(1\)\..*--val-split and --test-split",
        ),
        (
            [30, 1, 40],
            {"train": "train", "test": "other"},
            r"too few images to hold out validation: every class needs at least 2 images, not 'class 1' \(1\).*--val",
        ),
        (
            [30, 1, 40],
            {"train": "train", "validation": "other"},
            r"too few images to hold out test: every class needs at least 2 images, not 'class 1' \(1\).*--test-split",
        ),
    ],
)
def test_a_class_too_small_to_hold_out_is_named_with_the_flags(counts, roles, message):
    with pytest.raises(SplitError, match=message):
        made(counts, roles, {"other": labels_of([2] * len(counts))})


def test_a_small_class_is_no_matter_where_nothing_is_held_out():
    extra = {"val": labels_of([2, 2]), "test": labels_of([2, 2])}
    _, splits = made([30, 1], {"train": "train", "validation": "val", "test": "test"}, extra)
    assert splits.counts()["train"] == 31


def test_a_class_without_images_is_no_matter():
    _, splits = made([30, 0, 40])
    assert sum(splits.counts().values()) == 70


@pytest.mark.parametrize("role", ["train", "test"])
def test_an_empty_split_is_refused_by_its_name(role):
    labels = {"a": labels_of([5, 5]), "b": labels_of([5, 5])}
    roles = {"train": "a", "test": "b"}
    usable = {"a": np.arange(10), "b": np.arange(10)} | {roles[role]: np.arange(0)}
    with pytest.raises(SplitError, match=f"the {role} split \\('{roles[role]}'\\) has no usable image"):
        make(labels, usable, roles, schema(["x", "y"]))


# --- subset ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[50, 50], [90, 10], [10, 20, 70], [25] * 10], ids=str)
@pytest.mark.parametrize("size", [10, 20, 37, 60])
def test_a_subset_has_the_size_and_each_class_in_its_share(counts, size):
    labels = labels_of(counts)
    rows = subset(labels, size, generator())
    assert rows.dtype == np.int64
    assert len(rows) == min(size, sum(counts))
    assert (np.diff(rows) > 0).all()
    taken = np.bincount(labels[rows], minlength=len(counts))
    assert (np.abs(taken - size * np.array(counts) / sum(counts)) <= 1).all()


@pytest.mark.parametrize("size", [None, 80, 1000])
def test_without_a_size_every_labelled_image_is_taken(size):
    labels = labels_of([30, 50])
    labels[[3, 30, 77]] = UNLABELLED
    rows = subset(labels, size, generator())
    np.testing.assert_array_equal(rows, np.setdiff1d(np.arange(80), [3, 30, 77]))


def test_unlabelled_images_are_never_drawn():
    labels = labels_of([30, 30])
    labels[::2] = UNLABELLED
    rows = subset(labels, 12, generator())
    assert len(rows) == 12
    assert (labels[rows] != UNLABELLED).all()
    assert len(subset(np.full(9, UNLABELLED), 4, generator())) == 0


def test_a_subset_depends_on_the_seed_alone():
    labels = labels_of([30, 30])
    np.testing.assert_array_equal(subset(labels, 20, generator(1)), subset(labels, 20, generator(1)))
    assert set(subset(labels, 20, generator(1))) != set(subset(labels, 20, generator(2)))
