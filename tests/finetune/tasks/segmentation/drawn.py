"""Small images with masks, drawn: rectangles of classes on a background, in as many layouts as people have them."""

import csv
import io
import json

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

NAMES = {3: ("background", "leaf", "stem"), 20: tuple(f"thing {index}" for index in range(20))}
COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(10 * n, 255 - 7 * n, 3 * n + 1) for n in range(3, 20)]


def scenes(count, classes=3, seed=0, void=False):
    """Pairs of uint8 `[H, W, 3]` and class indices uint8 `[H, W]`, of several sizes; the colour tells the class."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        height, width = (32, 48) if number % 3 else (40, 36)
        mask = np.zeros((height, width), dtype=np.uint8)
        for _ in range(4):
            top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
            mask[top : top + 8, left : left + 12] = rng.integers(1, classes)
        mask[0, : classes // 2] = np.arange(classes // 2)
        if void:
            mask[-2:] = 255
        colours = np.array([*COLOURS, *[(9, 9, 9)] * 236], dtype=np.int16)[mask]
        image = (colours + rng.integers(0, 20, colours.shape)).clip(0, 255).astype(np.uint8)
        found.append((image, mask))
    return found


def encoded(pixels, form="PNG", **options):
    """Bytes of an image; `pixels` is an array or a Pillow image."""
    buffer = io.BytesIO()
    (PILImage.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(buffer, form, **options)
    return buffer.getvalue()


def palette(mask):
    """A palette image, whose colours are nobody's business."""
    image = PILImage.fromarray(mask, "P") if mask.dtype == np.uint8 else None
    image.putpalette([value for colour in COLOURS for value in colour])
    return image


FORMS = {
    "L": lambda mask: mask,
    "P": palette,
    "I;16": lambda mask: mask.astype(np.uint16),
    "RGB of equal channels": lambda mask: np.stack([mask] * 3, axis=-1),
    "RGBA of equal channels": lambda mask: np.stack([*[mask] * 3, np.full_like(mask, 255)], axis=-1),
}
"""How an index may be stored."""


def in_colours(mask):
    """RGB by `COLOURS`."""
    return np.array([*COLOURS, *[(224, 224, 192)] * 236], dtype=np.uint8)[mask]


def in_memory(pairs, form=lambda mask: mask, column="mask", names=(), image_options=None, **more):
    """A `Dataset` of them; `names` as a column with a dict in each row."""
    rows = {
        "image": [{"bytes": encoded(image, **(image_options or {})), "path": None} for image, _ in pairs],
        column: [None if mask is None else {"bytes": encoded(form(mask)), "path": None} for _, mask in pairs],
    }
    features = {"image": Image(), column: Image()}
    if names:
        rows["semantic_class_to_id"] = [{name: index for index, name in enumerate(names)}] * len(pairs)
        features["semantic_class_to_id"] = {name: Value("int64") for name in names}
    for head, (feature, values) in more.items():
        rows[head], features[head] = values, feature
    return Dataset.from_dict(rows, features=Features(features))


def place(root, files):
    """Write files by path."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def id2label(names):
    """The file."""
    return json.dumps({str(index): name for index, name in enumerate(names)}).encode()


def class_dict(names, colours=COLOURS):
    """The csv file of Kaggle's copies."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("name", "r", "g", "b"), *((n, *c) for n, c in zip(names, colours, strict=False))])
    return text.getvalue().encode()


def folder(root, pairs, image_path, mask_path, names=(), form=lambda mask: mask, suffix="jpg"):
    """A folder of them: `{}` in the paths is the number; images are JPEGs, which hardly changes them."""
    files = {}
    for number, (image, mask) in enumerate(pairs):
        content = encoded(image, "JPEG", quality=95) if suffix == "jpg" else encoded(image)
        files[image_path.format(f"{number:03}") + f".{suffix}"] = content
        files[mask_path.format(f"{number:03}") + ".png"] = encoded(form(mask))
    if names:
        files["id2label.json"] = id2label(names)
    return place(root, files)


ONE_SPLIT = {
    "images and masks": ("images/{}", "masks/{}"),
    "images and annotations": ("images/{}", "annotations/{}"),
    "jpegimages and segmentationclass": ("VOC/JPEGImages/{}", "VOC/SegmentationClass/{}"),
    "side by side": ("{}", "{}_mask"),
    "side by side in a folder": ("data/{}_sat", "data/{}_mask"),
    "img_dir": ("img_dir/train/{}", "ann_dir/train/{}"),
    "a suffix in a folder of masks": ("images/{}", "labels/{}_L"),
}
"""Paths of an image and its mask."""

SPLITS = {
    "images and masks in each split": ("{split}/images/{}", "{split}/masks/{}"),
    "splits in images and masks": ("images/{split}/{}", "masks/{split}/{}"),
    "mmsegmentation": ("img_dir/{split}/{}", "ann_dir/{split}/{}"),
    "CamVid": ("{split}/{}", "{split}_labels/{}"),
    "Cityscapes": ("leftImg8bit/{split}/ulm/ulm_{}_leftImg8bit", "gtFine/{split}/ulm/ulm_{}_gtFine_labelIds"),
    "side by side in each split": ("{split}/{}", "{split}/{}_mask"),
}
"""The same with a split in them."""


def by_split(**parts):
    """A `DatasetDict`."""
    return DatasetDict({name: part for name, part in parts.items()})
