"""segmentation_models_pytorch on a ResNeSt, as docs/how-to/downstream.md shows it."""

import subprocess
import sys
import warnings
from copy import deepcopy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import freeze_batch_norm_2d
from torch import nn

from tests.downstream.helpers import SINGLE_IMAGE, assert_is_ours, assert_learns, run_example
from tests.resnest_timm.helpers import FACTS, Reference, assert_same, images, stock

smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation-models-pytorch")

MODELS = {"unet": 32, "fpn": 32, "deeplab_16": 16, "deeplab_8": 8}
STRIDES = {32: (1, 2, 4, 8, 16, 32), 16: (1, 2, 4, 8, 16, 16), 8: (1, 2, 4, 8, 8, 8)}
CHANNELS = (3, 64, 256, 512, 1024, 2048)


@pytest.fixture(scope="module")
def built(released):
    """The document's models; copy what you train."""
    return run_example("segmentation_models_pytorch")


def segmentation_loss(model):
    labels = torch.arange(21).repeat(800)[: 4 * 64 * 64].view(4, 64, 64)
    return F.cross_entropy(model(images(4, 64, dtype=torch.float32)), labels)


@pytest.mark.parametrize(("name", "stride"), MODELS.items())
def test_encoder_is_ours(built, released, name, stride):
    encoder = built[name].encoder
    assert_is_ours(encoder.model, released)
    assert encoder.output_stride == stride
    with torch.no_grad():
        features = encoder.eval()(images(1, 64, dtype=torch.float32))
    expected = [(1, c, 64 // s, 64 // s) for c, s in zip(CHANNELS, STRIDES[stride], strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize("name", MODELS)
def test_learns(built, name):
    model = deepcopy(built[name])
    with torch.no_grad():
        assert model.eval()(images(2, 64, dtype=torch.float32)).shape == (2, 21, 64, 64)
    assert_learns(model, model.encoder.model, segmentation_loss)


@pytest.mark.parametrize("stride", [16, 8])
def test_dilated_encoder_is_the_authors(built, released, stride):
    """Equal to our model built directly, and to a plain network in the authors' form, which timm's blocks are not."""
    body = {key: tensor.double() for key, tensor in released.items() if not key.startswith("fc.")}
    ours = timm.create_model("resnest50d", features_only=True, output_stride=stride).double()
    ours.load_state_dict(body)
    theirs = stock("resnest50d", features_only=True, output_stride=stride).double()
    theirs.load_state_dict(body)
    x = images(2, 64)
    with torch.no_grad():
        encoded = deepcopy(built[f"deeplab_{stride}"].encoder).double().eval()(x)[1:]
        for actual, expected in zip(encoded, ours.eval()(x), strict=True):
            assert_same(actual, expected)
        assert_same(encoded[-1], Reference(FACTS["resnest50d"], body, stride).features(x))
        stocks = theirs.eval()(x)[-1]
        assert float((encoded[-1] - stocks).norm() / stocks.norm()) > 0.02


@pytest.mark.parametrize("name", ["unet", "fpn"])
@pytest.mark.filterwarnings(SINGLE_IMAGE)
def test_one_image_trains(built, name):
    model = deepcopy(built[name]).train()
    model(images(1, 64, dtype=torch.float32)).logsumexp(1).mean().backward()
    gradients = [parameter.grad for parameter in model.encoder.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.filterwarnings(SINGLE_IMAGE)
def test_one_image_is_too_few_for_the_norm_of_deeplab(built):
    model = deepcopy(built["deeplab_16"]).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as error:
        model(images(1, 64, dtype=torch.float32))
    assert not any("resnest_timm" in str(entry.path) for entry in error.traceback)


def test_input_is_normalised_as_the_document_says():
    given = smp.encoders.get_preprocessing_params("tu-resnest50d")
    model = timm.create_model("resnest50d", device="meta")
    assert tuple(given["mean"]) == model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert tuple(given["std"]) == model.pretrained_cfg["std"] == (0.229, 0.224, 0.225)
    assert (given["input_space"], given["input_range"]) == ("RGB", [0, 1])


def test_unet_takes_every_size(built):
    with torch.no_grad():
        assert built["unet"].eval()(torch.zeros(1, 3, 71, 50)).shape == (1, 21, 71, 50)


@pytest.mark.parametrize(("name", "multiple"), [("fpn", 32), ("deeplab_16", 16), ("deeplab_8", 8)])
def test_sizes_must_be_multiples_of_the_output_stride(built, name, multiple):
    model = built[name].eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 2 * multiple, 64)).shape == (1, 21, 2 * multiple, 64)
        with pytest.raises(RuntimeError, match=f"divisible by {multiple}"):
            model(torch.zeros(1, 3, 2 * multiple + 4, 64))


def test_only_none_builds_without_weights(built, released):
    """`False` is not None to the library, so it loads."""
    assert_is_ours(smp.Unet("tu-resnest50d", encoder_weights=False).encoder.model, released)
    with pytest.warns(UserWarning, match="`encoder_weights` should be set to True"):
        assert_is_ours(smp.Unet("tu-resnest50d").encoder.model, released)
    fresh = smp.Unet("tu-resnest50d", encoder_weights=None).encoder.model.state_dict()
    assert not torch.equal(fresh["conv1.0.weight"], released["conv1.0.weight"])


def test_frozen_norms(built):
    model = deepcopy(built["unet"])
    freeze_batch_norm_2d(model.encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.encoder.modules())
    x = images(2, 64, dtype=torch.float32)
    with torch.no_grad():
        for actual, expected in zip(model.encoder.train()(x), built["unet"].encoder.eval()(x), strict=True):
            assert_same(actual, expected, 1e-5)
    assert_learns(model, model.encoder.model, segmentation_loss)


def test_exports_and_is_scripted(built):
    model, x = built["unet"].eval(), images(2, 64, dtype=torch.float32)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        assert_same(exported(x), model(x), 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 deprecates it altogether
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(deepcopy(model))
    with torch.no_grad():
        assert_same(scripted(x), model(x), 1e-5)


def test_the_import_is_what_makes_it_ours_whenever_it_comes():
    """In a process of its own: timm's blocks without a word before it, ours after it."""
    code = (
        "import segmentation_models_pytorch as smp\n"
        "def block(): return type(smp.Unet('tu-resnest14d', encoder_weights=None).encoder.model.layer1[0])\n"
        "print(block().__module__); import resnest_timm; print(block().__module__)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["timm.models.resnest", "resnest_timm.block"], "")
