"""The files beside the shards: README.md, whose head tells the datasets library splits and features; classes.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from finetune.imagenet.devkit import Devkit

_BODY = """# ImageNet (ILSVRC2012)

The training and validation images of ILSVRC2012, made from the original tars by `python -m finetune prepare-imagenet`.

| split | images | shards |
|---|---:|---:|
{rows}

- `image`: the original file's bytes, untouched, and its name.
- `label`: the class index, which is the WordNet id's place among the sorted ids of the {classes} classes.
  `classes.json` has the ids, and the devkit's own ILSVRC2012_ID, which is another number.
- Training images are shuffled over all shards; validation images are in the order of their numbers.
- `sha256sum -c checksums.sha256` checks the shards.

Use is bound by ImageNet's terms of access: non-commercial research and education. O. Russakovsky et al., "ImageNet
Large Scale Visual Recognition Challenge", IJCV 115 (2015).
"""


def readme(devkit: Devkit, splits: Mapping[str, Mapping[str, int]]) -> str:
    """README.md.

    Args:
        devkit: The classes.
        splits: By name, how many `images`, `shards` and `bytes` of images.
    """
    names = {str(index): name for index, name in enumerate(devkit.names)}
    head: dict[str, Any] = {
        "license": "other",
        "license_details": "imagenet-agreement",
        "task_categories": ["image-classification"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "image"},
                {"name": "label", "dtype": {"class_label": {"names": names}}},
            ],
            "splits": [
                {"name": split, "num_bytes": facts["bytes"], "num_examples": facts["images"]}
                for split, facts in splits.items()
            ],
        },
    }
    rows = "\n".join(f"| {split} | {facts['images']:,} | {facts['shards']} |" for split, facts in splits.items())
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n{_BODY.format(rows=rows, classes=len(names))}"


def classes_json(devkit: Devkit) -> str:
    """classes.json: one object per class, in the order of the class indices."""
    entries = [
        {"label": label, "name": name, **asdict(entry)}
        for label, (name, entry) in enumerate(zip(devkit.names, devkit.classes, strict=True))
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
