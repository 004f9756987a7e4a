"""A dataset of masks among others: what is recognised without being told, and which flags choose."""

import pytest
from datasets import ClassLabel, Image, List, Value

from finetune.errors import SeveralReadingsError
from finetune.settings.config import RunConfig
from finetune.tasks import registry
from finetune.tasks.segmentation.schema import TASK

SCENE = ClassLabel(names=["street", "kitchen"])


@pytest.mark.parametrize(
    "features",
    [
        {"image": Image(), "mask": Image()},
        {"pixel_values": Image(), "label": Image()},
        {"image": Image(), "label": Image(), "classes_on_image": List(Value("int64")), "id": Value("int64")},
        {"image": Image(), "mask": Image(), "classes_on_image": List(SCENE)},
        {"image": Image(), "mask": Image(), "photographer": Value("string")},
    ],
)
def test_masks_are_recognised(features):
    assert registry.READING.recognise(features).task == TASK


def test_a_table_of_classes_beside_masks_may_stand_for_objects_too():
    features = {"image": Image(), "annotation": Image(), "semantic_class_to_id": {"sky": Value("int64")}}
    message = (
        r"instance-segmentation \(images in column 'image', masks in column 'annotation'; --task instance-\S+\) "
        r"or as semantic-segmentation \(.*; --task semantic-segmentation --target-column annotation\)"
    )
    with pytest.raises(SeveralReadingsError, match=message):
        registry.READING.recognise(features)
    assert registry.reader(TASK).recognise(features).names_column == "semantic_class_to_id"


def test_a_class_beside_masks_is_a_second_reading():
    features = {"image": Image(), "annotation": Image(), "scene_category": SCENE}
    message = r"--task image-classification --target-column scene_category\) or as semantic-segmentation .*--task sem"
    with pytest.raises(SeveralReadingsError, match=message):
        registry.READING.recognise(features)
    assert registry.reader(TASK).recognise(features).target_column == "annotation"
    assert registry.reader("image-classification").recognise(features).target_column == "scene_category"
    assert registry.READING.recognise(features, target_column="annotation").task == TASK
    assert registry.READING.recognise(features, target_column="scene_category").task == "image-classification"


def test_flags_of_the_task_reach_its_schema():
    settings = RunConfig(mask_colors="a=1,2,3", ignore_classes="none")
    found = registry.reader(None, settings).recognise({"image": Image(), "mask": Image()})
    assert (found.mask_colors, found.ignore_classes) == ("a=1,2,3", "none")
    assert registry.reader(None, settings).recognise({"image": Image(), "label": SCENE}).target_column == "label"
