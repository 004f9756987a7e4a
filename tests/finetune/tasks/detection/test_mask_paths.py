"""Masks that are named by their paths: the same boxes and masks as pictures that the dataset holds."""

import csv
import io
import json
import logging
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from faster_coco_eval import mask as coco
from PIL import Image

from finetune.data import source
from finetune.errors import SchemaError
from finetune.tasks.detection import schema
from tests.finetune.tasks.detection import drawn


@pytest.fixture(autouse=True)
def _said(caplog):
    caplog.set_level(logging.INFO, "finetune")


def bitmaps(one):
    return [Image.fromarray(255 * coco.decode(rle)) for rle in one.rles()]


def written(one, folder, prefix="masks"):
    """Paths of the masks of an image, which are put there."""
    paths = []
    for number, bitmap in enumerate(bitmaps(one)):
        paths.append(f"{prefix}/{one.name}_{number}.png")
        (folder / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
        bitmap.save(folder / paths[-1])
    return paths


def by_index(one, folder):
    """The path of one mask of all objects, which must not overlap."""
    path = folder / "masks" / f"{one.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn.drawing(one, "index")["bytes"])
    return [f"masks/{one.name}.png"] * len(one.labels)


def jsonl(root, row, below="", images=""):
    """`row` gives the fields of an image and the folder of its table."""
    for split in drawn.ALL:
        folder, lines = root / split / below, []
        for one in drawn.ALL[split]:
            drawn.save(one, folder / images / f"{one.name}.png")
            name = f"{images}/{one.name}.png" if images else f"{one.name}.png"
            lines.append(json.dumps({"file_name": name} | row(one, folder)))
        (folder / "metadata.jsonl").write_text("\n".join(lines))


def held(one, **more):
    return {"bbox": one.xywh(), "categories": drawn.names_of(one)} | more


def of_lists(root):
    jsonl(root, lambda one, folder: {"objects": held(one, mask=written(one, folder))})


def of_structs(root):
    def row(one, folder):
        parts = zip(one.xywh(), drawn.names_of(one), written(one, folder), strict=True)
        return {"objects": [{"bbox": b, "category": n, "mask_path": p} for b, n, p in parts]}

    jsonl(root, row)


def called_segmentation(root):
    jsonl(root, lambda one, folder: {"objects": held(one, segmentation=written(one, folder))}, images="images")


def with_backslashes(root):
    def row(one, folder):
        return {"objects": held(one, mask=[path.replace("/", "\\") for path in written(one, folder)])}

    jsonl(root, row, images="images")


def from_the_root(root):
    def row(one, folder):
        return {"objects": held(one, mask=written(one, root, f"masks/{folder.name}"))}

    jsonl(root, row)


def top_level(root):
    def row(one, folder):
        return {"bboxes": one.xywh(), "labels": drawn.names_of(one), "masks": written(one, folder)}

    jsonl(root, row)


def in_csv(root):
    for split in drawn.ALL:
        with io.StringIO(newline="") as buffer:
            table = csv.writer(buffer)
            table.writerow(["file_name", "objects"])
            for one in drawn.ALL[split]:
                drawn.save(one, root / split / f"{one.name}.png")
                table.writerow([f"{one.name}.png", json.dumps(held(one, mask=written(one, root / split)))])
            (root / split / "metadata.csv").write_text(buffer.getvalue())


def in_coco(root, key="segmentation"):
    drawn.write_coco(root)
    for split, year in (("train", "train2017"), ("validation", "val2017"), ("test", "test2017")):
        path = root / "annotations" / f"instances_{year}.json"
        content = json.loads(path.read_text())
        paths = [path for one in drawn.ALL[split] for path in written(one, root / year)]
        for annotation, mask in zip(content["annotations"], paths, strict=True):
            annotation[key] = mask
        path.write_text(json.dumps(content))


def in_coco_beside(root):
    in_coco(root, "mask")


FOLDERS = [of_lists, of_structs, called_segmentation, with_backslashes, from_the_root, top_level, in_csv, in_coco]
FOLDERS.append(in_coco_beside)


def check(data):
    assert data.schema.classes == drawn.NAMES
    assert data.splits.counts() == drawn.SIZES
    assert not data.unlabelled  # masks are no images
    for role, of_role in drawn.ALL.items():
        for one, (boxes, names, rles) in zip(of_role, drawn.targets(data, role), strict=True):
            assert names == drawn.names_of(one)
            np.testing.assert_allclose(boxes, np.array(one.boxes, dtype=np.float32).reshape(-1, 4), atol=1e-3)
            assert rles == one.rles()


def test_pictures_that_the_dataset_holds_are_what_the_others_are_compared_with():
    check(drawn.prepared(drawn.MASKED["bitmaps"](), schema.INSTANCES))


@pytest.mark.parametrize("write", FOLDERS)
def test_paths_are_the_same_as_pictures(write, tmp_path):
    write(tmp_path)
    check(drawn.prepared(str(tmp_path), schema.INSTANCES))


def test_one_mask_of_all_objects_has_the_number_of_each(tmp_path):
    jsonl(tmp_path, lambda one, folder: {"objects": held(one, mask=by_index(one, folder))})
    data = drawn.prepared(str(tmp_path), schema.INSTANCES)
    several = 0
    for one, (_, names, rles) in zip(drawn.ALL["train"], drawn.targets(data, "train"), strict=True):
        index = np.array(Image.open(io.BytesIO(drawn.drawing(one, "index")["bytes"])))
        assert names == drawn.names_of(one)
        several += len(names) > 1
        if len(names) > 1:
            assert all(np.array_equal(coco.decode(rle), index == n) for n, rle in enumerate(rles, 1))
        else:
            assert rles == one.rles()
    assert several > 3


def test_one_mask_that_lacks_an_object_is_an_error_with_its_row(tmp_path):
    jsonl(tmp_path, lambda one, folder: {"objects": held(one, mask=by_index(one, folder))})
    one = next(one for one in drawn.ALL["test"] if len(one.labels) > 1)
    Image.new("L", one.size, 1).save(tmp_path / "test/masks" / f"{one.name}.png")
    with pytest.raises(SchemaError, match=r"row \d of 'test': \d objects name one mask .* no pixel of \[2.*value n in"):
        drawn.prepared(str(tmp_path), schema.INSTANCES)


def test_a_path_that_is_not_there_is_an_error_with_its_row(tmp_path):
    of_lists(tmp_path)
    (tmp_path / "test/masks" / f"{drawn.ALL['test'][1].name}_1.png").unlink()
    with pytest.raises(SchemaError, match=r"1 rows .* row 1 of 'test': the mask .*masks/test_01_1.png is not there"):
        drawn.prepared(str(tmp_path), schema.INSTANCES)


@pytest.mark.parametrize("form", ["../secret.png", "absolute", "link"])
def test_a_path_out_of_the_folder_is_refused(form, tmp_path):
    root, secret = tmp_path / "data", tmp_path / "secret.png"
    one = drawn.ALL["test"][1]
    root.mkdir()
    bitmaps(one)[0].save(secret)

    def row(picture, folder):
        paths = written(picture, folder)
        if picture is one:
            paths[0] = {"../secret.png": "../../secret.png", "absolute": str(secret), "link": "masks/link.png"}[form]
            if form == "link":
                (folder / "masks/link.png").symlink_to(secret)
        return {"objects": held(picture, mask=paths)}

    jsonl(root, row)
    with pytest.raises(SchemaError, match=r"1 rows .* row 1 of 'test': [^ ]*png lies outside of the dataset's folder"):
        drawn.prepared(str(root), schema.INSTANCES)


def parquet(root, paths, image_type):
    """Rows whose images are held and whose masks are named."""
    features = Features(
        {
            "image": ImageFeature(),
            "boxes": List(List(Value("float32"))),
            "labels": List(Value("string")),
            "masks": List(image_type),
        }
    )
    for split in drawn.ALL:
        rows = []
        for one in drawn.ALL[split]:
            masks = paths(one)
            if isinstance(image_type, ImageFeature):
                masks = [{"bytes": None, "path": path} for path in masks]
            picture = {"bytes": drawn.png(one.image), "path": None}
            rows.append({"image": picture, "boxes": one.boxes, "labels": drawn.names_of(one), "masks": masks})
        table = Dataset.from_list(rows, features=features).data.table  # to_parquet would look for the files
        pq.write_table(table.cast(features.arrow_schema), root / f"{split}.parquet")


@pytest.mark.parametrize("kind", [Value("string"), ImageFeature()])
def test_paths_in_parquet_start_from_its_folder(kind, tmp_path):
    parquet(tmp_path, lambda one: written(one, tmp_path), kind)
    check(drawn.prepared(str(tmp_path), schema.INSTANCES))


@pytest.mark.parametrize("kind", [Value("string"), ImageFeature()])
def test_paths_in_parquet_lead_nowhere_else(kind, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    parquet(root, lambda one: [str(tmp_path / path) for path in written(one, tmp_path)], kind)
    with pytest.raises(
        SchemaError, match=r"rows that cannot be read: row 0 of 'train': [^ ]* lies outside of the dataset's folder"
    ):
        drawn.prepared(str(root), schema.INSTANCES)


def test_boxes_alone_of_masks_by_path(tmp_path):
    of_lists(tmp_path)
    data = drawn.prepared(str(tmp_path), schema.DETECTION)
    assert drawn.targets(data, "test")[1][1] == drawn.names_of(drawn.ALL["test"][1])


def test_one_mask_an_image_beside_no_objects_stays_a_mask_of_classes(tmp_path):
    jsonl(tmp_path, lambda one, folder: {"mask": (by_index(one, folder) or ["masks/none.png"])[0]})
    splits = source.load(str(tmp_path)).splits
    assert isinstance(splits["train"].features["mask"], ImageFeature)


def test_masks_of_an_archive_in_deep_folders_lead_nowhere_else(tmp_path):
    """Its folders are said to lie where the archive does, which is not where it was unpacked."""
    root, content = tmp_path / "data", tmp_path / "content"
    secret = tmp_path / "secret.png"
    in_coco(content)
    one = drawn.ALL["train"][0]
    bitmaps(one)[0].save(secret)
    path = content / "annotations/instances_train2017.json"
    held_there = json.loads(path.read_text())
    held_there["annotations"][0]["segmentation"] = str(secret)
    path.write_text(json.dumps(held_there))
    deep = root / "a/b/c/d/e/f/g/h"
    deep.mkdir(parents=True)
    with zipfile.ZipFile(deep / "first.zip", "w") as archive:
        for file in sorted(file for file in content.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(content))
    with zipfile.ZipFile(deep / "second.zip", "w") as archive:  # of one alone the name is no folder
        archive.writestr("more/extra.png", drawn.png(one.image))
    with pytest.raises(SchemaError, match=r"1 rows .* row 0 of 'train': [^ ]*png lies outside of the dataset's folder"):
        drawn.prepared(str(root), schema.INSTANCES)
