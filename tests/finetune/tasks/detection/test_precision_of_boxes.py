"""In mixed precision boxes keep their digits: in bfloat16 one at 300 pixels moves in steps of two."""

import pytest
import torch

from finetune.tasks.detection.networks import build, losses
from finetune.tasks.detection.networks.draws import Draws

KINDS = ("faster-rcnn", "mask-rcnn", "cascade-rcnn", "fcos", "retinanet")


def scene():
    """Wide images with thin objects far to the right, and among them two a bfloat16 has at one place."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 400, generator=generator) for _ in range(2)]
    left = 300 + 80 * torch.rand(6, generator=generator)
    boxes = torch.stack([left, torch.full_like(left, 10.0), left + 1.2, torch.full_like(left, 50.0)], dim=1)
    masks = torch.zeros(6, 64, 400, dtype=torch.uint8)
    for mask, x0 in zip(masks, left.int().tolist(), strict=True):
        mask[10:50, x0 : x0 + 2] = 1
    target = {"boxes": boxes, "labels": torch.arange(6) % 2, "masks": masks, "size": (64, 400)}
    return images, [target, target]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_thin_objects_are_finite_and_near_those_of_float32(kind, monkeypatch):
    images, targets = scene()
    torch.manual_seed(0)
    model = build.build("test_resnet", kind, 2, False, 64).train()
    seen, real = [], losses._match

    def watched(boxes, truth, labels, matcher):
        seen.append((boxes.dtype, truth.dtype))
        return real(boxes, truth, labels, matcher)

    monkeypatch.setattr(losses, "_match", watched)

    def of(narrow):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            parts = losses.of_batch(model, images, targets, Draws(images, 0))
        return {name: part.total / max(1.0, part.number) for name, part in parts.items()}

    exact, mixed = of(False), of(True)
    assert all(value.dtype == torch.float32 for value in mixed.values())
    for name, value in exact.items():
        assert float(mixed[name]) == pytest.approx(float(value), rel=0.1, abs=0.02), name
    assert all(dtypes == (torch.float32, torch.float32) for dtypes in seen)
    assert bool(seen) == (not model.layout.one_stage)
