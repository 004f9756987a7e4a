"""Masks that contradict those of their image's copies: planted, and found."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from finetune.data.dataset import prepare
from finetune.tasks import registry
from finetune.tasks.segmentation.inspecting import InspectedMasks
from tests.finetune.data.checks.test_copies import encoded, scene

FEATURES = Features({"image": Image(), "mask": Image()})


def mask(side=160, left=20, value=1):
    pixels = np.zeros((side, side), dtype=np.uint8)
    scale = side / 160
    pixels[int(30 * scale) : int(90 * scale), int(left * scale) : int((left + 60) * scale)] = value
    return pixels


def inspected(*copies):
    """Picture 0 with its mask, then others with theirs, and copies at the end."""
    rows = [(scene(seed), mask()) for seed in range(6)] + list(copies)
    table = [
        {"image": encoded(image), "mask": encoded(PILImage.fromarray(pixels)) if pixels is not None else None}
        for image, pixels in rows
    ]
    parts = {"train": table[:4] + table[6:], "validation": table[4:5], "test": table[5:6]}
    made = DatasetDict({role: Dataset.from_list(part, features=FEATURES) for role, part in parts.items()})
    return InspectedMasks(prepare(made, registry.reader("semantic-segmentation")))


@pytest.mark.parametrize(
    ("pixels", "odd"),
    [
        (mask(), False),
        (mask(80), False),
        (mask(left=21), False),  # drawn by another hand
        (mask(left=90), True),
        (mask(value=0), True),  # empty
    ],
)
def test_masks_of_copies_agree_or_contradict(pixels, odd):
    assert inspected((scene(0).resize(pixels.shape), pixels)).differ(0, 4, False) == odd


def test_a_mirrored_copy_has_a_mirrored_mask():
    flipped = scene(0).transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    found = inspected((flipped, mask()[:, ::-1]), (flipped, mask()))
    assert found.differ(0, 4, True) is False
    assert found.differ(0, 5, True) is True


def test_masks_without_anything_are_shown_where_most_have_something():
    found = inspected((scene(9), mask(value=0)))
    (one,) = found.findings()
    assert (one.key, one.images) == ("mask-alone", ((4,),))
    assert one.title.startswith("1 mask of 7 with one class alone")
    assert list(inspected().findings()) == []
    assert found.named(0).endswith("14 %")


def test_thumbnails_show_the_masks_over_their_images():
    grey = PILImage.fromarray(np.full((320, 320, 3), 128, dtype=np.uint8))
    shown = np.asarray(inspected((grey, mask(320))).drawn(4, grey)).astype(int)
    assert shown.shape == (240, 240, 3)
    inside = shown[50:130, 35:115]
    assert (inside == inside[0, 0]).all()
    assert np.abs(inside[0, 0] - shown[10, 10]).max() > 30
