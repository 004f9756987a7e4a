"""Planted copies of every kind are found, and nothing else; what is left out and what stays."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from finetune.data.checks import copies, looks, near, odd, quick
from finetune.data.checks.copies import Copies
from finetune.data.checks.near import Pair
from finetune.data.dataset import prepare
from finetune.tasks.registry import READING

IMAGES = Features({"image": Image(decode=False)})


def scene(seed, side=160):
    """Blobs of many sizes: as photographs, more in the coarse than in the fine."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for size, strength in ((3, 60), (6, 50), (12, 40), (24, 25)):
        small = PILImage.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        total += strength / 128 * (np.asarray(small.resize((side, side), PILImage.Resampling.BICUBIC)) - 128.0)
    return PILImage.fromarray((128 + total).clip(0, 255).astype(np.uint8))


def encoded(picture, form="PNG", **options):
    content = io.BytesIO()
    picture.save(content, form, **options)
    return {"bytes": content.getvalue(), "path": None}


KINDS = {
    "bytes": lambda picture: encoded(picture),
    "pixels": lambda picture: encoded(picture, "BMP"),
    "jpeg": lambda picture: encoded(picture, "JPEG", quality=40),
    "half": lambda picture: encoded(picture.resize((80, 80))),
    "mirrored": lambda picture: encoded(picture.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)),
    "cropped": lambda picture: encoded(picture.crop((14, 6, 150, 142))),
}


def looked(values):
    rows = Dataset.from_dict({"image": values}, features=IMAGES)
    return looks.look(rows, "image", np.arange(len(values)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_each_kind_is_found_and_nothing_else(kind):
    originals = [scene(seed) for seed in range(30)]
    values = [encoded(one) for one in originals] + [KINDS[kind](one) for one in originals[:6]]
    found = copies.find(looked(values), ["train"] * 30 + ["test"] * 6, np.zeros(36, dtype=np.int64))
    assert {(pair.first, pair.second) for pair in found.pairs} == {(n, 30 + n) for n in range(6)}
    expected = kind if kind in ("bytes", "pixels") else "near"
    assert {pair.kind for pair in found.pairs} == {expected}
    assert all(pair.mirrored == (kind == "mirrored") for pair in found.pairs)
    assert all(pair.cropped for pair in found.pairs) or kind != "cropped"
    assert found.leaked().tolist() == list(range(30, 36))


def test_images_of_one_colour_are_near_copies_of_nothing():
    values = [encoded(PILImage.new("RGB", (40, 40), (shade, 0, 0))) for shade in range(10, 20)]
    assert near.pairs(looked(values)) == []


def test_a_look_is_remembered_and_is_the_same():
    values = [encoded(scene(seed)) for seed in range(3)]
    first, again = looked(values), looked(values)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    assert first.size.tolist() == [[160, 160]] * 3


def test_the_search_finds_the_part_that_was_cut_out():
    whole = np.asarray(scene(1).convert("L").resize((96, 96)))
    picture = scene(1, 160).crop((16, 8, 144, 136)).convert("L").resize((96, 96))
    score, box = near.aligned(np.asarray(picture), whole, near.WHOLE)
    assert score > 0.95
    np.testing.assert_allclose(box, (0.1, 0.05, 0.9, 0.85), atol=0.025)


def test_of_copies_the_test_image_stays_and_of_a_contradiction_in_training_none():
    roles = ["train", "train", "train", "validation", "test", "test"]
    pairs = [Pair(0, 4, "bytes"), Pair(1, 2, "bytes"), Pair(3, 5, "near", 0.95)]
    found = copies.judged(pairs, roles, np.array([0, 1, 2, 0, 0, 0]))
    assert found.contradicting.tolist() == [False, True, False]
    left_out = copies.to_leave_out(found)
    assert set(left_out) == {0, 1, 2, 3}
    assert "of an image of test" in left_out[0]
    assert "with another target" in left_out[1]


def test_copies_of_copies_leak_too():
    roles = np.array(["train", "validation", "test"])
    found = Copies((Pair(0, 1, "near", 0.95), Pair(1, 2, "near", 0.95)), roles, np.zeros(2, dtype=bool))
    assert found.leaked().tolist() == [2]


def test_equal_rows_of_targets_do_not_contradict_and_nan_is_equal_to_itself():
    pairs = [Pair(0, 1, "bytes"), Pair(1, 2, "bytes")]
    found = copies.judged(pairs, ["train"] * 3, np.array([[1.0, np.nan], [1.0, np.nan], [0.0, 1.0]]))
    assert found.contradicting.tolist() == [False, True]


def test_what_train_says_by_itself():
    hashes = np.zeros((5, 16), dtype=np.uint8)
    hashes[[1, 3], 0] = 1
    pairs = copies.equal(hashes, "bytes")  # 0, 2 and 4; 1 and 3
    found = copies.judged(pairs, ["train", "train", "train", "test", "validation"], np.array([0, 1, 1, 1, 0]))
    said = list(quick.lines(found))
    assert said[0].startswith("warning: 1 of 1 test images are training images too (1 byte for byte)")
    assert said[1].startswith("warning: 1 validation images are training images too")
    assert said[2].startswith("warning: 1 pair of copies with different targets")
    assert quick.leaked_places(found).tolist() == [0]


def test_odd_images_are_named():
    values = [encoded(scene(seed)) for seed in range(20)]
    values += [encoded(scene(30).resize((20, 20))), encoded(scene(31).resize((400, 60)))]
    values += [encoded(PILImage.new("RGB", (160, 160), (9, 9, 9)))]
    found = {one.key: one for one in odd.find(looked(values))}
    assert found["small"].images == ((20,),)
    assert found["long"].images == ((21,),)
    assert found["empty"].images == ((22,),)
    assert "median 160 x 160" in found["sizes"].title


def with_roles(values, roles, **options):
    """A dataset of pictures, each for something."""
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"image": values, "label": [n % 2 for n in range(len(values))]}, features=features)
    parts = {role: np.flatnonzero(np.array(roles) == role) for role in ("train", "validation", "test")}
    return prepare(DatasetDict({role: rows.select(places) for role, places in parts.items()}), READING, **options)


