"""What was found as one document in COCO's form, which labelling tools and pycocotools read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from finetune.task import Record


def document(records: Sequence[Record], classes: Sequence[str]) -> dict[str, Any]:
    """`images`, `annotations` and `categories`; ids count from 1, those of categories in the order of the classes.

    Boxes are x, y, width, height in pixels. `annotations` alone, written to a file of its own, is what pycocotools'
    `loadRes` takes, where the truth has the same ids.

    Args:
        records: `image`, or `split` and `row`; `height`, `width` and `objects`.
        classes: Their names.
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[Record] = []
    annotations: list[Record] = []
    for number, record in enumerate(records, 1):
        name = record.get("image") or f"{record['split']}/{record['row']:06}"
        images.append({"id": number, "file_name": name, "width": record["width"], "height": record["height"]})
        for one in record["objects"]:
            common = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[one["label"]], "iscrowd": 0}
            annotations.append(common | _place(one) | {"score": one["score"]})
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _place(one: Record) -> Record:
    """Box, area and run lengths of an object."""
    left, top, right, bottom = one["box"]
    box = [left, top, round(right - left, 2), round(bottom - top, 2)]
    mask = one.get("mask")
    if mask is None:
        return {"bbox": box, "area": round(box[2] * box[3], 2), "segmentation": []}
    return {"bbox": box, "area": float(np.asarray(coco_mask.area(mask))), "segmentation": mask}
