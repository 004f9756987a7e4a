"""COCO's numbers by two libraries and ours, intervals, the threshold, calibration and kinds of errors."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.tasks.detection.judging import assess, coco, errors, matches, precision, threshold
from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.reads.masks import decoded

CLASSES = 3


def rectangles(boxes, side=300):
    made = []
    for x0, y0, x1, y1 in boxes:
        picture = np.zeros((side, side), np.uint8, order="F")
        picture[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 1
        made.append(coco_mask.encode(picture))
    return made


def split(images=25, masks=False, seed=0):
    """Objects moved, missed, doubled, misnamed and made up; some in crowds."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner, sides = rng.uniform(0, 180, (count, 2)), rng.uniform(5, 110, (count, 2))
        boxes = np.concatenate([corner, corner + sides], 1)
        labels = rng.integers(0, CLASSES, count)
        other = np.concatenate([rng.uniform(0, 180, (2, 2)), rng.uniform(200, 290, (2, 2))], 1)
        found = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), boxes[:2] + 2, other]).clip(0, 298)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        named = np.concatenate([np.where(rng.random(count) < 0.85, labels, 0), labels[:2], [0, 1]])
        said = {"boxes": found.astype(np.float32), "labels": named, "scores": rng.random(len(named)).round(2)}
        truth = {"boxes": boxes, "labels": labels, "iscrowd": rng.random(count) < 0.15, "area": sides.prod(1)}
        if masks:
            said["rles"], truth["rles"] = rectangles(found), rectangles(boxes)
        records.append(((300, 300), said, truth))
    return Detected.of(records)


