"""Transforms are timm's, and what they draw depends on (seed, epoch, index) alone."""

import io
import math
import random

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader

from finetune.loading import transforms
from finetune.loading.datamodule import ImageRows
from finetune.loading.sampler import EvalBatches, TrainBatches

CONFIGS = {
    "resnest50d.in1k": ("bilinear", 0.875, "center"),
    "resnest269e.in1k": ("bicubic", 0.928, "center"),
    "coatnet_0_rw_224.sw_in1k": ("bicubic", 0.95, "center"),
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": ("bicubic", 0.9, "center"),
    "dm_nfnet_f0.dm_in1k": ("bicubic", 0.9, "squash"),
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384": ("bicubic", 1.0, "squash"),
}
PICTURES = [(300, 400), (400, 300), (97, 231), (224, 224), (50, 40)]


def config_of(name, size=None):
    args = {} if size is None else {"input_size": (3, size, size)}
    return resolve_data_config(args, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())


def picture(height, width, seed=0):
    """Smooth colours with noise on them, as a photograph has."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(5 * y), np.sin(9 * x * y)], axis=-1) * 90 + 128
    noisy = waves + np.random.default_rng(seed).normal(0, 20, waves.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def normalised(pixels, config):
    """What the data module makes of a batch on the device."""
    return transforms.Normalize(config["mean"], config["std"])(pixels)


def by_hand(image, config):
    """Resize, centre crop and normalisation with Pillow and NumPy alone."""
    side = config["input_size"][-1]
    scaled = math.floor(side / config["crop_pct"])
    width, height = image.size
    if config["crop_mode"] == "squash":
        new = (scaled, scaled)
    else:
        short = min(width, height)
        new = (int(scaled * width / short), int(scaled * height / short))
    image = image.resize(new, {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[config["interpolation"]])
    left, top = round((new[0] - side) / 2), round((new[1] - side) / 2)
    pixels = np.asarray(image, dtype=np.float64)[top : top + side, left : left + side] / 255
    return ((pixels - config["mean"]) / config["std"]).transpose(2, 0, 1)


@pytest.mark.parametrize("size", PICTURES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_is_timms_bit_for_bit_and_what_pillow_makes_of_it(name, size):
    config = config_of(name)
    assert (config["interpolation"], config["crop_pct"], config["crop_mode"]) == CONFIGS[name]
    image = picture(*size)
    pixels = transforms.evaluation(config)(image)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == config["input_size"]
    ours = normalised(pixels, config)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, create_transform(**config, is_training=False)(image))
    np.testing.assert_allclose(ours.numpy(), by_hand(image, config), atol=1e-5)


@pytest.mark.parametrize("side", [32, 64, 160])
def test_evaluation_at_another_size(side):
    config = config_of("resnest50d.in1k", side)
    image = picture(100, 130)
    ours = normalised(transforms.evaluation(config)(image), config)
    np.testing.assert_allclose(ours.numpy(), by_hand(image, config), atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", PICTURES[:3], ids=str)
def test_training_gives_pixels_of_the_models_size(name, size):
    config = config_of(name, 64)
    crop = transforms.training(config, crop_scale=0.35, hflip=0.5)(picture(*size))
    assert crop.dtype == torch.uint8
    assert crop.shape == (3, 64, 64)
    assert crop.float().std() > 25


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalisation_is_timms_bit_for_bit_for_every_value(layout):
    config = config_of("resnest50d.in1k", 16)
    values = torch.arange(256, dtype=torch.uint8).repeat(3, 1)
    image = Image.fromarray(values.view(3, 16, 16).permute(1, 2, 0).numpy())
    expected = create_transform(**config | {"crop_pct": 1.0}, is_training=False)(image)
    batch = values.view(1, 3, 16, 16).repeat(2, 1, 1, 1).contiguous(memory_format=layout)
    before = batch.clone()
    given = normalised(batch, config)
    assert torch.equal(given, expected.repeat(2, 1, 1, 1))
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalised(batch[0], config), expected)
    assert torch.equal(batch, before)


def test_flips_come_with_the_probability_given():
    """A crop of the whole of a square image of the model's size is the image itself."""
    config, image = config_of("resnest50d.in1k", 48), picture(48, 48)
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.manual_seed(0)
    for hflip, expected in ((0.0, [plain]), (1.0, [plain.flip(2)]), (0.5, [plain, plain.flip(2)])):
        transform = transforms.training(config, crop_scale=1.0, hflip=hflip)
        seen = [transform(image) for _ in range(30)]
        hits = [sum(torch.equal(crop, one) for crop in seen) for one in expected]
        assert sum(hits) == 30
        assert min(hits) > 3


