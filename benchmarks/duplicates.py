"""Near copies that are planted among real images: how many are found, and how many pairs are false alarms.

One kind at a time, each of `--planted` images; what else is paired are false alarms, or copies that the dataset has.
Half of the copies lie in the other split, and half have another label: both must be told.
"""

from __future__ import annotations

import argparse
import io
import json

import numpy as np
from datasets import Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from finetune.data.checks import copies, looks

KINDS = ("bytes", "jpeg 30", "half size", "cropped 0.9", "cropped 0.8", "mirrored")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="folder of parquet files with a column `image`")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--planted", type=int, default=60)
    args = parser.parse_args()
    dataset = load_dataset(args.dataset)["train"].cast_column("image", ImageFeature(decode=False))
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(dataset))[: args.images]
    values = [dataset[int(row)]["image"] for row in rows]
    originals = looked(values)
    for kind in KINDS:
        planted = looked([changed(value, kind, rng) for value in values[: args.planted]])
        entry = measure(looks.joined([originals, planted]), len(rows), args.planted)
        print(json.dumps({"dataset": args.dataset, "kind": kind, **entry}), flush=True)


def measure(seen: looks.Looks, images: int, planted: int) -> dict[str, float]:
    """What is found of copies that lie behind the images, the first of the first.

    Every second copy stands in the test split, its original in train, as after splits were swapped; of each two of
    these and of the others one has another label.
    """
    numbers = np.arange(planted)
    swapped, flipped = numbers % 2 == 1, numbers // 2 % 2 == 1
    roles = np.array(["train"] * images + ["test" if of else "train" for of in swapped])
    found = copies.find(seen, roles, np.concatenate([np.zeros(images, int), flipped.astype(int)]))
    pairs = {(pair.first, pair.second): odd for pair, odd in zip(found.pairs, found.contradicting, strict=True)}
    hit = np.array([(place, images + place) in pairs for place in numbers])
    leaked = np.isin(images + numbers, found.leaked())
    told = np.array([pairs.get((place, images + place), False) for place in numbers], dtype=bool)
    others = len(pairs) - int(hit.sum())
    return {
        "recall": round(float(hit.mean()), 3),
        "precision": round(float(hit.sum() / max(1, len(pairs))), 3),
        "other_pairs": others,
        "images_in_other_pairs": round(others / images, 4),
        "swapped_found": round(float(leaked[swapped].mean()), 3),
        "flipped_found": round(float(told[flipped].mean()), 3),
        "contradictions_that_are_none": int((told & ~flipped).sum()),
        "images": images,
    }


def looked(values: list[dict]) -> looks.Looks:
    """Of encoded images."""
    rows = Dataset.from_dict({"image": values}, features=Features({"image": ImageFeature(decode=False)}))
    return looks.look(rows, "image", np.arange(len(values)))


def changed(value: dict, kind: str, rng: np.random.Generator) -> dict:
    """A copy of a kind; crops keep at least so much of each side, at any place."""
    if kind == "bytes":
        return value
    picture = Image.open(io.BytesIO(value["bytes"])).convert("RGB")
    width, height = picture.size
    options = {"format": "PNG"}
    if kind == "jpeg 30":
        options = {"format": "JPEG", "quality": 30}
    elif kind == "half size":
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    elif kind == "mirrored":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        least = float(kind.split()[1])
        wide, high = (int(side * rng.uniform(least, 1)) for side in (width, height))
        left, top = rng.integers(0, width - wide + 1), rng.integers(0, height - high + 1)
        picture = picture.crop((left, top, left + wide, top + high))
    content = io.BytesIO()
    picture.save(content, **options)
    return {"bytes": content.getvalue(), "path": None}


if __name__ == "__main__":
    main()