def test_train_finds_near_copies_between_splits_and_says_how_they_are_copies():
    originals = [scene(seed) for seed in range(12)]
    tests = [
        encoded(originals[0]),
        encoded(originals[1].resize((90, 90))),
        encoded(originals[2].transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)),
        encoded(originals[3].crop((10, 10, 150, 150))),
        encoded(scene(50)),
    ]
    held_out = [encoded(originals[4].resize((120, 120))), encoded(scene(51))]
    values = [*map(encoded, originals), *held_out, *tests]
    data = with_roles(values, ["train"] * 12 + ["validation"] * 2 + ["test"] * 5)
    found = quick.find(data)
    assert quick.leaked_places(found).tolist() == [0, 1, 2, 3]
    assert quick.kinds(found) == {"bytes": 1, "near": 3}
    assert len(found.leaked("validation")) == 1
    said = list(quick.lines(found))
    assert said[0].startswith("warning: 4 of 5 test images are training images too (1 byte for byte, 3 near copies)")


def test_what_train_compares_has_a_bound_and_the_likeliest_come_first(monkeypatch):
    originals = [scene(seed) for seed in range(12)]
    seen = looked([*map(encoded, originals), encoded(originals[5].resize((90, 90)))])
    calls, prove = [], near._prove
    monkeypatch.setattr(near, "LIKELY", -1.0)
    monkeypatch.setattr(near, "_prove", lambda *given: (calls.append(given[2:4]), prove(*given)))
    pairs, left = near.between(seen, np.array([12]), np.arange(12), most=2)
    assert len(calls) == 2
    assert left > 0
    assert [(pair.first, pair.second) for pair in pairs] == [(5, 12)]


def test_small_pictures_are_no_near_copies_by_a_quick_look():
    values = [encoded(scene(1).resize((24, 24))), encoded(scene(2)), encoded(scene(1).resize((22, 22)))]
    seen = looked(values)
    roles = np.array(["train", "train", "test"])
    assert near.between(seen, np.array([2]), np.array([0, 1]), 100)[0]  # they are alike
    assert quick.across(seen, roles, np.arange(3)) == []


def test_looks_are_noted_while_images_are_checked_and_none_is_decoded_again(monkeypatch):
    values = [encoded(scene(seed)) for seed in range(60, 75)]
    data = with_roles(values, ["train"] * 9 + ["validation"] * 3 + ["test"] * 3)
    monkeypatch.setattr(looks, "_one", None)  # what would decode
    seen = quick.find(data)
    assert seen.pairs == ()
    monkeypatch.undo()
    part = data.splits.parts["train"]
    noted = looks.look(data.source.splits["train"], "image", part.rows)
    monkeypatch.setattr(looks, "_read", lambda path: looks._Known(np.zeros(0, dtype=np.int64), looks._stacked([])))
    decoded = looks.look(data.source.splits["train"], "image", part.rows)
    assert all(np.array_equal(getattr(noted, name), getattr(decoded, name)) for name in vars(noted))


def test_rows_that_were_not_noted_are_decoded_and_the_others_are_kept():
    rows = Dataset.from_dict({"image": [encoded(scene(seed)) for seed in range(80, 86)]}, features=IMAGES)
    some = looks.look(rows, "image", np.array([1, 4]))
    every = looks.look(rows, "image", np.arange(6))
    assert np.array_equal(every.grey[[1, 4]], some.grey)
    assert looks._read(looks._cache_file(rows, "image")).rows.tolist() == list(range(6))
    assert np.array_equal(looks.look(rows, "image", np.array([5, 0])).grey, every.grey[[5, 0]])


@pytest.mark.parametrize(("dark", "severity"), [(1, "warning"), (10, "note"), (14, "note")])
def test_a_second_kind_of_images_is_nothing_odd(dark, severity):
    shades = [60 + n for n in range(40)] + [230 + n for n in range(dark)]
    flat = np.full(len(shades), 0.2)
    seen = looks.Looks(
        *(np.zeros((len(shades), 16), dtype=np.uint8) for _ in range(2)),
        np.zeros((len(shades), 96, 96), dtype=np.uint8),
        np.full((len(shades), 2), 100),
        np.array(shades) / 255,
        flat,
        np.full(len(shades), "RGB"),
    )
    (found,) = [one for one in odd.find(seen) if one.key == "brightness"]
    assert found.severity == severity
    counted = "1 image" if dark == 1 else f"{dark} images"
    assert found.title.startswith(f"{counted} much darker or brighter than the others")
    assert ("a kind of their own" in found.title) == (severity == "note")
    assert found.lines == (("the 12 most so are shown",) if dark > 12 else ())
    assert len(found.images) == min(dark, 12)
