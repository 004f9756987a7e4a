"""How many regions of an image the second stage is taught on."""

import pytest
import torch

from finetune.tasks.detection import learning
from finetune.tasks.detection.learning import Sample


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], 128), ([0, 0, 3], 128), ([16] * 10, 128), ([17] * 10, 256), ([1] * 8 + [30] * 2, 256), ([100] * 3, 512)],
)
def test_two_positives_an_object_within_what_the_papers_have(counts, expected):
    sample = Sample([torch.zeros(count, 4) for count in counts], [(32, 32)] * len(counts))
    assert learning.regions(sample) == expected


@pytest.mark.parametrize("detector", ["faster-rcnn", "cascade-rcnn", "fcos"])
def test_the_second_stage_takes_as_many(detector, monkeypatch):
    from finetune.tasks.detection.networks import build

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
