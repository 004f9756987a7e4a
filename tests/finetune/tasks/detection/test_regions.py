"""How many regions of an image the second stage is taught on."""

import pytest
import torch

from finetune.tasks.detection import learning
from finetune.tasks.detection.learning import Sample
from finetune.tasks.detection.networks import build, losses
from finetune.tasks.detection.networks.draws import Draws


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], 128), ([0, 0, 3], 128), ([16] * 10, 128), ([17] * 10, 256), ([1] * 8 + [30] * 2, 256), ([100] * 3, 512)],
)
def test_two_positives_an_object_within_what_the_papers_have(counts, expected):
    sample = Sample([torch.zeros(count, 4) for count in counts], [(32, 32)] * len(counts))
    assert learning.regions(sample) == expected


@pytest.mark.parametrize("detector", ["faster-rcnn", "cascade-rcnn", "fcos"])
def test_the_second_stage_takes_as_many(detector, monkeypatch):
    model = build.build("test_resnet", detector, 2, False, 64)
    boxes = torch.tensor([[4.0, 4.0, 20.0, 30.0]]).repeat(40, 1)
    monkeypatch.setattr(learning, "sample", lambda images: Sample([boxes] * 2, [(64, 96)] * 2))
    said = []
    monkeypatch.setattr(learning.log, "info", said.append)
    learning.fit_anchors(model, model.layout, None)
    if detector == "fcos":
        assert not any("regions" in line for line in said)
    else:
        assert model.roi_heads.fg_bg_sampler.batch_size_per_image == 512
        assert "regions: 512 of each training image teach the second stage" in said


def test_masks_are_learnt_on_some_of_the_regions(monkeypatch):
    """As many of each image, and what they say in the mean is what all of them say."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 96, generator=generator) for _ in range(2)]
    corners = torch.rand(50, 2, generator=generator) * torch.tensor([60.0, 40.0])
    boxes = torch.cat([corners, corners + 8 + 12 * torch.rand(50, 2, generator=generator)], dim=1)
    masks = torch.zeros(50, 64, 96, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    many = {"boxes": boxes, "labels": torch.arange(50) % 2, "masks": masks, "size": (64, 96)}
    few = {name: value[:3] for name, value in many.items() if name != "size"} | {"size": (64, 96)}
    model = build.build("test_resnet", "mask-rcnn", 2, False, 64).train()
    # Only the objects themselves are regions: they are the same in each draw.
    model.roi_heads.fg_bg_sampler.batch_size_per_image, model.roi_heads.fg_bg_sampler.positive_fraction = 512, 1.0
    monkeypatch.setattr(model.roi_heads, "add_gt_proposals", lambda _, truth: list(truth))

    def part(entropy):
        with torch.no_grad():
            return losses.of_batch(model, images, [many, few], Draws(images, entropy))["mask"]

    drawn = [part(entropy) for entropy in range(8)]
    side = 28 * 28
    assert {one.number for one in drawn} == {(losses.MASKED + 3) * side}
    monkeypatch.setattr(losses, "MASKED", 3)
    assert part(0).number == 6 * side
    monkeypatch.setattr(losses, "MASKED", 1000)
    whole = part(0)
    assert whole.number == 53 * side
    of_few = [float(one.total / one.number) for one in drawn]
    assert len(set(of_few)) == 8
    assert sum(of_few) / len(of_few) == pytest.approx(float(whole.total / whole.number), rel=0.02)
