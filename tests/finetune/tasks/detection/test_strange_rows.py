"""Rows that are odd: turned images, holes in ids, nothing, no area, NaN, other lengths, crowds, holes in masks."""

import io
import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from faster_coco_eval import mask as coco
from PIL import Image

from finetune.errors import DatasetError, SchemaError
from finetune.tasks.detection import schema
from finetune.tasks.detection.reads.frame import Frame
from tests.finetune.tasks.detection import drawn

FLOATS = List(Value("float32"))
OBJECTS = {"bbox": List(FLOATS), "category": List(ClassLabel(names=list(drawn.NAMES)))}


@pytest.fixture(autouse=True)
def _said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")


def jpeg(size, orientation=1, mark=None):
    """An image as it is stored, with a white rectangle (left, top, right, bottom)."""
    pixels = np.full((size[1], size[0], 3), 40, dtype=np.uint8)
    if mark:
        pixels[mark[1] : mark[3], mark[0] : mark[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, quality=95)
    return {"bytes": buffer.getvalue(), "path": None}


def rows_of(objects, features=OBJECTS, images=None, **more):
    """A train split of some rows; more of the first, so that it can be split."""
    count = len(objects)
    images = images or [jpeg((64, 48), mark=(number, 1, number + 9, 11)) for number in range(count)]
    held = {"image": images, "objects": objects} | {name: values for name, (_, values) in more.items()}
    kinds = Features(
        {"image": ImageFeature(), "objects": features} | {name: feature for name, (feature, _) in more.items()}
    )
    return Dataset.from_dict(held, features=kinds)


def splits_of(*arguments, **more):
    whole = rows_of(*arguments, **more)
    return DatasetDict(train=whole, validation=whole, test=whole)


def some(count=6):
    """Objects of rows that are as they should be; the last box of each reaches to the edge."""
    return [{"bbox": [[0, 0, 20, 10], [40, 20, 24, 28]], "category": [n % 3, 1]} for n in range(count)]


TURNS = {2: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5, 8: 6}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_image_turn_with_it(orientation):
    mark = (6, 10, 30, 20)
    image = jpeg((64, 48), orientation, mark)
    box = {"bbox": [[6, 10, 24, 10]], "category": [0]}
    sizes = {"width": (Value("int64"), [64] * 6), "height": (Value("int64"), [48] * 6)}
    swapped = orientation >= 5
    data = drawn.prepared(splits_of([box] * 6, OBJECTS, [image] * 6, **sizes), box_format="xywh")
    ((boxes, _, _), *_) = drawn.targets(data, "test")
    if not swapped:  # the declared size is that of both: boxes are taken as of the upright image
        np.testing.assert_allclose(boxes, [[6, 10, 30, 20]])
        return
    from finetune.data.images import decode

    bright = np.asarray(decode(image))[..., 0] > 150
    ys, xs = np.nonzero(bright)
    np.testing.assert_allclose(boxes[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.01)


@pytest.mark.parametrize("orientation", [1, *range(2, 9)])
def test_points_turn_as_pillow_turns_pixels(orientation):
    with Image.open(io.BytesIO(jpeg((30, 20), orientation)["bytes"])) as image:
        from finetune.tasks.detection.reads.frame import of_image

        frame = of_image(image)
    frame = Frame(frame.width, frame.height, frame.turn, stored=True)
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[3:9, 5:25] = 1
    turned = frame.turned_mask(mask)
    assert turned.shape[::-1] == frame.upright
    ys, xs = np.nonzero(turned)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_array_equal(frame.turned(np.array([[5.0, 3, 25, 9]]))[0], box)


def test_a_declared_upright_size_means_upright_boxes(caplog):
    image = jpeg((64, 48), 6)
    box = {"bbox": [[6, 10, 24, 10]], "category": [0]}
    sizes = {"width": (Value("int64"), [48] * 6), "height": (Value("int64"), [64] * 6)}
    data = drawn.prepared(splits_of([box] * 6, OBJECTS, [image] * 6, **sizes), box_format="xywh")
    np.testing.assert_allclose(drawn.targets(data, "test")[0][0], [[6, 10, 30, 20]])
    assert any("18 images are turned upright by their EXIF" in line for line in caplog.messages)


def test_run_lengths_of_the_stored_size_turn_with_it():
    image = jpeg((64, 48), 6)
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:20, 6:30] = 1
    rle = coco.encode(np.asfortranarray(mask))
    features = OBJECTS | {"rle": List({"size": List(Value("int64")), "counts": Value("string")})}
    held = {"bbox": [[6, 10, 24, 10]], "category": [0], "rle": [{"size": [48, 64], "counts": rle["counts"].decode()}]}
    data = drawn.prepared(splits_of([held] * 6, features, [image] * 6), schema.INSTANCES, box_format="xywh")
    ((boxes, _, (found,)), *_) = drawn.targets(data, "test")
    np.testing.assert_array_equal(coco.decode(found), np.rot90(mask, -1))
    np.testing.assert_allclose(boxes, [[28, 6, 38, 30]])


def test_ids_with_holes_are_dense_and_without_names_are_called_so(caplog):
    features = {"bbox": List(FLOATS), "category_id": List(Value("int64"))}
    objects = [{"bbox": one["bbox"], "category_id": [3, 91]} for one in some()]
    data = drawn.prepared(splits_of(objects, features))
    assert data.schema.classes == ("class 3", "class 91")
    assert data.targets("train")[0].tolist() == [1, 1]
    assert any("ids of classes without names" in line for line in caplog.messages)


def test_names_of_ids_that_do_not_exist_are_no_classes():
    features = {"bbox": List(FLOATS), "category": List(ClassLabel(names=["N/A", "ant", "bee", "cow"]))}
    objects = [{"bbox": one["bbox"], "category": [1, 2]} for one in some()]
    assert drawn.prepared(splits_of(objects, features)).schema.classes == ("ant", "bee", "cow")


def test_images_without_objects_are_kept_and_a_split_of_them_is_without_labels(caplog):
    empty = {"bbox": [], "category": []}
    train = rows_of([*some(12), empty, empty])
    data = drawn.prepared(DatasetDict(train=train, test=rows_of([empty] * 4)))
    assert data.splits.counts()["train"] + data.splits.counts()["validation"] + data.splits.counts()["test"] == 14
    assert data.splits.ignored == ("test",)
    whole = np.concatenate([data.targets(role) for role in data.splits.parts])
    assert (whole.sum(axis=1) == 0).sum() == 2


def test_nothing_said_of_an_image_is_no_label():
    data = drawn.prepared(DatasetDict(train=rows_of([*some(12), None, None])))
    assert sum(data.splits.counts().values()) == 12
    assert data.unlabelled == {"train": 2}


def test_boxes_without_an_area_or_outside_are_left_out_counted_and_listed(caplog):
    objects = some(8)
    objects[2] = {"bbox": [[5, 5, 0, 9], [0, 0, 20, 10]], "category": [0, 2]}
    objects[3] = {"bbox": [[64, 48, 1, 1], [40, 20, 24.5, 28]], "category": [0, 2]}
    data = drawn.prepared(DatasetDict(train=rows_of(objects), test=rows_of(some())), box_format="xywh")
    said = "\n".join(caplog.messages)
    assert "left out: 1 boxes without an area (rows 2)" in said
    assert "left out: 1 boxes outside of their image (rows 3)" in said
    assert "1 boxes reach beyond their image: they are cut" in said
    rows = {int(row): target for part in data.splits.parts.values() if part.source == "train"
            for row, target in zip(part.rows, part.targets, strict=True)}  # fmt: skip
    assert rows[2].sum() == rows[3].sum() == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"bbox": [[np.nan, 1, 2, 3], [0, 0, 5, 5]], "category": [0, 1]},
            r"1 boxes are not numbers \(row 4: box \[nan",
        ),
        ({"bbox": [[0, 0, 5, 5]], "category": [0, 1]}, r"1 rows that cannot be read: row 4: 1 boxes and 2 classes"),
        ({"bbox": [[0, 0, 5]], "category": [0]}, r"row 4: box \[0.0, 0.0, 5.0\]: expected four numbers"),
        (
            {"bbox": [[30, 30, -8, 5], [0, 0, 5, 5]], "category": [0, 1]},
            r"1 boxes have a negative width .* row 4|row 4",
        ),
        ({"bbox": [[0, 0, 5, 5]], "category": [-1]}, r"1 objects have an unknown class \(row 4: -1\): expected 0 to 2"),
    ],
)
def test_what_makes_no_sense_is_an_error_with_its_row(row, message):
    objects = some(300)
    objects[4] = row
    with pytest.raises(SchemaError, match=message):
        drawn.prepared(DatasetDict(train=rows_of(objects)))


