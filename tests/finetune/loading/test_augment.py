"""Training crops: timm's, of no more decoded pixels than needed."""

import io
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation

from finetune.data import images
from finetune.data.images import decode
from finetune.loading.augment import RandomErase, RandomResizedCrop
from finetune.loading.jpeg import crop, draft, open_jpeg
from finetune.loading.transforms import Normalize, training


def picture(height, width, mode="RGB"):
    """Smooth colours, different in every corner, with fine stripes."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [200 * x, 200 * y, 100 + 60 * np.sin(9 * x * y) + 25 * np.sin(40 * x)]
    return Image.fromarray(np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return {"path": None, "bytes": buffer.getvalue()}


def crops(size=48, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear"):
    timms = RandomResizedCropAndInterpolation(size, scale, ratio, interpolation)
    return timms, RandomResizedCrop(timms)


def seeded(crop, image, seed=0):
    random.seed(seed)
    return crop(image)


def hwc(pixels):
    assert pixels.dtype == torch.uint8
    return pixels.permute(1, 2, 0).numpy().astype(int)


@pytest.fixture
def drafted(monkeypatch):
    """The factors by which images were decoded smaller."""
    seen = []

    def spy(image, *factors):
        seen.append(draft(image, *factors))
        return seen[-1]

    monkeypatch.setattr("finetune.loading.augment.draft", spy)
    return seen


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random", "lanczos", "nearest"])
@pytest.mark.parametrize("size", [(60, 80), (300, 200), (20, 31), (200, 40)], ids=str)
def test_crops_are_timms_but_for_rounding(size, interpolation):
    timms, ours = crops(interpolation=interpolation)
    for seed in range(10):
        expected = np.asarray(seeded(timms, picture(*size), seed)).astype(int)
        difference = np.abs(hwc(seeded(ours, picture(*size), seed)) - expected)
        assert difference.max() <= (1 if interpolation in ("bilinear", "bicubic", "random") else 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}], ids=str)
def test_a_jpeg_too_small_for_draft_gives_the_pixels_that_pillow_decodes(mode, options, drafted):
    _, ours = crops(size=64)
    value = encoded(picture(90, 120, mode), **options)
    for seed in range(5):
        assert torch.equal(seeded(ours, open_jpeg(value), seed), seeded(ours, decode(value), seed))
    assert set(drafted) == {1}


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (7, 2), (9, 8), (1, 300)], ids=str)
def test_the_smallest_jpegs_too(size):
    _, ours = crops(size=4)
    value = encoded(picture(*size), quality=95)
    for seed in range(5):
        assert torch.equal(seeded(ours, open_jpeg(value), seed), seeded(ours, decode(value), seed))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_of_a_jpeg_decoded_smaller_are_those_that_pillow_decodes(mode):
    """Whatever the factor, and the sizes that do not divide by it."""
    for side in (96, 97, 101, 103, 333):
        value = encoded(picture(side, side + 3, mode), quality=95)
        for n in (1, 2, 4, 8):
            ours, pillow = open_jpeg(value), open_jpeg(value)
            assert draft(ours, n) == draft(pillow, n) == n
            pillow.load()
            width, height = pillow.size
            given = crop(ours, (2, 1, width, height - 1))
            assert ours.fp is not None, "it was Pillow that decoded"
            np.testing.assert_array_equal(given[0].permute(1, 2, 0), np.asarray(pillow.convert("RGB"))[1:-1, 2:])


def test_a_jpeg_of_rgb_itself_too():
    value = encoded(picture(90, 120), keep_rgb=True)
    _, ours = crops(size=64)
    assert torch.equal(seeded(ours, open_jpeg(value)), seeded(ours, decode(value)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(mode, drafted):
    _, ours = crops(size=32)
    value = encoded(picture(301, 403, mode), quality=95)
    for seed in range(20):
        small, full = (hwc(seeded(ours, image, seed)) for image in (open_jpeg(value), decode(value)))
        # The crop is rounded to half a pixel of the smaller image, and the picture changes by 4 from pixel to pixel.
        assert np.abs(small - full).mean() < 4
    assert set(drafted[::2]) == {4, 8}
    assert set(drafted[1::2]) == {1}  # decoded already


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_of_a_jpeg_no_fewer_pixels_than_needed_are_decoded(factor):
    """The crop that was drawn keeps at least the model's size; it is decoded at the smallest size where that holds."""
    for rows, columns in ((factor * 10, factor * 10 + 7), (factor * 20 - 1, factor * 40), (factor * 13, 8 * 40)):
        image = open_jpeg(encoded(picture(333, 401)))
        assert draft(image, rows // 10, columns // 10) == factor
        image.load()
        assert image.size == (-(-401 // factor), -(-333 // factor))


def test_what_is_decoded_or_no_jpeg_is_not_drafted():
    value = encoded(picture(333, 401), "PNG")
    for image in (decode(value), open_jpeg(value), decode(encoded(picture(333, 401))), picture(333, 401)):
        assert draft(image, 8, 8) == 1
        assert image.size == (401, 333)


@pytest.mark.parametrize("side", [40, 300])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_followed(orientation, mode, side):
    """A crop of the whole, so that it does not matter that crops are drawn before the image is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    value = encoded(picture(side, side, mode), exif=exif, quality=95)
    _, ours = crops(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    upright, turned = hwc(ours(decode(value))), hwc(ours(open_jpeg(value)))
    assert np.abs(turned - upright).mean() < 2.5
    assert np.abs(turned - upright[::-1, ::-1]).mean() > 20  # the picture tells its corners apart


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_model_that_is_not_square_gets_upright_images(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    _, ours = crops(size=(32, 48))
    assert ours(open_jpeg(encoded(picture(100, 120), exif=exif))).shape == (3, 32, 48)


def test_orientation_in_xmp_and_pictures_of_several_frames():
    _, ours = crops(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    xmp = encoded(picture(40, 40), xmp=b'<x tiff:Orientation="6"/>')
    assert np.abs(hwc(ours(open_jpeg(xmp))) - hwc(ours(decode(xmp)))).max() <= 1
    frames = encoded(picture(300, 300), "MPO", save_all=True, append_images=[Image.new("RGB", (300, 300))])
    assert np.abs(hwc(ours(open_jpeg(frames))) - hwc(ours(decode(frames)))).mean() < 2.5


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
def test_only_jpegs_wait_to_be_decoded(form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    value = encoded(picture(30, 40), form, **({} if form == "GIF" else {"exif": exif}))
    expected = np.asarray(decode(value))
    np.testing.assert_array_equal(np.asarray(open_jpeg(value)), expected)
    path = tmp_path / "image"
    path.write_bytes(value["bytes"])
    np.testing.assert_array_equal(np.asarray(open_jpeg(str(path))), expected)


def test_a_jpeg_in_a_file_waits_too(tmp_path, drafted):
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(picture(300, 300))["bytes"])
    for value in (str(path), {"path": str(path), "bytes": None}):
        crops(size=32)[1](open_jpeg(value))
    assert min(drafted) > 1


@pytest.mark.parametrize("value", [None, {"path": None, "bytes": None}, {"path": "/nowhere/a.jpg", "bytes": None}])
def test_no_image_is_the_error_of_decode(value):
    with pytest.raises((ValueError, OSError)) as expected:
        images.decode(value)
    with pytest.raises(expected.type, match=re.escape(str(expected.value)[:20])):
        open_jpeg(value)


@pytest.mark.parametrize("cut", [30, 0.5])
def test_a_damaged_jpeg_is_an_error(cut):
    content = encoded(picture(100, 100))["bytes"]
    content = content[: cut if cut > 1 else int(len(content) * cut)]
    with pytest.raises(OSError, match=r"(?i)truncated"):
        crops(size=64)[1](open_jpeg({"path": None, "bytes": content}))


def test_a_jpeg_that_only_pillow_takes_is_decoded_by_pillow():
    """libjpeg warns of bytes that do not belong there, and decodes; nothing is printed."""
    content = encoded(picture(100, 100))["bytes"]
    value = {"path": None, "bytes": content[:-2] + bytes(40) + content[-2:]}
    with pytest.raises(ValueError, match="extraneous bytes"):
        decode_jpeg(value["bytes"])
    _, ours = crops(size=64)
    assert torch.equal(seeded(ours, open_jpeg(value)), seeded(ours, decode(value)))


def test_erasing_is_timms_with_the_mean_colour_in_eight_bits():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.from_numpy(np.array(picture(40, 50))).permute(2, 0, 1)
    before, normalize = pixels.clone(), Normalize(mean, std)
    timms, ours = RandomErasing(0.7, device="cpu"), RandomErase(0.7, mean)
    erased = 0
    for seed in range(20):
        expected = seeded(timms, normalize(pixels), seed)
        given = normalize(seeded(ours, pixels, seed))
        erased += int((expected == 0).any())
        assert torch.equal(given[expected != 0], expected[expected != 0])
        assert given[expected == 0].abs().max() <= 0.5 / 255 / min(std) if (expected == 0).any() else True
    assert 8 < erased < 20
    assert torch.equal(pixels, before)


def test_colours_come_after_the_crop_and_erasing_after_colours():
    config = {"input_size": (3, 32, 32), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    transform = training(config, 0.35, 1.0, "rand-m9-n2", 0.4, 1.0)
    steps = [type(step).__name__ for step in transform.transforms]
    assert steps == [
        *("RandomResizedCrop", "RandomHorizontalFlip", "ToPILImage", "RandAugment"),
        *("ColorJitter", "PILToTensor", "RandomErase"),
    ]
    given = transform(open_jpeg(encoded(picture(200, 200))))
    assert (given == 128).all(0).float().mean() > 0.015  # a fiftieth to a third of the image
    assert given.shape == (3, 32, 32)
    assert given.dtype == torch.uint8
