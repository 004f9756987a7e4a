"""COCO's panoptic form, in a folder and as columns: the boxes and masks of run lengths of the same pixels."""

import io
import json
import logging

import numpy as np
import pytest
from datasets import ClassLabel, List, Value
from datasets import Image as ImageFeature
from faster_coco_eval import mask as coco
from PIL import Image

from finetune.data import source
from finetune.errors import DatasetError, SchemaError
from finetune.tasks.detection import schema
from finetune.tasks.segmentation import schema as semantic
from tests.finetune.tasks.detection import drawn


@pytest.fixture(autouse=True)
def _said(caplog):
    caplog.set_level(logging.INFO, "finetune")


SKY, GRASS = 0x010203, 0x7F0001
IDS = {1: "ant", 4: "bee", 7: "cow", 100: "sky", 101: "grass"}


def segments(one):
    """Ids by pixel int64 [h, w], and of each segment id, category and pixels; sky above, grass below, a void edge."""
    ids = np.full((one.size[1], one.size[0]), SKY)
    ids[one.size[1] // 2 :] = GRASS
    ids[:, 0] = 0
    for number, rle in enumerate(one.rles(), 1):
        ids[coco.decode(rle) > 0] = number + 256 * 200 + 65536 * 9
    found = [(n + 1 + 256 * 200 + 65536 * 9, 3 * label + 1) for n, label in enumerate(one.labels)]
    found += [(SKY, 100), (GRASS, 101)]
    return ids, [(number, kind, ids == number) for number, kind in found if (ids == number).any()]


def picture(ids):
    return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8))


def box(plane):
    ys, xs = np.nonzero(plane)
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


def described(one):
    return [
        {"id": n, "category_id": kind, "area": int(plane.sum()), "bbox": box(plane), "iscrowd": 0}
        for n, kind, plane in segments(one)[1]
    ]


def categories(things=True):
    return [
        {"id": n, "name": name} | ({"isthing": int(n < 100), "supercategory": "all"} if things else {})
        for n, name in IDS.items()
    ]


FOLDERS = {"train": "train2017", "validation": "val2017", "test": "test2017"}


def write_panoptic(root, where="", things=True):
    """As COCO publishes it; below `annotations` as it is commonly unpacked."""
    for split, year in FOLDERS.items():
        images, annotations = [], []
        for number, one in enumerate(drawn.ALL[split]):
            drawn.save(one, root / year / f"{one.name}.png")
            path = root / where / f"panoptic_{year}" / f"{one.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(segments(one)[0]).save(path)
            images.append({"id": number, "file_name": f"{one.name}.png", "width": one.size[0], "height": one.size[1]})
            annotations.append({"image_id": number, "file_name": f"{one.name}.png", "segments_info": described(one)})
        held = {"images": images, "annotations": annotations, "categories": categories(things)}
        (root / where / f"panoptic_{year}.json").write_text(json.dumps(held))


