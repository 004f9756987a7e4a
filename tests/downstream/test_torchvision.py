"""torchvision's detectors on a ResNeSt, as docs/how-to/downstream.md shows it."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tests.downstream.helpers import SINGLE_IMAGE, assert_is_ours, assert_learns, run_example
from tests.resnest_timm.helpers import assert_same, images

MODELS = ("faster_rcnn", "mask_rcnn")


@pytest.fixture(scope="module")
def built(released):
    """The document's models, but for images of 64 pixels; copy what you train."""
    namespace = run_example("torchvision")
    for name in MODELS:
        namespace[name].transform.min_size, namespace[name].transform.max_size = (64,), 64
    return namespace


def detection_loss(model, count=2):
    generator = torch.Generator().manual_seed(3)
    pictures = [torch.rand(3, 64, 64, generator=generator) for _ in range(count)]
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 10:40, 12:44] = 1
    target = {"boxes": torch.tensor([[12.0, 10.0, 44.0, 40.0]]), "labels": torch.tensor([7]), "masks": masks}
    return torch.stack(list(model(pictures, [target] * count).values())).sum()


@pytest.mark.parametrize("name", MODELS)
def test_backbone_is_ours_and_frozen(built, released, name):
    body = built[name].backbone.body
    assert_is_ours(body, released)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())


def test_backbone_gives_the_features_of_our_model(built, released):
    """BackboneWithFPN takes the model apart; what it runs must still be the model."""
    ours = timm.create_model("resnest50d", features_only=True, out_indices=(1, 2, 3, 4))
    ours.load_state_dict({key: tensor for key, tensor in released.items() if not key.startswith("fc.")})
    backbone, x = built["faster_rcnn"].backbone, images(2, 64, dtype=torch.float32)
    with torch.no_grad():
        features = backbone.body(x)
        assert list(features) == ["0", "1", "2", "3"]
        for actual, expected in zip(features.values(), ours.eval()(x), strict=True):
            assert_same(actual, expected, 1e-5)
        levels = backbone(x)
    shapes = {name: tuple(level.shape) for name, level in levels.items()}
    sizes = {"0": 16, "1": 8, "2": 4, "3": 2, "pool": 1}
    assert shapes == {name: (2, 256, size, size) for name, size in sizes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_learns(built, name):
    model = deepcopy(built[name])
    assert_learns(model, model.backbone.body, detection_loss)


@pytest.mark.parametrize("name", MODELS)
def test_one_image_trains_with_frozen_norms(built, name):
    """Without a warning, which would be an error here."""
    model = deepcopy(built[name]).train()
    detection_loss(model, 1).backward()
    assert float(model.backbone.body.get_parameter("conv1.0.weight").grad.abs().max()) > 0


@pytest.mark.filterwarnings(SINGLE_IMAGE)
def test_without_weights_the_norms_learn(built):
    backbone = built["resnest_fpn"]("resnest14d", pretrained=False)
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.body.modules())
    backbone.train()(images(1, 64, dtype=torch.float32))["0"].square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in backbone.body.named_parameters()}
    assert float(gradients["layer1.0.bn3.weight"].abs().max()) > 0


@pytest.mark.parametrize("name", MODELS)
def test_detects(built, name):
    with torch.no_grad():
        (found,) = built[name].eval()([torch.rand(3, 64, 48)])
    count = len(found["scores"])
    assert found["boxes"].shape == (count, 4)
    assert name == "faster_rcnn" or found["masks"].shape == (count, 1, 64, 48)


def test_input_is_normalised_by_the_detector_as_the_document_says(built):
    transform = built["faster_rcnn"].transform
    config = timm.create_model("resnest50d", device="meta").pretrained_cfg
    assert (tuple(transform.image_mean), tuple(transform.image_std)) == (config["mean"], config["std"])
    white = transform([torch.ones(3, 64, 64)])[0].tensors
    torch.testing.assert_close(white[0, :, 0, 0], (1 - torch.tensor(config["mean"])) / torch.tensor(config["std"]))


def test_whole_stages_freeze():
    """The document's other way; frozen norms keep the others learning."""
    model = timm.create_model("resnest14d", features_only=True)
    timm.utils.freeze(model, ["conv1", "bn1", "layer1"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "layer1"}
    assert isinstance(model.bn1, FrozenBatchNorm2d)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.layer1.modules())
    model.train()(images(2, 64, dtype=torch.float32))[-1].square().mean().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in learning} == {"layer2", "layer3", "layer4"}


def test_a_fresh_model_must_not_be_frozen():
    """The last norm of each block starts at 0, which a frozen norm keeps: the block is its shortcut for ever."""
    model = freeze_batch_norm_2d(timm.create_model("resnest14d", features_only=True))
    block, x = model.layer1[0], images(2, 16, channels=64, dtype=torch.float32).relu()
    assert not block.bn3.weight.requires_grad
    assert torch.equal(block.bn3.weight, torch.zeros(256))
    with torch.no_grad():
        assert torch.equal(block(x), block.downsample(x).relu())
