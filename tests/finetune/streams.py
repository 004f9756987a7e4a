"""Small datasets of shards, whose pictures say which they are."""

import io
import itertools
import json
import tarfile

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

SHARDS = {"train": (7, 9, 11, 8, 10), "validation": (3, 4), "test": (13,)}  # 45, 7 and 13 images
CLASSES = ["dark", "grey", "light"]


def picture(number):
    """A picture that its number can be read from, and its class: number modulo 3."""
    pixels = np.full((32, 32, 3), 80 * (number % 3) + 20, dtype=np.uint8)
    pixels[:, :, 1] = number
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def shards(sizes=SHARDS):
    """By split, the numbers of the pictures in each of its shards."""
    numbers = itertools.count()
    return {name: [[next(numbers) for _ in range(size)] for size in parts] for name, parts in sizes.items()}


def number(picture):
    """What `picture` wrote, of an image or a tensor `[3, H, W]`."""
    green = np.asarray(picture)[:, :, 1] if isinstance(picture, PILImage.Image) else np.asarray(picture)[1]
    return round(float(green.mean()))


def parquet(numbers, bad=(), unlabelled=(), declared=True):
    """A parquet file; without `declared` the classes are plain integers."""
    label = ClassLabel(names=CLASSES) if declared else Value("int64")
    pictures = [{"bytes": b"no image" if n in bad else picture(n), "path": None} for n in numbers]
    columns = {"image": pictures, "label": [None if n in unlabelled else n % 3 for n in numbers]}
    buffer = io.BytesIO()
    Dataset.from_dict(columns, features=Features(image=Image(), label=label)).to_parquet(buffer)
    return buffer.getvalue()


def tar(numbers, members=None):
    """A WebDataset; `members` of a number are what lies beside its picture, by suffix."""
    members = members or (lambda number: {"cls": str(number % 3)})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in numbers:
            beside = {suffix: text.encode() for suffix, text in members(number).items()}
            for suffix, data in ({"png": picture(number)} | beside).items():
                member = tarfile.TarInfo(f"{number:05}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def tar_of_json(numbers):
    """A WebDataset whose classes are names in its JSON; a picture whose number has a 7 has none."""
    return tar(numbers, lambda n: {"json": json.dumps({"label": None if "7" in str(n) else CLASSES[n % 3], "n": n})})


def write(folder, make=parquet, suffix="parquet", sizes=SHARDS):
    """A dataset's files by the Hub's convention."""
    files = {}
    for split, parts in shards(sizes).items():
        for index, numbers in enumerate(parts):
            files[f"data/{split}-{index:05}-of-{len(parts):05}.{suffix}"] = make(numbers)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