def write_runs(root):
    """The same things in COCO's other form, with run lengths of the same pixels."""
    for split, year in FOLDERS.items():
        images, annotations = [], []
        for number, one in enumerate(drawn.ALL[split]):
            drawn.save(one, root / year / f"{one.name}.png")
            images.append({"id": number, "file_name": f"{one.name}.png", "width": one.size[0], "height": one.size[1]})
            for row, (_, _, plane) in zip(described(one), segments(one)[1], strict=True):
                rle = drawn.runs(coco.encode(np.asfortranarray(plane.astype(np.uint8))))
                if row["category_id"] < 100:
                    annotations.append(row | {"id": len(annotations), "image_id": number, "segmentation": rle})
        held = {"images": images, "annotations": annotations, "categories": categories()[:3]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{year}.json").write_text(json.dumps(held))


def all_targets(data):
    return {role: drawn.targets(data, role) for role in drawn.SIZES}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """What is read of the run lengths."""
    root = tmp_path_factory.mktemp("known")
    write_runs(root)
    data = drawn.prepared(str(root), schema.INSTANCES)
    found = all_targets(data)
    assert sum(len(names) for of_role in found.values() for _, names, _ in of_role) > 20
    return data.schema.classes, found


def check_same(data, known):
    """Whether boxes, classes and masks are those of the run lengths."""
    classes, expected = known
    assert data.schema.classes == classes
    assert data.splits.counts() == drawn.SIZES
    for role, found in all_targets(data).items():
        for (boxes, names, rles), (true_boxes, true_names, truth) in zip(found, expected[role], strict=True):
            assert names == true_names
            np.testing.assert_allclose(boxes, true_boxes, atol=1e-4)
            assert rles == truth


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", "annotations"])
def test_a_folder_is_the_same_as_run_lengths(where, known, tmp_path, caplog):
    write_panoptic(tmp_path, where)
    check_same(drawn.prepared(str(tmp_path), schema.INSTANCES), known)
    assert "objects of 3 classes (COCO panoptic: " in caplog.text
    assert "44 segments of stuff, which is no object (sky 22, grass 22)" in caplog.text


def test_boxes_alone_of_a_panoptic_folder(known, tmp_path):
    write_panoptic(tmp_path)
    data = drawn.prepared(str(tmp_path), schema.DETECTION)
    for role, found in all_targets(data).items():
        for (boxes, names, rles), (true_boxes, true_names, _) in zip(found, known[1][role], strict=True):
            assert names == true_names
            assert rles == []
            np.testing.assert_allclose(boxes, true_boxes, atol=1e-4)


def test_all_segments_are_objects_where_nothing_is_said_of_things(tmp_path, caplog):
    write_panoptic(tmp_path, things=False)
    data = drawn.prepared(str(tmp_path), schema.INSTANCES)
    assert data.schema.classes == tuple(IDS.values())
    assert "stuff" not in caplog.text
    _, names, rles = drawn.targets(data, "test")[2]  # of the image without hexagons
    assert names == ["sky", "grass"]
    assert [coco.area(rle) for rle in rles] == [int(plane.sum()) for _, _, plane in segments(drawn.ALL["test"][2])[1]]


def test_instances_beside_are_read_first_and_the_other_can_be_chosen(known, tmp_path, caplog):
    write_panoptic(tmp_path, "annotations", things=False)
    write_runs(tmp_path)
    check_same(drawn.prepared(str(tmp_path), schema.INSTANCES), known)
    assert "(COCO JSON: annotations/instances_" in caplog.text
    chosen = drawn.prepared(str(tmp_path / "annotations/panoptic_train2017.json"), schema.INSTANCES)
    assert chosen.schema.classes == tuple(IDS.values())
    assert sum(chosen.splits.counts().values()) == drawn.SIZES["train"]


def test_pictures_of_the_names_of_their_images_elsewhere_are_found_by_the_folder(known, tmp_path):
    write_panoptic(tmp_path)
    for year in FOLDERS.values():
        (tmp_path / "more" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"panoptic_{year}").rename(tmp_path / "more" / "deep" / f"panoptic_{year}")
    check_same(drawn.prepared(str(tmp_path), schema.INSTANCES), known)


def test_the_pictures_stay_a_column_for_semantic_segmentation(tmp_path):
    write_panoptic(tmp_path)
    splits = source.load(str(tmp_path)).splits
    assert semantic.infer(splits["train"].features, target_column="mask").target_column == "mask"
    assert np.array_equal(np.array(splits["test"][1]["mask"]), np.array(picture(segments(drawn.ALL["test"][1])[0])))


def edited(root, change):
    write_panoptic(root)
    path = root / "panoptic_test2017.json"
    held = json.loads(path.read_text())
    change(held, root)
    path.write_text(json.dumps(held))


def no_pictures(held, root):
    for path in (root / "panoptic_test2017").iterdir():
        path.unlink()


def one_picture_less(held, root):
    (root / "panoptic_test2017" / f"{drawn.ALL['test'][1].name}.png").unlink()


def unknown_category(held, root):
    held["annotations"][0]["segments_info"][0]["category_id"] = 55


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_pictures, r"panoptic_test2017.json: its pictures \(test_00.png, .* the folder panoptic_test2017; unpack"),
        (one_picture_less, r"the pictures of 1 images are not there \(test2017/test_01.png\): expected one beside"),
        (
            unknown_category,
            r"panoptic_test2017.json: annotations of categories 55, .* not list; it has 1, 4",
        ),
    ],
)
def test_files_that_are_wrong_are_named(change, message, tmp_path):
    edited(tmp_path, change)
    with pytest.raises(DatasetError, match=message):
        drawn.prepared(str(tmp_path), schema.INSTANCES)


