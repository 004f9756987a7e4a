"""Near copies that are planted among real images: how many are found, and how many pairs are false alarms.

One kind at a time, each of `--planted` images; what else is paired are false alarms, or copies that the dataset has.
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
        found = copies.find(looks.joined([originals, planted]), ["x"] * (len(rows) + args.planted), np.zeros(10**6))
        pairs = {(pair.first, pair.second): pair.score for pair in found.pairs}
        hits = sum((place, len(rows) + place) in pairs for place in range(args.planted))
        others = [key for key in pairs if key[1] < len(rows)]
        wrong = [key for key in pairs if key[1] >= len(rows) and key[1] - len(rows) != key[0]]
        entry = {"recall": hits / args.planted, "other_pairs": len(others) + len(wrong), "images": len(rows)}
        print(json.dumps({"dataset": args.dataset, "kind": kind, **entry}), flush=True)


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
