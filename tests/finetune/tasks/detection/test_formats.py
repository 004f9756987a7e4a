"""One drawn set, written in every form that is read, is the same boxes, classes, masks and splits."""

import numpy as np
import pytest
from faster_coco_eval import mask as coco

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
