"""A detector's parts of the page: its classes, threshold, errors, calibration and figures, and what it warns of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cards.page.limitations import of_data, of_training
from cards.page.text import escape, name_list, number

FIGURES = {
    "examples": "Test images: what is there on the left, what was found on the right",
    "precision_recall": "Precision against recall on the test images",
    "classes": "Average precision by class and by size of the object",
    "reliability": "Reliability diagram: score against share of right ones among the found test objects",
    "curves": "Learning curves",
}
DETECTORS = {
    "faster-rcnn": "Faster R-CNN",
    "mask-rcnn": "Mask R-CNN",
    "cascade-rcnn": "Cascade R-CNN",
    "cascade-mask-rcnn": "Cascade Mask R-CNN",
    "fcos": "FCOS",
    "retinanet": "RetinaNet",
}
ERRORS = {
    "class": "At an object, but named as another class",
    "place": "Of the right class, but the box is too far off",
    "both": "Near an object of another class, and too far off",
    "double": "An object that was found already",
    "background": "Where nothing is",
    "missed": "Objects that nothing was said of",
}
OPEN = 20
"""Classes up to which the table of them is not folded."""
LONGEST, WEAKEST = 1000, 100
WIDE = 0.1
"""From this width on the interval of the AP is pointed out."""
POOR = 0.2
"""AP below which a class is called weak."""
FEW = 20
"""Test objects of a class below which its own numbers say little."""
MISCALIBRATED = 0.05
NAMED = 10


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables, see `cards.page.data.sections`."""
    evaluation, test = result.get("evaluation") or {}, result["metrics"]["test"]
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    main = _main(test)
    ends = evaluation.get("intervals", {}).get("test", {}).get(main)
    rows = evaluation.get("per_class", {}).get("test", [])
    return {
        "score_name": "AP of the masks" if main == "mask_map" else "AP",
        "ap": number(test[main]),
        "ap_interval": f"{number(ends[0])} to {number(ends[1])}" if ends else None,
        "ap_50": number(test[f"{main}_50"]),
        "objects": f"{sum(row['support'] for row in rows):,}",
        "detector": DETECTORS.get(config["detector"], escape(config["detector"])),
        "masks": main == "mask_map",
        "one_stage": config["detector"] in ("fcos", "retinanet"),
        "cascade": "cascade" in config["detector"],
        "kind": _kind(config["detector"]),
        "threshold": f"{evaluation['threshold']['score']:.4f}",
        "max_size": config["max_size"],
        **_classes(result["dataset"]["classes"], rows, model),
        "errors": _errors(evaluation["errors"]["test"]),
        "right": f"{evaluation['errors']['test']['right']:,}",
        "calibration": _calibration(evaluation.get("calibration")),
        "absent_sizes": any(test.get(name) == -1 for name in ("map_small", "map_medium", "map_large")),
    }