def pycocotools(detected, kind):
    truth, found = coco.datasets(detected, CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        judged = COCOeval(known, known.loadRes(found), kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return dict(zip(coco.NAMES, judged.stats, strict=False))


@pytest.mark.parametrize("masks", [False, True])
def test_numbers_are_those_of_pycocotools(masks):
    detected = split(masks=masks)
    ours = coco.scores(detected, CLASSES, masks)
    boxes = pycocotools(detected, "bbox")
    assert {name: ours[name] for name in coco.BOX_SCORES} == pytest.approx({n: boxes[n] for n in coco.BOX_SCORES})
    if masks:
        theirs = pycocotools(detected, "segm")
        assert [ours[f"mask_{name}"] for name in coco.MASK_SCORES] == pytest.approx(
            [theirs[name] for name in coco.MASK_SCORES]
        )


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_stored_matches_give_the_same_numbers(masks, seed):
    detected = split(masks=masks, seed=seed)
    truth, found = coco.datasets(detected, CLASSES)
    expected = coco.summary(truth, found, "segm" if masks else "bbox")
    once = precision.summary(matches.match(detected, CLASSES, masks), np.ones((1, 25)))
    assert {name: float(value[0]) for name, value in once.items()} == pytest.approx(
        {name: expected[name] for name in once}
    )


def test_a_resample_is_the_dataset_with_images_repeated():
    detected = split(images=6)
    weights = np.array([2, 0, 1, 3, 0, 1])
    pairs = [((300, 300), *pair) for pair in detected.pairs()]
    names = {"crowd": "iscrowd", "areas": "area"}
    renamed = [(size, found, {names.get(k, k): v for k, v in truth.items()}) for size, found, truth in pairs]
    repeated = Detected.of([renamed[i] for i in np.repeat(np.arange(6), weights)])
    drawn = precision.summary(matches.match(detected, CLASSES), weights[None])
    expected = precision.summary(matches.match(repeated, CLASSES), np.ones((1, 7)))
    # Equal scores of copies fall into another order, which moves precision a little where they are right and wrong.
    assert float(drawn["map_50"][0]) == pytest.approx(float(expected["map_50"][0]), abs=0.02)


def test_intervals_lie_around_the_number():
    found = matches.match(split(images=60), CLASSES)
    ends = precision.intervals(found, 0, resamples=200)
    whole = precision.summary(found, np.ones((1, 60)))
    assert ends["map_50"][0] < whole["map_50"][0] < ends["map_50"][1]
    assert precision.intervals(found, 0, resamples=200) == ends


def test_nothing_found_and_nothing_there():
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    truth = {"boxes": np.array([[0, 0, 50, 50.0]]), "labels": [1], "iscrowd": [False], "area": [2500.0]}
    empty = {"boxes": np.zeros((0, 4)), "labels": [], "iscrowd": [], "area": []}
    found = coco.scores(Detected.of([((99, 99), nothing, truth), ((99, 99), nothing, empty)]), 2, False)
    assert found["map"] == 0
    assert (found["map_small"], found["map_medium"], found["map_large"]) == (-1, 0, -1)
    assert coco.scores(Detected.of([((99, 99), nothing, empty)]), 2, False)["map"] == -1


def test_the_threshold_has_the_highest_f1():
    found = matches.match(split(images=60), CLASSES)
    shown = threshold.best(found)

    def f1(cut):
        rows = threshold.at_threshold(found, cut, ["a", "b", "c"])
        right = sum((row["precision"] or 0) * row["predicted"] for row in rows)
        return 2 * right / sum(row["predicted"] + row["support"] for row in rows)

    assert f1(shown) == pytest.approx(max(f1(cut) for cut in np.linspace(0, 1, 500)))


def test_a_temperature_mends_scores_that_are_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 4000)
    true = rng.random(4000) < 1 / (1 + np.exp(-logits))
    made = matches.Matches(
        np.zeros(4000, int), np.zeros(4000, int), 1 / (1 + np.exp(-3 * logits)), np.tile(true[:, None], 10),
        np.zeros((4000, 10), bool), np.array([[4000]]),
    )  # fmt: skip
    fitted = threshold.fit_temperature(made)
    assert fitted == pytest.approx(3, rel=0.1)
    assert threshold.error(made, fitted) < 0.03 < threshold.error(made)


def test_kinds_of_errors():
    box = np.array([[0, 0, 100, 100.0]])
    truth = {"boxes": box, "labels": np.array([0]), "iscrowd": np.array([False]), "area": np.array([1e4])}
    cases = {
        "right": (box[0], 0),
        "class": (box[0], 1),
        "place": (box[0] + [40, 40, 40, 40], 0),
        "both": (box[0] + [40, 40, 40, 40], 1),
        "background": (box[0] + 200, 0),
    }
    for kind, (at, label) in cases.items():
        said = {"boxes": at[None], "labels": np.array([label]), "scores": np.array([0.9])}
        counts = errors.kinds(Detected.of([((400, 400), said, truth)]), 0.5)
        expected = dict.fromkeys(["right", *errors.KINDS], 0) | {kind: 1}
        expected["missed"] = int(kind == "background")
        assert counts == expected
    twice = {"boxes": np.concatenate([box, box]), "labels": np.array([0, 0]), "scores": np.array([0.9, 0.8])}
    assert errors.kinds(Detected.of([((400, 400), twice, truth)]), 0.5)["double"] == 1


def test_the_entry_of_a_result_is_complete():
    detected = split(masks=True)
    entry = assess.assess(detected, split(masks=True, seed=1), ["a", "b", "c"], 0)
    assert entry["per_class"]["test"][0].keys() >= {"ap", "ap_50", "ar", "mask_ap", "precision", "recall", "support"}
    assert {"map", "mask_map"} <= entry["intervals"]["test"].keys()
    assert any("shown from score" in line for line in assess.remarks(entry, 25))


def test_a_split_comes_back_as_it_was():
    detected = split(masks=True, images=4)
    for found, truth in detected.pairs():
        assert len(found["rles"]) == len(found["boxes"])
        for rle, (x0, _, x1, _) in zip(truth["rles"], truth["boxes"], strict=True):
            assert decoded(rle).any(0).sum() == int(x1) - int(x0) + 1