def test_crowds_are_counted_nowhere_and_stay_in_evaluation(caplog):
    features = OBJECTS | {"iscrowd": List(Value("int64"))}
    objects = [one | {"iscrowd": [0, 1]} for one in some()]
    data = drawn.prepared(splits_of(objects, features))
    assert data.targets("train").sum() == 6
    made = drawn.inputs(data.schema, drawn.CONFIG)
    image = Image.open(io.BytesIO(jpeg((64, 48))["bytes"]))
    _, target = made.evaluation(image, {"objects": objects[0]})
    assert target["iscrowd"].tolist() == [False, True]
    _, target = made.training(image, {"objects": objects[0]})
    assert len(target["labels"]) == 1
    assert any("18 crowd regions" in line for line in caplog.messages)


def test_a_hole_in_a_mask_stays_a_hole():
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:30, 10:40] = 1
    mask[15:25, 20:30] = 0
    rle = coco.encode(np.asfortranarray(mask))
    features = OBJECTS | {"segmentation": List({"size": List(Value("int64")), "counts": Value("string")})}
    held = {
        "bbox": [[10, 10, 30, 20]],
        "category": [1],
        "segmentation": [{"size": [48, 64], "counts": rle["counts"].decode()}],
    }
    data = drawn.prepared(splits_of([held] * 6, features), schema.INSTANCES, box_format="xywh")
    ((_, _, (found,)), *_) = drawn.targets(data, "test")
    np.testing.assert_array_equal(coco.decode(found), mask)


