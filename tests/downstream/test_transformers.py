"""transformers' models on a ResNeSt, as docs/how-to/downstream.md shows it."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from tests.downstream.helpers import SINGLE_IMAGE, assert_is_ours, assert_learns, run_example
from tests.resnest_timm.helpers import assert_same, images

transformers = pytest.importorskip("transformers", reason="needs transformers")


@pytest.fixture(scope="module")
def upernet(released):
    """The document's model; copy what you train."""
    return run_example("upernet")["model"]


@pytest.fixture(scope="module")
def detr(released):
    """The document's model; copy what you train."""
    return run_example("detr")["model"]


def segmentation_loss(model):
    labels = torch.arange(21).repeat(800)[: 4 * 64 * 64].view(4, 64, 64)
    return model(images(4, 64, dtype=torch.float32), labels=labels).loss


def detection_loss(model, count=2):
    target = {"class_labels": torch.tensor([7]), "boxes": torch.tensor([[0.4, 0.4, 0.5, 0.4]])}
    return model(images(count, 64, dtype=torch.float32), labels=[target] * count).loss


def our_features(released, x, **kwargs):
    ours = timm.create_model("resnest50d", features_only=True, out_indices=(1, 2, 3, 4), **kwargs)
    ours.load_state_dict({key: tensor for key, tensor in released.items() if not key.startswith("fc.")})
    with torch.no_grad():
        return ours.eval()(x)


def test_upernet_is_ours_and_learns(upernet, released):
    model, x = deepcopy(upernet), images(2, 64, dtype=torch.float32)
    assert_is_ours(model.backbone._backbone, released)
    assert model.backbone.channels == [256, 512, 1024, 2048]
    with torch.no_grad():
        for actual, expected in zip(model.eval().backbone(x).feature_maps, our_features(released, x), strict=True):
            assert_same(actual, expected, 1e-6)
        assert model(x).logits.shape == (2, 21, 64, 64)
    assert_learns(model, model.backbone._backbone, segmentation_loss)


def test_detr_is_ours_and_learns(detr, released):
    model, x = deepcopy(detr), images(2, 64, dtype=torch.float32)
    body = model.model.backbone.model
    assert_is_ours(body, released)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())  # DETR's frozen norms
    with torch.no_grad():
        for actual, expected in zip(body(x), our_features(released, x), strict=True):
            assert_same(actual, expected, 1e-5)
        out = model.eval()(x)
    assert (out.logits.shape, out.pred_boxes.shape) == ((2, 100, 92), (2, 100, 4))
    assert_learns(model, body, detection_loss)


def test_one_image_trains_detr(detr):
    model = deepcopy(detr).train()
    detection_loss(model, 1).backward()
    assert float(model.model.backbone.model.get_parameter("conv1.0.weight").grad.abs().max()) > 0


@pytest.mark.filterwarnings(SINGLE_IMAGE)
def test_one_image_is_too_few_for_the_norm_of_upernet(upernet):
    model = deepcopy(upernet).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as error:
        model(images(1, 64, dtype=torch.float32))
    assert not any("resnest_timm" in str(entry.path) for entry in error.traceback)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_and_frozen_backbone(released, output_stride):
    arguments = {"out_indices": [1, 2, 3, 4], "output_stride": output_stride, "freeze_batch_norm_2d": True}
    config = transformers.TimmBackboneConfig(backbone="resnest50d", **arguments)
    backbone = transformers.TimmBackbone(config)
    pretrained = timm.create_model("resnest50d", pretrained=True, features_only=True)
    backbone._backbone.load_state_dict(pretrained.state_dict())
    assert_is_ours(backbone._backbone, released)
    x = images(1, 64, dtype=torch.float32)
    with torch.no_grad():
        maps = backbone.train()(x).feature_maps
    for actual, expected in zip(maps, our_features(released, x, output_stride=output_stride), strict=True):
        assert_same(actual, expected, 1e-5)


def test_saved_and_loaded_again_it_is_the_same(upernet, tmp_path):
    upernet.eval().save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert_is_ours(again.backbone._backbone, upernet.backbone._backbone.state_dict())
    x = images(2, 64, dtype=torch.float32)
    with torch.no_grad():
        assert_same(again(x).logits, upernet(x).logits, 1e-5)


def test_weights_are_not_to_be_had_in_another_way(released):
    """What the document warns of, of transformers. Where this fails, the library was mended: say so there."""
    config = {"backbone": "resnest50d", "out_indices": [1, 2, 3, 4]}
    loaded = transformers.TimmBackbone(transformers.TimmBackboneConfig(**config), pretrained=True)
    state = loaded._backbone.state_dict()
    wrong = {key.rpartition(".")[2] for key, tensor in state.items() if not torch.equal(tensor, released[key])}
    assert wrong == {"running_mean", "running_var"}
    loaded = transformers.TimmBackbone.from_pretrained("resnest50d", out_indices=[1, 2, 3, 4])
    assert not torch.equal(loaded._backbone.state_dict()["bn1.running_mean"], released["bn1.running_mean"])

    asked = transformers.TimmBackboneConfig(**config, use_pretrained_backbone=True)
    upernet = transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(backbone_config=asked))
    fresh = upernet.backbone._backbone.state_dict()
    assert not torch.equal(fresh["conv1.0.weight"], released["conv1.0.weight"])


@pytest.mark.parametrize("name", ["SegformerImageProcessor", "DetrImageProcessor"])
def test_input_is_normalised_as_the_document_says(name):
    processor = getattr(transformers, name)()
    config = timm.create_model("resnest50d", device="meta").pretrained_cfg
    assert processor.do_normalize
    assert processor.do_rescale
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == (config["mean"], config["std"])
