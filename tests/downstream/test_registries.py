"""The registrations for Detectron2 and MMDetection of docs/how-to/downstream.md, against stand-ins."""

import sys
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml

from resnest_timm.convert.hub_folder import DETECTION_MEAN, DETECTION_STD
from tests.downstream import standins
from tests.downstream.helpers import DOCUMENT, assert_is_ours, assert_learns, run_example
from tests.examples import ROOT, example
from tests.resnest_timm.helpers import assert_same, images

CHANNELS = (256, 512, 1024, 2048)


@pytest.fixture
def detectron2(monkeypatch):
    for name, module in standins.detectron2().items():
        monkeypatch.setitem(sys.modules, name, module)
    return run_example("detectron2", "detectron2 fpn")


@pytest.fixture
def mmdetection(monkeypatch):
    for name, module in standins.mmdetection().items():
        monkeypatch.setitem(sys.modules, name, module)
    return run_example("mmdetection")


def detectron2_config():
    """The document's entries over detectron2's defaults of what is read beside them."""
    given = yaml.safe_load(example("detectron2 config", DOCUMENT))
    fpn = {"OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum", **given["MODEL"]["FPN"]}
    model = {**given["MODEL"], "FPN": SimpleNamespace(**fpn)}
    model |= {key: SimpleNamespace(**given["MODEL"][key]) for key in ("BACKBONE", "RESNETS")}
    return SimpleNamespace(MODEL=SimpleNamespace(**model), INPUT=SimpleNamespace(**given["INPUT"]))


def our_features(x):
    ours = timm.create_model("resnest50d", pretrained=True, features_only=True, out_indices=(1, 2, 3, 4))
    with torch.no_grad():
        return ours.eval()(x)


def test_detectron2_builds_it_by_its_name(detectron2, released):
    config = detectron2_config()
    build = detectron2["BACKBONE_REGISTRY"].get(config.MODEL.BACKBONE.NAME)
    backbone = build(config, standins.ShapeSpec(channels=len(config.MODEL.PIXEL_MEAN)))
    bottom_up, x = backbone.bottom_up, images(2, 64, dtype=torch.float32)
    assert_is_ours(bottom_up.body, released)
    names = ["res2", "res3", "res4", "res5"]
    shapes = {n: (c, None, None, s) for n, c, s in zip(names, CHANNELS, (4, 8, 16, 32), strict=True)}
    assert bottom_up.output_shape() == shapes
    with torch.no_grad():
        features = bottom_up.eval()(x)
    assert list(features) == names
    for actual, expected in zip(features.values(), our_features(x), strict=True):
        assert_same(actual, expected, 1e-6)
    levels = {name: tuple(level.shape) for name, level in backbone(x).items()}
    sizes = {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "p6": 1}
    assert levels == {name: (2, 256, size, size) for name, size in sizes.items()}
    batch = images(4, 64, dtype=torch.float32)
    assert_learns(backbone, bottom_up.body, lambda model: sum(level.square().mean() for level in model(batch).values()))


@pytest.mark.parametrize("name", ["resnest50", "resnest101", "resnest200", "resnest269"])
def test_detectron2_knows_the_depths_of_the_authors(detectron2, name):
    assert detectron2["TimmResNeSt"](name, device="meta").output_shape()["res5"].channels == 2048


def test_detectron2_dilated(detectron2):
    shapes = detectron2["TimmResNeSt"]("resnest14d", output_stride=16).output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 16]


def test_mmdetection_builds_it_from_its_config(mmdetection, released):
    config = {}
    exec(example("mmdetection config", DOCUMENT), config)
    arguments = dict(config["model"]["backbone"])
    assert arguments.pop("_delete_")  # of its configs: the base's backbone is not merged in
    backbone = mmdetection["MODELS"].build(arguments)
    backbone.init_weights()  # its runner calls it; what was pretrained must stay
    assert_is_ours(backbone.body, released)
    x = images(2, 64, dtype=torch.float32)
    with torch.no_grad():
        features = backbone.eval()(x)
    assert isinstance(features, tuple)
    assert tuple(feature.shape[1] for feature in features) == tuple(config["model"]["neck"]["in_channels"]) == CHANNELS
    for actual, expected in zip(features, our_features(x), strict=True):
        assert_same(actual, expected, 1e-6)
    batch = images(4, 64, dtype=torch.float32)
    assert_learns(backbone, backbone.body, lambda model: sum(level.square().mean() for level in model(batch)))


def test_both_normalise_as_the_weights_expect():
    expected = timm.create_model("resnest50d", device="meta").pretrained_cfg
    detectron2, mmdetection = detectron2_config(), {}
    exec(example("mmdetection config", DOCUMENT), mmdetection)
    assert detectron2.INPUT.FORMAT == "RGB"
    processor = mmdetection["model"]["data_preprocessor"]
    assert processor["bgr_to_rgb"] is True  # it reads BGR
    for mean, std in (
        (detectron2.MODEL.PIXEL_MEAN, detectron2.MODEL.PIXEL_STD),
        (processor["mean"], processor["std"]),
    ):
        assert mean == pytest.approx([255 * value for value in expected["mean"]])
        assert std == pytest.approx([255 * value for value in expected["std"]])
        assert abs(torch.tensor(mean) - torch.tensor(DETECTION_MEAN)).div(torch.tensor(std)).max() < 0.01


def test_document_names_the_normalisation_of_the_authors_detectors():
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert f"mean {list(DETECTION_MEAN)}" in text
    assert f"{list(DETECTION_STD)}, in RGB too" in text
