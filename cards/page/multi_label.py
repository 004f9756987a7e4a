"""A multi-label classifier's parts of the page: its floors, classes, calibration and figures, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cards.page.limitations import images_of, little_known, of_data, of_training
from cards.page.text import escape, name_list, number

__all__ = ["FIGURES", "floors", "limitations", "sections"]

FIGURES = {
    "classes": "Average precision of each class on the test images",
    "precision_recall": "Precision against recall on the test images",
    "confusion": "Classes that are missed where others are invented, on the test images",
    "mistakes": "Most confident mistakes on the test images",
    "reliability": "Reliability diagram: probability against share of true pairs on the test images",
    "curves": "Learning curves",
}
KEY = "mean_average_precision"
OPEN = 20
"""Classes up to which the table of them is not folded."""
LONGEST = 1000
"""Classes from which on only the weakest have a row."""
WEAKEST, NAMED = 100, 10
WIDE = 0.05
"""From this width on the interval of the mean average precision is pointed out."""
POOR = 0.5
"""A class is weak whose average precision is lower."""
MISCALIBRATED = 0.05
UNEQUAL = 3.0


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables, see `cards.page.data.sections`."""
    evaluation, test = result.get("evaluation") or {}, result["metrics"]["test"]
    ends = evaluation.get("intervals", {}).get("test", {}).get(KEY)
    floor, calibration = evaluation.get("prevalence"), evaluation.get("calibration")
    rows = evaluation.get("per_class", {}).get("test", [])
    absent = [row["class"] for row in rows if row["average_precision"] is None]
    return {
        "precision": number(test[KEY]) if KEY in test else None,
        "precision_interval": f"{number(ends[0])} to {number(ends[1])}" if ends else None,
        "floor": number(floor["test"]) if floor else None,
        "absent": name_list(absent, NAMED) if absent else None,
        **_classes(result["dataset"]["classes"], rows, model),
        "calibration": calibration and _calibration(calibration),
    }


def floors(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of results, below the scores."""
    rows = []
    if floor := evaluation.get("prevalence"):
        answer = "Mean average precision of answers that do not look (prevalence)"
        rows.append((answer, number(floor["test"]), "", number(floor["validation"])))
    if probe := evaluation.get("probe"):
        low, high = probe["intervals"]["test"][KEY]
        text = f"Mean average precision of a linear probe on the frozen features of {probe['images']:,} training images"
        test_score, validation_score = (number(probe[role][KEY]) for role in ("test", "validation"))
        rows.append((text, test_score, f"{number(low)} to {number(high)}", validation_score))
    return rows


def _classes(classes: list[str], rows: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """The table of classes, the weakest alone where there are very many."""
    shown = rows
    if len(rows) > LONGEST:
        shown = sorted(rows, key=lambda row: (row["average_precision"] is None, row["average_precision"] or 0.0))
        shown = shown[:WEAKEST]
    keys = ("average_precision", "threshold", "precision", "recall", "f1")
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


def _calibration(found: dict[str, Any]) -> dict[str, Any]:
    test = found["test"]
    return {
        "fitted_on": escape(found["fitted_on"]),
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
        *_probe(evaluation.get("probe")),
        *_weak(rows),
        *little_known(rows),
        *_miscalibrated(evaluation.get("calibration")),
        *_unequal(result["dataset"]),
        *_selected(result),
        *of_data(result["dataset"]),
        *of_training(result["training"]),
        f"It knows its {len(result['dataset']['classes']):,} classes alone, and was tested on images of this dataset "
        "only; thresholds are for images in which classes are as frequent as there.",
    ]


def _ends(evaluation: dict[str, Any]) -> list[float] | None:
    ends: list[float] | None = evaluation.get("intervals", {}).get("test", {}).get(KEY)
    return ends


def _floor(evaluation: dict[str, Any]) -> Iterator[str]:
    floor, ends = evaluation.get("prevalence"), _ends(evaluation)
    if floor and ends and ends[0] <= floor["test"]:
        yield (
            "**Not shown to be better than no model:** answers that do not look have a mean average precision of "
            f"{number(floor['test'])}, which is not below the interval of this model's."
        )


def _interval(result: dict[str, Any], evaluation: dict[str, Any]) -> Iterator[str]:
    ends, images = _ends(evaluation), result["dataset"]["splits"]["test"]
    if ends and ends[1] - ends[0] > WIDE:
        yield (
            f"{images_of(images)} are few to judge by: the mean average precision on more like them may be anything "
            f"from {number(ends[0])} to {number(ends[1])}."
        )


def _probe(probe: dict[str, Any] | None) -> Iterator[str]:
    """That a classifier on frozen features does as well, where it does."""
    difference = (probe or {}).get("difference")
    if difference and difference["interval"][0] <= 0:
        low, high = difference["interval"]
        yield (
            "A linear probe of the same pretrained weights, without any finetuning, does as well on the test images: "
            f"the difference in mean average precision is {number(difference[KEY])}, with an interval from "
            f"{number(low)} to {number(high)}."
        )


def _weak(rows: list[dict[str, Any]]) -> Iterator[str]:
    tested = [row for row in rows if row["average_precision"] is not None]
    weak = sorted((row for row in tested if row["average_precision"] < POOR), key=lambda row: row["average_precision"])
    if weak:
        shown = "; ".join(
            f"{escape(row['class'])} (average precision {number(row['average_precision'])}, "
            f"{images_of(row['support'])})"
            for row in weak[:NAMED]
        )
        more = f"; and {len(weak) - NAMED:,} more, see the table" if len(weak) > NAMED else ""
        yield f"Weak classes: {shown}{more}."
    never = [row["class"] for row in tested if not row["predicted"]]
    if never:
        yield f"Never answered for any test image: {name_list(never, NAMED)}."


def _miscalibrated(found: dict[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    test = found["test"]
    if test["error_calibrated"] > MISCALIBRATED:
        yield (
            f"Calibrated probabilities are off by {number(test['error_calibrated'])} on average on the test images: do "
            "not decide by small differences of them."
        )
    if "note" in found:
        yield f"The temperature was {escape(found['note'])}."


def _unequal(dataset: dict[str, Any]) -> Iterator[str]:
    ratio = dataset.get("imbalance_ratio")
    if ratio and ratio >= UNEQUAL:
        yield f"The most frequent class has {ratio:g} times as many training images as the rarest."
    unknown = dataset.get("unknown", {}).get("test")
    if unknown:
        yield f"{unknown:,} entries of the test images are unknown, and count for no number."


def _selected(result: dict[str, Any]) -> Iterator[str]:
    origin = result["dataset"]["held_out"].get("test")
    if origin:
        yield (
            f"The test images were drawn from {escape(origin['from'])} by chance: where images resemble each other "
            "(one object, place or session), new ones will be harder."
        )
