"""A pretrained backbone's maps, however large, come to the pyramid with a deviation of one."""

import pytest
import torch

from finetune.tasks.detection.networks import build, losses, scaling

SIDE = 64


def detector(kind):
    """Takes maps as large as those of EfficientNet."""
    torch.manual_seed(0)
    model = build.build("resnest14d", kind, 2, pretrained=False, image_size=SIDE)
    with torch.no_grad():
        for take in model.backbone.fpn.inner_blocks:
            take[0].weight.mul_(30)
    return model


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, SIDE, SIDE, generator=generator) for _ in range(2)]


def entering(model):
    """Deviation of what enters the pyramid from each of the backbone's maps."""
    model.eval()
    with torch.no_grad():
        maps = model.backbone.body(losses.together(model, images()).tensors)
        taken = [take(one) for take, one in zip(model.backbone.fpn.inner_blocks, maps, strict=True)]
    return torch.stack([one.square().mean().sqrt() for one in taken]).tolist()


def test_what_enters_the_pyramid_has_a_deviation_of_one_and_only_its_own_weights_change():
    model = detector("faster-rcnn")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known = entering(model)
    assert max(known) > 5
    model.train()
    assert scaling.level(model, images()) == pytest.approx(known, rel=1e-4)
    assert model.training
    assert entering(model) == pytest.approx([1, 1, 1, 1], rel=1e-4)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"backbone.fpn.inner_blocks.{level}.0.weight" for level in range(4)}


def test_fcos_has_norms_of_its_own():
    model = detector("fcos")
    known = entering(model)
    assert scaling.level(model, images()) == []
    assert entering(model) == known