def test_a_picture_without_a_segment_or_of_another_size_is_an_error_with_its_row(tmp_path):
    write_panoptic(tmp_path)
    names = [one.name for one in drawn.ALL["test"]]
    Image.new("RGB", drawn.ALL["test"][0].size).save(tmp_path / "panoptic_test2017" / f"{names[0]}.png")
    picture(segments(drawn.ALL["test"][1])[0]).resize((99, 99), 0).save(
        tmp_path / "panoptic_test2017" / f"{names[1]}.png"
    )
    (tmp_path / "panoptic_test2017" / f"{names[3]}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    said = (
        r"3 rows .* row 0 of 'test': segments \[\d+.* not in the panoptic picture; row 1 of 'test': a mask of 99 x 99"
    )
    with pytest.raises(SchemaError, match=said + r".*row 3 of 'test': a mask that cannot be read"):
        drawn.prepared(str(tmp_path), schema.INSTANCES)


# --- columns ---------------------------------------------------------------------------------------------------------


def hub(boxes=True, things=True, palette=False, mask="panoptic"):
    """Rows as the Hub has them; `isthing` beside the ids."""
    order = list(IDS)

    def row(one):
        made = [
            {"id": info["id"], "category_id": order.index(info["category_id"])}
            | ({"bbox": info["bbox"], "area": info["area"]} if boxes else {})
            | ({"isthing": info["category_id"] < 100} if things else {})
            for info in described(one)
            if things or info["category_id"] < 100
        ]
        shown = picture(segments(one)[0])
        shown = shown.quantize(colors=16) if palette else shown
        return {mask: {"bytes": drawn.png(shown), "path": None}, "segments_info": made}

    feature = {"id": Value("int64"), "category_id": ClassLabel(names=list(IDS.values()))}
    feature |= {"bbox": List(Value("float32")), "area": Value("int64")} if boxes else {}
    feature |= {"isthing": Value("bool")} if things else {}
    return drawn.dataset_of({mask: ImageFeature(), "segments_info": List(feature)}, row)


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("mask", ["panoptic", "label"])
def test_columns_are_the_same_as_run_lengths(boxes, mask, known, caplog):
    check_same(drawn.prepared(hub(boxes, mask=mask), schema.INSTANCES), known)
    assert "left out: 44 segments of stuff, which is no object (sky 22, grass 22)" in caplog.text


def test_a_second_mask_beside_is_not_the_panoptic_one(known):
    def label(row):
        return {"label": Image.fromarray(np.zeros((row["image"].height, row["image"].width), dtype=np.uint8))}

    check_same(drawn.prepared(hub().map(label), schema.INSTANCES), known)


def test_a_palette_is_its_colours(known):
    splits = hub(palette=True)
    assert Image.open(io.BytesIO(splits["train"].with_format("arrow")[:1]["panoptic"][0]["bytes"].as_py())).mode == "P"
    check_same(drawn.prepared(splits, schema.INSTANCES), known)


# --- through the command line ----------------------------------------------------------------------------------------


@pytest.mark.slow(seconds=60)
def test_it_trains_and_evaluates_from_the_folder(cli, tmp_path):
    data, run = tmp_path / "animals", tmp_path / "run"
    write_panoptic(data, "annotations")
    words = "--model resnest14d --no-pretrained --image-size 64 --epochs 1 --batch-size 7 --precision 32-true"
    words += " --no-robustness"
    done = cli("finetune", "--dataset", data, *words.split(), "--workers", 0, "--accelerator", "cpu", "--output", run)
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "instance-segmentation"  # by itself
    assert result["dataset"]["classes"] == ["ant", "bee", "cow"]
    things = [
        sum(3 * n + 1 == info["category_id"] for o in drawn.ALL["test"] for info in described(o)) for n in (0, 1, 2)
    ]
    assert result["dataset"]["object_counts"]["test"] == things
    assert sum(things) > 3
    assert "mask_map" in result["metrics"]["test"]
    again = cli("finetune", "evaluate", run, "--accelerator", "cpu", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["metrics"]["mask_map"] == pytest.approx(result["metrics"]["test"]["mask_map"])
