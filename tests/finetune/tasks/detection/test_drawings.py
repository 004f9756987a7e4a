"""Objects that a second image shows: panoptic ids, class and object, numbers; against the pixels that were drawn."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, List, Value
from datasets import Image as ImageFeature
from faster_coco_eval import mask as coco
from PIL import Image

from finetune.errors import SchemaError
from finetune.tasks.detection import schema
from tests.finetune.tasks.detection import drawn

TABLE = {"background": 0, "ant": 1, "bee": 2, "cow": 3}


def planes(one):
    """Bool [h, w] of each hexagon that is seen, and its number."""
    values = np.array(Image.open(io.BytesIO(drawn.drawing(one, "index")["bytes"])))
    return [(n, values == n + 1) for n in drawn.visible(one)]


def boxes(one):
    found = []
    for _, plane in planes(one):
        ys, xs = np.nonzero(plane)
        found.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return found


def panoptic():
    def row(one):
        segments = [
            {"id": n + 1 + 256 * 1 + 65536 * 2, "category_id": one.labels[n], "area": int(p.sum()), "iscrowd": 0}
            | {"bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
            for (n, p), b in zip(planes(one), boxes(one), strict=True)
        ]
        return {"mask": drawn.drawing(one, "panoptic"), "segments_info": segments}

    feature = {name: Value("int64") for name in ("id", "area", "iscrowd")} | {"bbox": List(Value("float32"))}
    feature["category_id"] = ClassLabel(names=list(drawn.NAMES))
    return drawn.dataset_of({"mask": ImageFeature(), "segments_info": List(feature)}, row)


def by_class():
    table = {name: Value("int64") for name in TABLE}
    return drawn.dataset_of(
        {"annotation": ImageFeature(), "semantic_class_to_id": table},
        lambda o: {"annotation": drawn.drawing(o, "classes"), "semantic_class_to_id": TABLE},
    )


def by_number():
    return drawn.dataset_of(
        {"instances": ImageFeature(), "bboxes": List(List(Value("float32"))), "labels": List(Value("string"))},
        lambda o: {"instances": drawn.drawing(o, "index"), "bboxes": o.xywh(), "labels": drawn.names_of(o)},
    )


@pytest.mark.parametrize("make", [panoptic, by_class, by_number])
def test_masks_are_the_pixels_that_were_drawn(make):
    data = drawn.prepared(make(), schema.INSTANCES)
    assert set(data.schema.classes) == set(drawn.NAMES)
    for role, of_role in drawn.ALL.items():
        for one, (found_boxes, names, rles) in zip(of_role, drawn.targets(data, role), strict=True):
            expected = {drawn.NAMES[one.labels[n]] + str(plane.sum()): plane for n, plane in planes(one)}
            found = {name + str(coco.area(rle)): coco.decode(rle) > 0 for name, rle in zip(names, rles, strict=True)}
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[key], expected[key]) for key in found)
            if make is not by_number:  # whose boxes are of the whole hexagons
                np.testing.assert_allclose(
                    np.sort(found_boxes, axis=0), np.sort(np.array(boxes(one)).reshape(-1, 4), axis=0), atol=1e-3
                )


def test_a_segment_that_the_picture_does_not_have_is_an_error_with_its_row():
    splits = panoptic()

    def other(row):
        return {"segments_info": [segment | {"id": 77} for segment in row["segments_info"]]}

    splits["train"] = splits["train"].map(other, features=splits["train"].features)
    with pytest.raises(SchemaError, match=r"'segments_info' has 13 rows .*row 0.*: segments \[77\] are not in the pan"):
        drawn.prepared(splits, schema.INSTANCES)