@pytest.mark.parametrize("crop_scale", [0.1, 0.35, 0.6, 0.9])
def test_crops_keep_at_least_the_share_given(crop_scale):
    """An image that holds its own coordinates tells which share of it a crop has kept."""
    y, x = np.mgrid[:256, :256]
    image = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    config = config_of("resnest50d.in1k", 64)
    transform = transforms.training(config, crop_scale, hflip=0.0)
    random.seed(0)
    torch.manual_seed(0)
    shares = []
    for _ in range(100):
        at = transform(image).float()
        # Centres of the first and last pixel are 63/64 of the side apart.
        shares.append(float((at[0, :, -1] - at[0, :, 0]).mean() * (at[1, -1] - at[1, 0]).mean() / (63 / 64 * 256) ** 2))
    assert min(shares) > crop_scale - 0.03
    assert max(shares) <= 1.001
    assert min(shares) < crop_scale + 0.15
    assert max(shares) > 0.85


# --- ImageRows -------------------------------------------------------------------------------------------------------

COUNT = 13


@pytest.fixture(scope="module")
def source():
    """A split of 20 images of varied size, of which 13, out of order, are ours."""

    def encoded(seed):
        buffer = io.BytesIO()
        picture(20 + seed, 44 - seed, seed).save(buffer, "PNG")
        return {"path": None, "bytes": buffer.getvalue()}

    features = Features(photo=ImageFeature(decode=False))
    return Dataset.from_dict({"photo": [encoded(n) for n in range(20)]}, features=features)


ROWS = np.array([19, 0, 3, 4, 5, 7, 8, 10, 12, 13, 14, 17, 18])
LABELS = np.arange(COUNT) % 3


def rows_of(source, seed=0, training=True):
    config = config_of("resnest50d.in1k", 24)
    both = transforms.ImageAlone(transforms.training(config), transforms.evaluation(config))
    return ImageRows(source, "photo", ROWS, LABELS, both, training, seed)


def by_item(rows, batches, workers):
    """What a loader gives, by item."""
    loader = DataLoader(rows, batch_size=None, sampler=batches, num_workers=workers)
    loaded = list(loader)
    given = {}
    for items, (pixels, targets) in zip(batches, loaded, strict=True):
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (len(items), 3, 24, 24)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert targets.dtype == torch.int64
        assert targets.tolist() == [LABELS[index] for _, index in items]
        given |= dict(zip(items, pixels, strict=True))
    return given


def assert_same(first, second):
    assert first.keys() == second.keys()
    for item in first:
        assert torch.equal(first[item], second[item]), item


def test_augmentation_does_not_depend_on_workers_batches_or_processes(source):
    rows, expected = rows_of(source), None
    for workers, batch, world in ((0, 13, 1), (1, 13, 1), (0, 5, 1), (2, 7, 2)):
        given = {}
        for rank in range(world):
            torch.manual_seed(99 + rank)  # nor on what was drawn before
            random.seed(99 + rank)
            given |= by_item(rows, TrainBatches(COUNT, batch, seed=1, rank=rank, world=world), workers)
        assert len(given) == COUNT
        if expected is not None:
            assert_same(given, expected)
        expected = given


def test_augmentation_does_not_depend_on_the_order(source):
    rows = rows_of(source)
    forward = rows[[(2, index) for index in range(COUNT)]][0]
    backward = rows[[(2, index) for index in reversed(range(COUNT))]][0]
    assert torch.equal(forward, backward.flip(0))
    assert torch.equal(rows[[(2, 5)]][0][0], forward[5])


@pytest.mark.parametrize(("seed", "epoch", "same"), [(0, 0, True), (0, 1, False), (1, 0, False)])
def test_augmentation_differs_by_seed_and_epoch(source, seed, epoch, same):
    first = rows_of(source)[[(0, index) for index in range(COUNT)]][0]
    second = rows_of(source, seed)[[(epoch, index) for index in range(COUNT)]][0]
    equal = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert equal == [same] * COUNT


def test_the_same_image_twice_is_cropped_twice(source):
    """Two items of one row draw apart, as the index decides and not the image."""
    rows = ImageRows(source, "photo", np.array([3, 3]), LABELS[:2], rows_of(source).inputs, training=True)
    first, second = rows[[(0, 0), (0, 1)]][0]
    assert not torch.equal(first, second)


def test_evaluation_gives_each_image_its_own_pixels_and_label(source):
    rows = rows_of(source, training=False)
    transform = transforms.evaluation(config_of("resnest50d.in1k", 24))
    given = by_item(rows, EvalBatches(COUNT, 4), 0)
    for index, row in enumerate(ROWS):
        expected = transform(picture(20 + int(row), 44 - int(row), int(row)))
        assert torch.equal(given[0, index], expected)
    assert len(rows) == COUNT
