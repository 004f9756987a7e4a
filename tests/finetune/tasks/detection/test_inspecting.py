"""Boxes that contradict: planted, and found; copies whose boxes agree are let be."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from finetune.data.checks import copies, looks
from finetune.tasks.detection.inspecting import InspectedBoxes, overlaps
from finetune.tasks.detection.task import DETECTION
from tests.finetune.data.checks.test_copies import encoded, scene
from tests.finetune.tasks.detection import drawn

FEATURES = Features(
    {
        "image": Image(),
        "objects": {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=["ant", "bee"]))},
    }
)
LEFT, RIGHT = [10, 20, 50, 60], [100, 90, 40, 50]


def prepared(rows):
    """Rows of image, boxes xywh and labels; the last two are validation and test."""
    table = [{"image": image, "objects": {"bbox": boxes, "category": labels}} for image, boxes, labels in rows]
    parts = {"train": table[:-2], "validation": table[-2:-1], "test": table[-1:]}
    made = {role: Dataset.from_list(part, features=FEATURES) for role, part in parts.items()}
    return drawn.prepared(DatasetDict(made), box_format="xywh")


def plain(seed, boxes=(LEFT, RIGHT), labels=(0, 1)):
    return encoded(scene(seed)), [*map(list, boxes)], list(labels)


def mirrored(box):
    return [160 - box[0] - box[2], *box[1:]]


def contradicting(*copy):
    """Whether a copy of picture 0 contradicts it."""
    data = prepared([plain(0), plain(1), plain(2), plain(3), copy])
    inspected = DETECTION.inspection(data)
    parts = data.splits.parts
    seen = looks.joined([looks.look(data.source.splits[p.source], "image", p.rows) for p in parts.values()])
    roles = [role for role, count in data.splits.counts().items() for _ in range(count)]
    targets = np.concatenate([part.targets for part in parts.values()])
    found = copies.find(seen, roles, targets, differ=inspected.differ)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 4)]
    return bool(found.contradicting[0])


HALF = scene(0).resize((80, 80))
FLIPPED = scene(0).transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize(
    ("copy", "odd"),
    [
        ((encoded(scene(0)), [LEFT, RIGHT], [0, 1]), False),
        ((encoded(scene(0)), [RIGHT, LEFT], [1, 0]), False),
        ((encoded(scene(0)), [LEFT, RIGHT], [1, 0]), True),
        ((encoded(scene(0)), [LEFT], [0]), True),
        ((encoded(scene(0)), [LEFT, [20, 90, 40, 50]], [0, 1]), True),
        ((encoded(HALF), [[side / 2 for side in LEFT], [side / 2 for side in RIGHT]], [0, 1]), False),
        ((encoded(HALF), [LEFT, [*RIGHT[:2], 20, 20]], [0, 1]), True),
        ((encoded(FLIPPED), [mirrored(LEFT), mirrored(RIGHT)], [0, 1]), False),
        ((encoded(FLIPPED), [LEFT, RIGHT], [0, 1]), True),
        ((encoded(scene(0).crop((10, 10, 150, 150))), [[0, 10, 50, 60]], [0]), False),  # of a part nothing is said
    ],
)
def test_copies_contradict_where_boxes_or_classes_do(copy, odd):
    assert contradicting(*copy) == odd


def test_what_is_odd_in_one_image_is_found_and_nothing_else():
    rows = [
        plain(0, [LEFT, [10, 20, 50, 61], RIGHT], [0, 1, 1]),  # two classes at one place
        plain(1, [LEFT, [10, 20, 50, 61], RIGHT], [0, 0, 1]),  # one class twice
        plain(2, [[0, 0, 160, 159], RIGHT], [0, 1]),
        plain(3, [[5, 5, 3, 40], RIGHT], [0, 1]),
        plain(4),
        plain(5),
    ]
    found = {one.key: one for one in InspectedBoxes(prepared(rows)).findings()}
    assert {key: one.images for key, one in found.items()} == {
        "box-classes": ((0,),),
        "box-twice": ((1,),),
        "box-fills": ((2,),),
        "box-tiny": ((3,),),
    }
    assert found["box-classes"].title == "1 pair of boxes at one place (overlap 0.9 and more) with different classes"
    assert found["box-fills"].title.startswith("1 of 14 boxes fill their image")


def test_a_sound_dataset_has_no_findings_and_targets_have_names():
    inspected = InspectedBoxes(prepared([plain(0), plain(4, [], []), *(plain(seed) for seed in range(1, 4))]))
    assert list(inspected.findings()) == []
    assert inspected.named(0) == "1 ant, 1 bee"
    assert inspected.named(1) == "no object"


def test_overlaps_are_those_of_torchvision():
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (2, 9, 2))
    ours, theirs = (np.concatenate([of, of + rng.uniform(1, 60, of.shape)], axis=1) for of in corners)
    expected = ops.box_iou(torch.from_numpy(ours), torch.from_numpy(theirs)).numpy()
    np.testing.assert_allclose(overlaps(ours, theirs), expected)


def test_thumbnails_show_the_boxes_where_they_are():
    large = PILImage.fromarray(np.full((600, 600, 3), 128, dtype=np.uint8))
    data = prepared([(encoded(large), [[150, 300, 300, 150]], [1]), plain(1), plain(2), plain(3)])
    inspected = DETECTION.inspection(data)
    shown = np.asarray(inspected.drawn(0, large)).astype(int)
    assert max(shown.shape[:2]) == 320
    rows, columns = np.nonzero(np.abs(shown - 128).max(axis=2) > 40)
    scale = 320 / 600
    edges = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert edges == pytest.approx([150 * scale, 300 * scale, 450 * scale, 450 * scale], abs=2)
    assert np.asarray(large).max() == 128  # which is as it was


def test_boxes_of_a_turned_image_are_compared_in_its_upright_frame():
    """A stored image whose declared size says that its boxes turn with it, and an upright copy with the same boxes."""

    upright, exif, buffer = scene(0).resize((160, 80)), PILImage.Exif(), io.BytesIO()
    exif[0x0112] = 6
    stored = upright.transpose(PILImage.Transpose.ROTATE_90)
    stored.save(buffer, "JPEG", exif=exif, quality=95)
    features = Features(FEATURES | {"width": Value("int64"), "height": Value("int64")})
    whole = {"bbox": [[10, 20, 50, 40]], "category": [0]}  # upright, xywh
    turned = {"bbox": [[20, 160 - 60, 40, 50]], "category": [0]}
    other = {"bbox": [[5, 5, 20, 20]], "category": [1]}
    rows = [
        {"image": {"bytes": buffer.getvalue(), "path": None}, "objects": turned, "width": 80, "height": 160},
        {"image": encoded(upright), "objects": whole, "width": 160, "height": 80},
        *({"image": encoded(scene(n)), "objects": other, "width": 160, "height": 160} for n in range(1, 5)),
    ]
    parts = {"train": rows[:4], "validation": rows[4:5], "test": rows[5:]}
    data = DatasetDict({role: Dataset.from_list(part, features=features) for role, part in parts.items()})
    inspected = DETECTION.inspection(drawn.prepared(data, box_format="xywh"))
    assert inspected.of(0)[2] == inspected.of(1)[2] == (160, 80)
    assert not inspected.differ(0, 1, False)
