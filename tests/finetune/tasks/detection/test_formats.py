"""One drawn set, written in every form that is read, is the same boxes, classes, masks and splits."""

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import mask as coco

from finetune.errors import DatasetError
from finetune.tasks.detection import schema
from tests.finetune.tasks.detection import drawn


def check(data, masks=False, tolerance=1e-3):
    """Whether everything is as it was drawn."""
    assert set(data.schema.classes) == set(drawn.NAMES)
    assert data.splits.counts() == drawn.SIZES
    for role, of_role in drawn.ALL.items():
        found = drawn.targets(data, role)
        for one, (boxes, names, rles) in zip(of_role, found, strict=True):
            assert names == drawn.names_of(one)
            np.testing.assert_allclose(boxes, np.array(one.boxes, dtype=np.float32).reshape(-1, 4), atol=tolerance)
            assert len(rles) == (len(names) if masks else 0)
            for rle, truth in zip(rles, one.rles() if masks else [], strict=True):
                assert rle["size"] == truth["size"]
                assert coco.iou([rle], [truth], [0])[0, 0] > 0.99
        order = [data.schema.classes.index(name) for name in drawn.NAMES]
        expected = [np.bincount(one.labels, minlength=3) for one in of_role]
        np.testing.assert_array_equal(data.targets(role)[:, order], expected)


@pytest.mark.parametrize("name", drawn.HUB)
def test_forms_of_the_hub(name):
    check(drawn.prepared(drawn.HUB[name]()))


@pytest.mark.parametrize("name", drawn.FOLDERS)
def test_folders(name, tmp_path):
    drawn.FOLDERS[name](tmp_path)
    check(drawn.prepared(str(tmp_path)))


@pytest.mark.parametrize("name", drawn.MASKED)
def test_masks(name):
    data = drawn.prepared(drawn.MASKED[name](), schema.INSTANCES)
    check(data, masks=True, tolerance=1.0 if "without boxes" in name else 1e-3)


@pytest.mark.parametrize("name", drawn.MASKED_FOLDERS)
def test_folders_with_masks(name, tmp_path):
    drawn.MASKED_FOLDERS[name](tmp_path)
    check(drawn.prepared(str(tmp_path), schema.INSTANCES), masks=True)


@pytest.mark.parametrize("name", ["polygons", "bitmaps", "run lengths at the top"])
def test_boxes_alone_of_a_set_with_masks(name):
    check(drawn.prepared(drawn.MASKED[name]()))


@pytest.mark.parametrize("name", [*drawn.FOLDERS, "COCO panoptic"])
def test_the_page_of_the_documentation_has_every_layout(name):
    page = (Path(__file__).resolve().parents[4] / "docs/how-to/detection.md").read_text(encoding="utf-8")
    assert sum(line.startswith(f"| {name} | ") for line in page.splitlines()) == 1


# --- what is wrong in files ------------------------------------------------------------------------------------------


def edit(path, change):
    """Change the JSON of a file."""
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def unknown_category(root):
    drawn.write_coco(root)
    edit(root / "annotations/instances_train2017.json", lambda held: held["annotations"][3].update(category_id=77))


def unknown_image(root):
    drawn.write_coco(root)
    edit(root / "annotations/instances_train2017.json", lambda held: held["annotations"][3].update(image_id=999))


def bad_box(root):
    drawn.write_coco(root)
    edit(root / "annotations/instances_train2017.json", lambda held: held["annotations"][3].update(bbox=[1, 2, 3]))


def twice(root):
    drawn.write_coco(root)
    held = (root / "annotations/instances_train2017.json").read_text()
    (root / "annotations/more_train.json").write_text(held)


def bad_line(root):
    drawn.write_yolo(root)
    next((root / "train/labels").glob("*.txt")).write_text("0 0.5 0.5\n")


def nameless(root):
    drawn.write_yolo(root)
    next((root / "train/labels").glob("*.txt")).write_text("9 0.5 0.5 0.1 0.1\n")


def entities(root):
    drawn.write_voc(root)
    path = next((root / "Annotations").glob("*.xml"))
    path.write_text('<!DOCTYPE a [<!ENTITY b "ant">]>' + path.read_text())


def damaged(root):
    drawn.write_voc(root)
    path = next((root / "Annotations").glob("*.xml"))
    path.write_text(path.read_text()[:-20])


def no_corner(root):
    drawn.write_corners(root)
    path = root / "train/_annotations.csv"
    lines = path.read_text().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:-1], "x"])
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            unknown_category,
            r"_train2017.json: annotations of categories 77, which it does not list; it has 1, 4",
        ),
        (unknown_image, r"1 annotations of images that it does not list \(image_id 999\)"),
        (bad_box, r"annotation 3 has bbox \[1, 2, 3\]: expected x, y, width, height"),
        (
            twice,
            r"_train2017.json and annotations/more_train.json both name .*--dataset FOLDER/annotations/m",
        ),
        (bad_line, r"train/labels/.*txt, line 1: '0 0.5 0.5': expected a class and four numbers"),
        (nameless, r"train/labels/.*txt: class 9 has no name"),
        (entities, r"Annotations/.*xml declares a document type or entities, which are not read"),
        (damaged, r"cannot read Annotations/.*xml: "),
        (no_corner, r"_annotations.csv: row 2 has the corners .*: expected four numbers"),
    ],
)
def test_files_that_are_wrong_are_named(write, message, tmp_path):
    write(tmp_path)
    with pytest.raises(DatasetError, match=message):
        drawn.prepared(str(tmp_path))


def test_one_file_of_several_can_be_chosen(tmp_path):
    for one in drawn.ALL["train"]:
        drawn.save(one, tmp_path / f"{one.name}.png")
    for name, count in (("all.json", 14), ("few.json", 9)):
        (tmp_path / name).write_text(json.dumps(drawn.coco_json(drawn.ALL["train"][:count])))
    data = drawn.prepared(str(tmp_path / "few.json"))
    assert sum(data.splits.counts().values()) == 9
    assert data.unlabelled == {"train": 5}


def test_the_original_voc_counts_pixels_from_one(tmp_path):
    drawn.write_voc(tmp_path)
    for path in (tmp_path / "Annotations").glob("*.xml"):
        text = path.read_text().replace("<size>", "<source><annotation>PASCAL VOC2007</annotation></source><size>")
        path.write_text(text)
    data = drawn.prepared(str(tmp_path))
    expected = np.array(drawn.ALL["test"][0].boxes[0]) - [1, 1, 0, 0]
    np.testing.assert_allclose(drawn.targets(data, "test")[0][0][0], expected.clip(0))


def test_texts_beside_images_that_are_no_boxes_are_no_yolo(tmp_path):
    for folder in ("ant", "bee"):
        for one in drawn.ALL["train"][:6]:
            drawn.save(one, tmp_path / folder / f"{one.name}.png")
            (tmp_path / folder / f"{one.name}.txt").write_text("a small insect on a leaf")
    from tests.finetune.classes import prepare

    assert prepare(str(tmp_path)).schema.classes == ("ant", "bee")
