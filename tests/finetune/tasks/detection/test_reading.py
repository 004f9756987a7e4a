"""Features of datasets of the Hub -> where their objects are, and which task reads them."""

import pytest
from datasets import Array2D, ClassLabel, Image, LargeList, List, Value

from finetune.errors import SchemaError
from finetune.tasks import registry
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.tasks.detection import schema
from finetune.tasks.detection.schema import infer

PETS = ClassLabel(names=["cat", "dog"])
TEXT, INT, FLOAT = Value("string"), Value("int64"), Value("float32")
BOX = List(FLOAT)
LICENCES = ClassLabel(names=["by", "by-nc", "by-sa"])
DETECTION, INSTANCES = schema.DETECTION, schema.INSTANCES


class Reads:
    """A task of which the reading is all that there is."""

    def __init__(self, name):
        self.name = name

    def recognise(self, features, image_column=None, target_column=None):
        return infer(self.name, features, image_column, target_column)


@pytest.fixture(autouse=True)
def _tasks(monkeypatch):
    """Classification and both tasks of objects, whatever is registered."""
    tasks = (CLASSIFICATION, Reads(DETECTION), Reads(INSTANCES))
    monkeypatch.setattr(registry, "_TASKS", {task.name: task for task in tasks})


# features: task, image column, boxes, classes, kind of the classes, outlines
REAL = {
    "cppe-5": (
        {
            "image_id": INT,
            "image": Image(),
            "width": INT,
            "height": INT,
            "objects": {"id": List(INT), "area": List(INT), "bbox": List(BOX), "category": List(PETS)},
        },
        (DETECTION, "image", "objects.bbox", "objects.category", "class-label", ""),
    ),
    "coco by detection-datasets": (
        {"image": Image(), "objects": {"bbox_id": List(INT), "category": List(PETS), "bbox": List(BOX), "area": BOX}},
        (DETECTION, "image", "objects.bbox", "objects.category", "class-label", ""),
    ),
    "BrandonLSX/coco-2017": (
        {
            "image": Image(),
            "annotations": {
                "id": List(INT),
                "category_id": List(INT),
                "category_name": List(TEXT),
                "bbox": List(BOX),
                "area": BOX,
                "iscrowd": List(INT),
            },
        },
        (DETECTION, "image", "annotations.bbox", "annotations.category_name", "string", ""),
    ),
    "ClownRat/COCO2017, with pictures": (
        {
            "image": Image(),
            "objects": {
                "areas": List(FLOAT),
                "bboxes": List(BOX),
                "classes": List(TEXT),
                "ids": List(INT),
                "iscrowds": List(INT),
                "masks": List({"counts": TEXT, "size": List(INT)}),
            },
        },
        (INSTANCES, "image", "objects.bboxes", "objects.classes", "string", "objects.masks"),
    ),
    "whyen-wang/coco_detection": (
        {
            "image": Image(),
            "bboxes": List(BOX),
            "categories": List(INT),
            "inst.rles": {"size": List(List(INT)), "counts": List(TEXT)},
        },
        (INSTANCES, "image", "bboxes", "categories", "integer", "inst.rles"),
    ),
    "yonigozlan/coco_detection": (
        {"image": Image(), "objects": {"bbox_id": List(INT), "category_id": List(PETS), "bbox": List(BOX)}},
        (DETECTION, "image", "objects.bbox", "objects.category_id", "class-label", ""),
    ),
    "minato-ryan/coco-car-instance": (
        {
            "image": Image(),
            "objects": {"bbox": List(BOX), "categories": List(INT), "area": List(FLOAT), "iscrowd": List(INT)},
            "height": INT,
            "width": INT,
            "date_captured": TEXT,
            "license": LICENCES,
        },
        (DETECTION, "image", "objects.bbox", "objects.categories", "integer", ""),
    ),
    "mthandazo/rsod_object_detection_data": (
        {"image": Image(), "bbox": List(BOX), "area": List(FLOAT), "category": TEXT},
        (DETECTION, "image", "bbox", "category", "string", ""),
    ),
    "tiny-object-detection-aquarium-dataset": (
        {
            "image": Image(),
            "height": INT,
            "width": INT,
            "bbox": List(BOX),
            "label": List(INT),
            "category": List(TEXT),
            "annotations": {
                "annotations": List({"area": FLOAT, "bbox": BOX, "category_id": INT}),
                "image_id": INT,
            },
        },
        (DETECTION, "image", "bbox", "category", "string", ""),
    ),
    "makeabilitylab/disabilityparking": (
        {
            "image": Image(),
            "objects": {
                "bbox": List(BOX),
                "category": List(INT),
                "area": BOX,
                "iscrowd": List(INT),
                "id": List(INT),
                "segmentation": List(List(BOX)),
            },
        },
        (INSTANCES, "image", "objects.bbox", "objects.category", "integer", "objects.segmentation"),
    ),
    "KIRANKALLA/weaponds3": (
        {
            "image": Image(),
            "annotations": List(
                {
                    "id": INT,
                    "category_id": INT,
                    "bbox": BOX,
                    "segmentation": List(BOX),
                    "area": FLOAT,
                    "iscrowd": INT,
                }
            ),
        },
        (INSTANCES, "image", "annotations.bbox", "annotations.category_id", "integer", "annotations.segmentation"),
    ),
    "Charitarth/dac-sdc-2023": (
        {"image": Image(), "objects": {"area": BOX, "bbox": List(BOX), "catagories": List(TEXT)}},
        (DETECTION, "image", "objects.bbox", "objects.catagories", "string", ""),
    ),
    "jtatman/yolo5_russianlicenseplates_detect": (
        {"image": Image(), "objects": {"bbox": List(BOX), "categories": List(INT)}},
        (DETECTION, "image", "objects.bbox", "objects.categories", "integer", ""),
    ),
    "segmented-imagenet1k-subset": (
        {"image": Image(), "boxes": List(BOX), "labels": List(TEXT), "scores": BOX, "masks": List(Image())},
        (INSTANCES, "image", "boxes", "labels", "string", "masks"),
    ),
    "Bao003/cloth, with pictures": (
        {
            "image": Image(),
            "mask": Image(),
            "segments_info": List({"id": INT, "category_id": INT, "area": INT, "bbox": BOX, "iscrowd": INT}),
        },
        (INSTANCES, "image", "segments_info.bbox", "segments_info.category_id", "integer", "mask: panoptic"),
    ),
    "qubvel-hf/ade20k-mini": (
        {"image": Image(), "annotation": Image(), "semantic_class_to_id": {"wall": INT, "sky": INT}},
        (INSTANCES, "image", "", "", "string", "annotation: classes"),
    ),
    "boxes as an array": (
        {"image": Image(), "boxes": Array2D((None, 4), "float32"), "names": List(TEXT)},
        (DETECTION, "image", "boxes", "names", "string", ""),
    ),
    "a large list of structs": (
        {"image": Image(), "objects": LargeList({"bbox": BOX, "category": PETS})},
        (DETECTION, "image", "objects.bbox", "objects.category", "class-label", ""),
    ),
    "wider_face": (
        {"image": Image(), "faces": {"bbox": List(BOX), "blur": List(PETS), "occlusion": List(PETS)}},
        (DETECTION, "image", "faces.bbox", "", "none", ""),
    ),
    "no class": (
        {"image": Image(), "objects": {"bbox": List(BOX)}},
        (DETECTION, "image", "objects.bbox", "", "none", ""),
    ),
    "a struct of a category": (
        {"image": Image(), "objects": List({"bbox": BOX, "category": {"id": INT, "name": TEXT}})},
        (DETECTION, "image", "objects.bbox", "objects.category.name", "string", ""),
    ),
}


