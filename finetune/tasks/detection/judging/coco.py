"""COCO's average precision and recall, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from finetune.tasks.detection.judging.detected import Detected

NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
"""Of the summary's first numbers, in its order."""
BOX_SCORES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
MASK_SCORES = ("map", "map_50", "map_75")


def scores(detected: Detected, classes: int, masks: bool) -> dict[str, float]:
    """COCO's numbers of boxes, and where there are masks theirs as `mask_map`, ...

    Source: the protocol of https://cocodataset.org/#detection-eval: 100 objects an image, overlaps 0.50 to 0.95.

    Args:
        detected: Of a split.
        classes: How many there are; those without an object in the split do not count.
        masks: Whether masks are judged, too.

    Returns:
        -1 where the split has no object of a size, as COCO has it.
    """
    truth, found = datasets(detected, classes)
    boxes = summary(truth, found, "bbox")
    named = {name: boxes[name] for name in BOX_SCORES}
    if masks:
        of_masks = summary(truth, found, "segm")
        named |= {f"mask_{name}": of_masks[name] for name in MASK_SCORES}
    return named


def datasets(detected: Detected, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is there as COCO's dataset, and what was found as its list of results; ids count from 1."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (found, truth) in enumerate(detected.pairs(), 1):
        for entry, into in ((truth, annotations), (found, results)):
            for i, (x0, y0, x1, y1) in enumerate(entry["boxes"].astype(float).tolist()):
                one: dict[str, Any] = {"image_id": image, "category_id": int(entry["labels"][i]) + 1}
                one["bbox"] = [x0, y0, x1 - x0, y1 - y0]
                one |= {"segmentation": entry["rles"][i]} if "rles" in entry else {}
                into.append(one)
        for one, area, crowd in zip(
            annotations[-len(truth["labels"]) or len(annotations) :], truth["areas"], truth["crowd"], strict=True
        ):
            one |= {"area": float(area), "iscrowd": int(crowd), "id": 0}
        for one, score in zip(results[-len(found["labels"]) or len(results) :], found["scores"], strict=True):
            one["score"] = float(score)
    for number, one in enumerate(annotations, 1):
        one["id"] = number
    sizes = detected.sizes.tolist()
    return {
        "info": {},
        "images": [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes, 1)],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": str(n)} for n in range(classes)],
    }, results


def summary(truth: dict[str, Any], found: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCO's summary, by `NAMES`.

    Args:
        truth: A dataset in COCO's form.
        found: Results in COCO's form.
        kind: `bbox` or `segm`.
    """
    if not found or not any(not one["iscrowd"] for one in truth["annotations"]):
        # The libraries refuse an empty list: nothing found is nothing right, and nothing there is nothing to find.
        return dict.fromkeys(NAMES, 0.0 if truth["annotations"] else -1.0) | _absent(truth)
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
        known = COCO(truth)
        judged = COCOeval_faster(known, known.loadRes(found), iouType=kind, print_function=lambda *_: None)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {name: float(value) for name, value in zip(NAMES, np.asarray(judged.stats), strict=False)}


_BANDS = {"map_small": (0, 32**2), "map_medium": (32**2, 96**2), "map_large": (96**2, 1e10)}


def _absent(truth: dict[str, Any]) -> dict[str, float]:
    """-1 for the sizes of which there is no object."""
    areas = [one["area"] for one in truth["annotations"] if not one["iscrowd"]]
    return {name: -1.0 for name, (low, high) in _BANDS.items() if not any(low <= area <= high for area in areas)}