def test_a_mask_of_another_size_than_its_image_is_an_error():
    rle = coco.encode(np.asfortranarray(np.ones((30, 30), dtype=np.uint8)))
    features = OBJECTS | {"segmentation": List({"size": List(Value("int64")), "counts": Value("string")})}
    held = {
        "bbox": [[0, 0, 30, 30]],
        "category": [1],
        "segmentation": [{"size": [30, 30], "counts": rle["counts"].decode()}],
    }
    with pytest.raises(SchemaError, match=r"row 0.*: a mask of 30 x 30 pixels, and the image has 64 x 48"):
        drawn.prepared(splits_of([held] * 6, features), schema.INSTANCES)


def test_a_tie_is_settled_by_the_flag():
    objects = [{"bbox": [[2, 2, 20, 20]], "category": [n % 2]} for n in range(8)]
    with pytest.raises(SchemaError, match=r"could be xywh or xyxy .*--box-format"):
        drawn.prepared(splits_of(objects))
    for form, expected in (("xywh", [2, 2, 22, 22]), ("xyxy", [2, 2, 20, 20])):
        data = drawn.prepared(splits_of(objects), box_format=form)
        np.testing.assert_allclose(drawn.targets(data, "test")[0][0], [expected])


def test_no_object_at_all_is_an_error():
    empty = {"bbox": [], "category": []}
    with pytest.raises((SchemaError, DatasetError), match="no object in any split"):
        drawn.prepared(DatasetDict(train=rows_of([empty] * 6)))


def test_one_class_without_a_column_of_classes():
    objects = [{"bbox": one["bbox"]} for one in some()]
    data = drawn.prepared(splits_of(objects, {"bbox": List(FLOATS)}))
    assert data.schema.classes == ("object",)
    assert "one class" in data.schema.described()
