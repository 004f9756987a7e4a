"""An image, its boxes and its masks change together: checked on the pixels that come out."""

import io

import numpy as np
import pytest
import torch
from datasets import Image as ImageFeature
from datasets import List, Value
from faster_coco_eval import mask as coco
from PIL import Image

from finetune.loading import jpeg
from finetune.tasks.detection.loading.inputs import DetectionInputs
from finetune.tasks.detection.schema import infer

FLOATS = List(Value("float32"))
FEATURES = {
    "image": ImageFeature(),
    "objects": {"bbox": List(FLOATS), "category": List(Value("int64")), "iscrowd": List(Value("int64"))},
}
BOXES = [[10, 20, 30, 16], [70, 40, 40, 30]]  # xywh


def picture(size=(128, 96)):
    """A red and a green rectangle on black."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for channel, (x, y, w, h) in enumerate(BOXES):
        pixels[y : y + h, x : x + w, channel] = 250
    return Image.fromarray(pixels)


def target(**more):
    return {"objects": {"bbox": BOXES, "category": [5, 9], "iscrowd": [0, 0], **more}}


def rectangle(box, size=(128, 96)):
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    rle = coco.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def inputs(with_masks=False, **options):
    features = FEATURES
    if with_masks:
        masks = {"masks": List({"size": List(Value("int64")), "counts": Value("string")})}
        features = FEATURES | {"objects": FEATURES["objects"] | masks}
    task = "instance-segmentation" if with_masks else "object-detection"
    where = infer(task, features).where
    chosen = {"image_size": 64, "max_size": 200} | options
    return DetectionInputs(where, "xywh", {5: 0, 9: 1}, with_masks, **chosen)


def bright(pixels, channel):
    """The extent of a colour: xyxy."""
    ys, xs = torch.nonzero(pixels[channel] > 125, as_tuple=True)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else None


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_where_the_pixels_are_in_training(seed):
    torch.manual_seed(seed)
    pixels, found = inputs().training(picture(), target())
    assert pixels.dtype == torch.uint8
    assert max(pixels.shape[1:]) <= 200
    assert min(pixels.shape[1:]) <= 64
    assert found["boxes"].dtype == torch.float32
    for box, label in zip(found["boxes"], found["labels"].tolist(), strict=True):
        extent = bright(pixels, label)
        np.testing.assert_allclose(box, np.array(extent), atol=2.0)
    assert len(found["boxes"]) == len(found["labels"]) == len(found["area"]) == len(found["iscrowd"])
    assert found["size"] == (96, 128)


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_where_the_pixels_are_in_training(seed):
    torch.manual_seed(seed)
    held = target(masks=[rectangle(box) for box in BOXES])
    pixels, found = inputs(with_masks=True).training(picture(), held)
    assert found["masks"].dtype == torch.uint8
    assert found["masks"].shape == (len(found["labels"]), *pixels.shape[1:])
    for mask, label in zip(found["masks"], found["labels"].tolist(), strict=True):
        there = pixels[label] > 125
        assert (mask.bool() & there).sum() / (mask.bool() | there).sum() > 0.75


def enlarged(times, turned, buffer):
    """The picture as a JPEG, `times` as large, and one pixel more; perhaps lying on its side."""
    large = np.pad(np.asarray(picture()).repeat(times, 0).repeat(times, 1), ((0, 1), (0, 1), (0, 0)), mode="edge")
    image, exif = Image.fromarray(large), Image.Exif()
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6  # back by a quarter
    image.save(buffer, "JPEG", exif=exif, quality=95)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("times", "size"), [(5, 64), (9, 64), (17, 48), (1, 150)])
def test_a_jpeg_that_is_decoded_smaller_keeps_its_boxes_and_masks(times, size, turned, monkeypatch):
    value = enlarged(times, turned, io.BytesIO())
    held = target(bbox=[[times * side for side in box] for box in BOXES])
    whole = (128 * times + 1, 96 * times + 1)
    held["objects"]["masks"] = [rectangle(box, whole) for box in held["objects"]["bbox"]]
    shrunk, real = [], jpeg.draft
    monkeypatch.setattr(jpeg, "draft", lambda *options: shrunk.append(real(*options)) or shrunk[-1])
    made = inputs(with_masks=True, image_size=size, max_size=3 * size)
    for seed in range(6):
        torch.manual_seed(seed)
        pixels, found = made.training(jpeg.open_stored(value), held)
        assert min(pixels.shape[1:]) <= size
        for n, (box, label) in enumerate(zip(found["boxes"], found["labels"].tolist(), strict=True)):
            np.testing.assert_allclose(box, np.array(bright(pixels, label)), atol=2.0)
            there = pixels[label] > 125
            assert (found["masks"][n].bool() & there).sum() / (found["masks"][n].bool() | there).sum() > 0.75
    assert (max(shrunk) > 1) == (times > 1 and not turned)  # what has to be turned is decoded as it is
    assert found["size"] == whole[::-1]


def test_the_pixels_of_training_are_those_of_pillow():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (128, 96), Image.Resampling.BICUBIC
    )
    plain = inputs(crop_scale=None, hflip=0.0)
    torch.manual_seed(3)
    pixels, _ = plain.training(image, target())
    height, width = pixels.shape[1:]
    expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1


def test_flips_and_crops_happen_and_can_be_turned_off():
    plain = inputs(crop_scale=None, hflip=0.0)
    shapes, left = set(), 0
    for seed in range(30):
        torch.manual_seed(seed)
        pixels, found = plain.training(picture(), target())
        shapes.add(pixels.shape[-1] / pixels.shape[-2] > 1.2)
        left += int(found["boxes"][0, 0] < found["boxes"][1, 0])
    assert (shapes, left) == ({True}, 30)
    changed = inputs(crop_scale=0.1, hflip=1.0)
    orders, sizes = [], []
    for seed in range(30):
        torch.manual_seed(seed)
        _, found = changed.training(picture(), target())
        sizes.append(len(found["boxes"]))
        orders += [bool(found["boxes"][0, 0] > found["boxes"][1, 0])] if len(found["boxes"]) == 2 else []
    assert all(orders)
    assert 1 in sizes  # a crop without the other


def test_evaluation_keeps_original_boxes_and_the_shape_of_the_image():
    made = inputs(with_masks=True)
    held = target(masks=[rectangle(box) for box in BOXES], iscrowd=[0, 1])
    pixels, found = made.evaluation(picture(), held)
    assert pixels.shape == (3, 64, 85)
    assert found["boxes"].tolist() == [[10, 20, 40, 36], [70, 40, 110, 70]]
    assert found["labels"].tolist() == [0, 1]
    assert found["iscrowd"].tolist() == [False, True]
    assert found["area"].tolist() == [480, 1200]
    assert (found["size"], found["scale"]) == ((96, 128), pytest.approx(64 / 96))
    assert coco.area(found["rles"]).tolist() == [480, 1200]


def test_a_long_image_is_at_most_as_long_as_allowed():
    assert inputs().resized(100, 1000) == (20, 200)
    assert inputs().resized(1000, 100) == (200, 20)
    assert inputs(max_size=64).resized(50, 60) == (53, 64)


def test_images_without_objects_pass():
    made = inputs()
    for _ in range(5):
        pixels, found = made.training(picture(), {"objects": {"bbox": [], "category": [], "iscrowd": []}})
        assert pixels.ndim == 3
        assert found["boxes"].shape == (0, 4)
        assert found["labels"].dtype == torch.int64
    _, found = made.evaluation(picture(), {"objects": None})
    assert found["boxes"].shape == (0, 4)
    with_masks = inputs(with_masks=True)
    empty = {"objects": {"bbox": [], "category": [], "iscrowd": [], "masks": []}}
    pixels, found = with_masks.training(picture(), empty)
    assert found["masks"].shape == (0, *pixels.shape[1:])


def test_a_turned_jpeg_is_seen_upright():
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture((96, 128)[::-1]).save(buffer, "JPEG", exif=exif, quality=95)
    with Image.open(buffer) as image:
        image.load()
        pixels, found = inputs().evaluation(image, target())
    assert pixels.shape == (3, 85, 64)
    assert found["size"] == (128, 96)


def test_colours_change_and_boxes_do_not():
    torch.manual_seed(0)
    plain = inputs(crop_scale=None, hflip=0.0).training(picture(), target())
    torch.manual_seed(0)
    jittered = inputs(crop_scale=None, hflip=0.0, color_jitter=0.9).training(picture(), target())
    assert torch.equal(plain[1]["boxes"], jittered[1]["boxes"])
    assert not torch.equal(plain[0], jittered[0])
