"""Random crops that hold boxes: torchvision takes and refuses the same ones."""

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.tasks.detection.loading.cropping import OVERLAPS, OverlapCrop

SIZE = (96, 160)
SCALE = 0.1


def boxes(seed, count=4):
    rng = np.random.default_rng(seed)
    corners = rng.uniform([0, 0], [100, 60], (count, 2))
    return np.concatenate([corners, corners + rng.uniform(2, 36, (count, 2))], axis=1)


def torchvisions(numbers, overlap, given, monkeypatch):
    """What torchvision makes of four numbers it could have drawn: top, left, height, width; None where it refuses."""
    crop = v2.RandomIoUCrop(min_scale=math.sqrt(SCALE), sampler_options=[overlap, 1.0], trials=1)
    options, pairs = iter([0, 1]), iter([numbers[:2], numbers[2:]])
    typed = tv_tensors.BoundingBoxes(torch.from_numpy(given), format="XYXY", canvas_size=SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda **_: next(options))
        patch.setattr(torch, "rand", lambda _: next(pairs))
        drawn = crop.make_params([torch.zeros(3, *SIZE), typed])
    return (drawn["top"], drawn["left"], drawn["height"], drawn["width"]) if drawn else None


@pytest.mark.parametrize("seed", range(20))
def test_the_first_part_that_torchvision_takes_is_taken(seed, monkeypatch):
    given = boxes(seed)
    if seed < 5:
        given = np.concatenate([given, [[4, 4, 150, 92]]])  # with which a part can have much in common
    torch.manual_seed(seed)
    ours = OverlapCrop(SCALE).draw(SIZE, given)
    torch.manual_seed(seed)
    expected = None
    while expected is None:
        overlap = OVERLAPS[int(torch.randint(len(OVERLAPS), ()))]
        if overlap is None:
            break
        rows = [torchvisions(row, overlap, given, monkeypatch) for row in torch.rand(40, 4, dtype=torch.float64)]
        expected = next((part for part in rows if part), None)
    assert ours == expected


def test_all_kinds_of_outcome_happen():
    def drawn(given):
        return [OverlapCrop(SCALE).draw(SIZE, given) for _ in range(400)]

    torch.manual_seed(0)
    large = drawn(np.array([[4.0, 4, 150, 92]]))
    assert 0.05 < np.mean([part is None for part in large]) < 0.35  # one of seven, and what is tried in vain
    small = [part for part in drawn(np.array([[4.0, 4, 6, 6]])) if part]
    assert len(small) > 20
    for top, left, height, width in small:
        assert top < 5 < top + height
        assert left < 5 < left + width
        assert max(height / width, width / height) <= 2
        assert height * width >= 0.09 * SIZE[0] * SIZE[1]


def test_an_image_of_one_pixel_stays_whole():
    torch.manual_seed(0)
    assert OverlapCrop(0.3).draw((1, 1), np.array([[0.0, 0, 1, 1]])) is None