def floors(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """None: what finds nothing has an AP of 0."""
    return []


def _main(test: dict[str, Any]) -> str:
    return "mask_map" if "mask_map" in test else "map"


def _kind(detector: str) -> str:
    """Torchvision's class."""
    one_stage = {"fcos": "FCOS", "retinanet": "RetinaNet"}
    return one_stage.get(detector) or ("MaskRCNN" if "mask" in detector else "FasterRCNN")


def _classes(classes: list[str], rows: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """The table of classes, the weakest alone where there are very many."""
    shown = rows
    if len(rows) > LONGEST:
        shown = sorted(rows, key=lambda row: (row["ap"] is None, row["ap"] or 0.0))[:WEAKEST]
    keys = ("ap", "ap_50", "ar", "precision", "recall")
    return {
        "class_count": f"{len(classes):,}",
        "class_names": name_list(classes, LONGEST),
        "class_rows": [
            (escape(row["class"]), *(_share(row[key]) for key in keys), f"{row['support']:,}") for row in shown
        ],
        "classes_shown": f"{len(shown):,}" if len(shown) < len(rows) else None,
        "class_gaps": any(row[key] is None for row in shown for key in keys),
        "classes_folded": len(rows) > OPEN,
        "per_class_file": "figures/per_class.csv" if (model / "figures" / "per_class.csv").is_file() else None,
    }


def _share(value: float | None) -> str:
    return "" if value is None else number(value)


def _errors(counts: dict[str, int]) -> list[tuple[str, str]]:
    return [(text, f"{counts[name]:,}") for name, text in ERRORS.items() if name in counts]


def _calibration(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    test = found["test"]
    return {
        "temperature": repr(float(found["temperature"])),
        "bins": found["bins"],
        "before": number(test["error"]),
        "after": number(test["error_calibrated"]),
    }


def limitations(result: dict[str, Any]) -> list[str]:
    """Sentences in Markdown, the most serious first; what result.json has no number for is left out."""
    evaluation, test = result.get("evaluation") or {}, result["metrics"]["test"]
    rows = evaluation.get("per_class", {}).get("test", [])
    return [
        *_nothing(test),
        *_interval(result, evaluation),
        *_weak(rows),
        *_little_known(rows),
        *_sizes(test),
        *_calibrated(evaluation.get("calibration")),
        *of_data(result["dataset"]),
        *of_training(result["training"]),
        f"It knows {len(result['dataset']['classes']):,} classes and nothing else: other objects are not seen, or "
        "taken for one of these; and it was tested on images of this dataset only.",
    ]


def _nothing(test: dict[str, Any]) -> Iterator[str]:
    if test[_main(test)] < 0.01:
        yield "**It finds next to nothing:** its AP is below 0.01. It was trained too briefly, or on too little."


def _interval(result: dict[str, Any], evaluation: dict[str, Any]) -> Iterator[str]:
    ends = evaluation.get("intervals", {}).get("test", {}).get(_main(result["metrics"]["test"]))
    if ends and ends[1] - ends[0] > WIDE:
        yield (
            f"{_images(result['dataset']['splits']['test'])} are few to judge by: the AP on more like them may be "
            f"anything from {number(ends[0])} to {number(ends[1])}."
        )


def _weak(rows: list[dict[str, Any]]) -> Iterator[str]:
    weak = sorted((row for row in rows if row["ap"] is not None and row["ap"] < POOR), key=lambda row: row["ap"])
    if weak:
        shown = "; ".join(
            f"{escape(row['class'])} (AP {number(row['ap'])}, {row['support']:,} test objects)" for row in weak[:NAMED]
        )
        more = f"; and {len(weak) - NAMED:,} more, see the table" if len(weak) > NAMED else ""
        yield f"Weak classes: {shown}{more}."


def _little_known(rows: list[dict[str, Any]]) -> Iterator[str]:
    absent = [row["class"] for row in rows if not row["support"]]
    if absent:
        yield (
            f"No test image shows {name_list(absent, NAMED)}: nothing is known about how well that is found, and the "
            "means are without it."
        )
    few = sum(0 < row["support"] < FEW for row in rows)
    if few:
        yield f"{few:,} of {len(rows):,} classes have fewer than {FEW} test objects: their numbers are rough."


def _sizes(test: dict[str, Any]) -> Iterator[str]:
    small, large = test.get("map_small", -1), test.get("map_large", -1)
    if 0 <= small < large / 2:
        yield (
            f"Small objects, of less than 32 x 32 pixels, are found much worse: AP {number(small)} against "
            f"{number(large)} of large ones."
        )


def _calibrated(found: dict[str, Any] | None) -> Iterator[str]:
    if found and found["test"]["error_calibrated"] > MISCALIBRATED:
        yield (
            f"Calibrated scores, too, are off by {number(found['test']['error_calibrated'])} on average on the test "
            "images: do not decide by small differences of them."
        )


def _images(count: int) -> str:
    return f"{count:,} test image" + ("" if count == 1 else "s")