def told(found):
    where = found.where
    drawn = f"{where.picture}: {where.drawn}" if where.picture else ",".join(".".join(path) for path in where.outlines)
    boxes = ".".join(where.boxes.paths[0]) if where.boxes else ""
    return found.task, where.image, boxes, ".".join(where.classes or ()), where.kind, drawn


@pytest.mark.parametrize("name", REAL)
def test_forms_of_the_hub(name):
    features, expected = REAL[name]
    assert told(registry.READING.recognise(features)) == expected


def test_boxes_alone_can_be_asked_for():
    features = REAL["KIRANKALLA/weaponds3"][0]
    assert registry.reader(DETECTION).recognise(features).task == DETECTION


def test_a_class_of_the_whole_image_is_a_second_reading():
    features = {"image": Image(), "objects": List({"bbox": BOX, "category": PETS}), "weather": PETS}
    with pytest.raises(SchemaError, match=r"image-classification .*--target-column weather\) or as .*object-detection"):
        registry.READING.recognise(features)
    assert registry.READING.recognise(features, target_column="weather").task == "image-classification"
    assert registry.READING.recognise(features, target_column="objects").task == DETECTION
    assert registry.reader(DETECTION).recognise(features).task == DETECTION


@pytest.mark.parametrize("aside", ["license", "image_id", "split"])
def test_what_describes_an_image_is_no_second_reading(aside):
    features = {"image": Image(), "objects": List({"bbox": BOX, "category": PETS}), aside: LICENCES}
    assert registry.READING.recognise(features).task == DETECTION


def test_nothing_of_the_kind():
    for task in (DETECTION, INSTANCES):
        with pytest.raises(SchemaError, match=r"no column holds .*columns are image, label"):
            infer(task, {"image": Image(), "label": PETS})
    with pytest.raises(SchemaError, match="no column holds polygons, run lengths or bitmaps"):
        infer(INSTANCES, {"image": Image(), "objects": List({"bbox": BOX, "category": PETS})})


def test_the_form_may_be_in_the_name():
    for name, form in (("bbox_xyxy", "xyxy"), ("boxes_xywh", "xywh"), ("bbox_cxcywh_normalised", "cxcywh-normalised")):
        found = infer(DETECTION, {"image": Image(), "objects": {name: List(BOX), "category": List(PETS)}})
        assert found.where.boxes.form == form


def test_flags_of_the_reading_reach_it():
    features = REAL["cppe-5"][0]
    assert registry.reader(None, {"box_format": "xyxy"}).recognise(features).form == "xyxy"
    assert registry.reader(DETECTION, {"box_format": None}).recognise(features).form == ""
    plain = registry.reader(None, {"box_format": "xyxy"}).recognise({"image": Image(), "label": PETS})
    assert plain.task == "image-classification"


def test_streams_are_refused():
    with pytest.raises(SchemaError, match="--streaming: object-detection reads its dataset before the training"):
        infer(DETECTION, REAL["cppe-5"][0]).declared(None)
