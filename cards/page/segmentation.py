"""A segmentation's parts of the page: its floor, classes, calibration and figures, and what it warns of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cards.page.limitations import of_data, of_training
from cards.page.text import escape, name_list, number

FIGURES = {
    "examples": "Test images, their masks, the answers, and where they are wrong",
    "iou": "IoU of each class on the test images",
    "confusion": "Confusion matrix of the test pixels",
    "reliability": "Reliability diagram: confidence against accuracy on test pixels",
    "curves": "Learning curves",
}
OPEN = 20
"""Classes up to which the table of them is not folded."""
LONGEST, WEAKEST = 1000, 100
WIDE = 0.1
"""From this width on the interval of the mean IoU is pointed out."""
POOR = 0.5
FEW = 5
"""Test images that show a class, below which its own numbers say little."""
NAMED = 10


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables, see `cards.page.data.sections`."""
    evaluation, test = result.get("evaluation") or {}, result["metrics"]["test"]
    ends = _ends(evaluation)
    floor, calibration = evaluation.get("majority_class"), evaluation.get("calibration")
    return {
        "mean_iou": number(test["mean_iou"]),
        "mean_iou_interval": f"{number(ends[0])} to {number(ends[1])}" if ends else None,
        "floor": number(floor["test"]) if floor else None,
        "floor_class": escape(floor["class"]) if floor else None,
        **_classes(result["dataset"]["classes"], evaluation.get("per_class", {}).get("test", []), model),
        "calibration": calibration and _calibration(calibration),
        **_use(model),
    }


def _use(model: Path) -> dict[str, Any]:
    """What the snippets need."""
    ours = json.loads((model / "finetune.json").read_text(encoding="utf-8"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    stride = config.get("encoder_output_stride", 32)
    return {
        "needs": ours.get("needs"),
        "decoder": escape(str(config["_model_class"])),
        "stride": None if stride == 32 else stride,
        "tile": ours.get("tile"),
    }


def floors(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of results, below the scores."""
    floor = evaluation.get("majority_class")
    if not floor:
        return []
    answer = f"Mean IoU of always answering {escape(floor['class'])}"
    return [(answer, number(floor["test"]), "", number(floor["validation"]))]


def _classes(classes: list[str], rows: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """The table of classes, the weakest alone where there are very many."""
    shown = rows
    if len(rows) > LONGEST:
        shown = sorted(rows, key=lambda row: (row["iou"] is None, row["iou"] or 0.0))[:WEAKEST]
    keys = ("iou", "dice", "precision", "recall")
    return {
        "class_count": f"{len(classes):,}",
        "class_names": name_list(classes, LONGEST),
        "class_rows": [
            (escape(row["class"]), *(_share(row[key]) for key in keys), f"{row['pixels']:,}", f"{row['images']:,}")
            for row in shown
        ],
        "classes_shown": f"{len(shown):,}" if len(shown) < len(rows) else None,
        "class_gaps": any(row[key] is None for row in shown for key in keys),
        "classes_folded": len(rows) > OPEN,
        "per_class_file": "figures/per_class.csv" if (model / "figures" / "per_class.csv").is_file() else None,
    }


def _share(value: float | None) -> str:
    return "" if value is None else number(value)


def _calibration(found: dict[str, Any]) -> dict[str, Any]:
    test = found["test"]
    return {
        "temperature": repr(float(found["temperature"])),
        "pixels": f"{found['pixels']['test']:,}",
        "bins": found["bins"],
        "rows": [
            ("Expected calibration error", number(test["error"]), number(test["error_calibrated"])),
            ("Loss", number(test["loss"]), number(test["loss_calibrated"])),
        ],
    }


def limitations(result: dict[str, Any]) -> list[str]:
    """Sentences in Markdown, the most serious first; what result.json has no number for is left out."""
    evaluation = result.get("evaluation") or {}
    rows = evaluation.get("per_class", {}).get("test", [])
    return [
        *_floor(evaluation),
        *_interval(result, evaluation),
        *_weak(rows),
        *_little_known(rows),
        *of_data(result),
        *of_training(result["training"]),
        f"It gives every pixel one of its {len(result['dataset']['classes']):,} classes, also in an image that shows "
        "none of them, and was tested on images of this dataset only.",
    ]


def _floor(evaluation: dict[str, Any]) -> Iterator[str]:
    floor, ends = evaluation.get("majority_class"), _ends(evaluation)
    if floor and ends and ends[0] <= floor["test"]:
        yield (
            f"**Not shown to be better than no model:** always answering {escape(floor['class'])} has a test mean IoU "
            f"of {number(floor['test'])}, which is not below the interval of this model's."
        )


def _interval(result: dict[str, Any], evaluation: dict[str, Any]) -> Iterator[str]:
    ends = _ends(evaluation)
    if ends and ends[1] - ends[0] > WIDE:
        yield (
            f"{_images(result['dataset']['splits']['test'])} are few to judge by: the mean IoU on more like them may "
            f"be anything from {number(ends[0])} to {number(ends[1])}."
        )


def _weak(rows: list[dict[str, Any]]) -> Iterator[str]:
    weak = sorted((row for row in rows if row["iou"] is not None and row["iou"] < POOR), key=lambda row: row["iou"])
    if weak:
        shown = "; ".join(
            f"{escape(row['class'])} (IoU {number(row['iou'])}, {_images(row['images'])})" for row in weak[:NAMED]
        )
        more = f"; and {len(weak) - NAMED:,} more, see the table" if len(weak) > NAMED else ""
        yield f"Weak classes: {shown}{more}."
    never = [row["class"] for row in rows if row["pixels"] and not row["answered"]]
    if never:
        yield f"Never answered for any pixel: {name_list(never, NAMED)}."


def _little_known(rows: list[dict[str, Any]]) -> Iterator[str]:
    absent = [row["class"] for row in rows if not row["pixels"]]
    if absent:
        yield (
            f"No test mask shows {name_list(absent, NAMED)}: nothing is known about how well that is found, and the "
            "means are without it."
        )
    few = sum(0 < row["images"] < FEW for row in rows)
    if few:
        yield f"{few:,} of {len(rows):,} classes are shown by fewer than {FEW} test images: their numbers are rough."


def _ends(evaluation: dict[str, Any]) -> list[float] | None:
    """Of the mean IoU's interval."""
    ends: list[float] | None = evaluation.get("intervals", {}).get("test", {}).get("mean_iou")
    return ends


def _images(count: int) -> str:
    return f"{count:,} test image" + ("" if count == 1 else "s")
