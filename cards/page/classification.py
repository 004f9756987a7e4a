"""A classifier's parts of the page: its floors, classes, calibration and figures, and what it warns of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cards.page.limitations import limitations
from cards.page.text import escape, name_list, number

__all__ = ["FIGURES", "floors", "limitations", "sections"]

FIGURES = {
    "confusion": "Confusion matrix of the test images",
    "mistakes": "Most confident mistakes on the test images",
    "reliability": "Reliability diagram: confidence against accuracy on the test images",
    "curves": "Learning curves",
}
OPEN = 20
"""Classes up to which the table of them is not folded."""
LONGEST = 1000
"""Classes from which on only the weakest have a row."""
WEAKEST = 100


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables, see `cards.page.data.sections`."""
    evaluation, test = result.get("evaluation") or {}, result["metrics"]["test"]
    ends = evaluation.get("intervals", {}).get("test", {}).get("accuracy")
    floor, calibration = evaluation.get("majority_class"), evaluation.get("calibration")
    return {
        "accuracy": number(test["accuracy"]) if "accuracy" in test else None,
        "accuracy_interval": f"{number(ends[0])} to {number(ends[1])}" if ends else None,
        "floor": number(floor["test"]) if floor else None,
        "floor_class": escape(floor["class"]) if floor else None,
        **_classes(result["dataset"]["classes"], evaluation.get("per_class", {}).get("test", []), model),
        "calibration": calibration and _calibration(calibration),
    }


def floors(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of results, below the scores."""
    rows = []
    if floor := evaluation.get("majority_class"):
        answer = f"Accuracy of always answering {escape(floor['class'])}"
        rows.append((answer, number(floor["test"]), "", number(floor["validation"])))
    if probe := evaluation.get("probe"):
        low, high = probe["intervals"]["test"]["accuracy"]
        text = f"Accuracy of a linear probe on the frozen features of {probe['images']:,} training images"
        test_score, validation_score = (number(probe[role]["accuracy"]) for role in ("test", "validation"))
        rows.append((text, test_score, f"{number(low)} to {number(high)}", validation_score))
    return rows


def _classes(classes: list[str], rows: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """The table of classes, the weakest alone where there are very many."""
    shown = rows
    if len(rows) > LONGEST:
        order = sorted(range(len(rows)), key=lambda i: (rows[i]["f1"] is None, rows[i]["f1"] or 0.0))
        shown = [rows[i] for i in order[:WEAKEST]]
    return {
        "class_count": f"{len(classes):,}",
        "class_names": name_list(classes, LONGEST),
        "class_rows": [
            (escape(row["class"]), *(_share(row[key]) for key in ("precision", "recall", "f1")), f"{row['support']:,}")
            for row in shown
        ],
        "classes_shown": f"{len(shown):,}" if len(shown) < len(rows) else None,
        "class_gaps": any(row[key] is None for row in shown for key in ("precision", "recall", "f1")),
        "classes_folded": len(rows) > OPEN,
        "per_class_file": "figures/per_class.csv" if (model / "figures" / "per_class.csv").is_file() else None,
    }


def _share(value: float | None) -> str:
    return "" if value is None else number(value)


def _calibration(found: dict[str, Any]) -> dict[str, Any]:
    test = found["test"]
    return {
        "temperature": repr(float(found["temperature"])),
        "fitted_on": escape(found["fitted_on"]),
        "bins": found["bins"],
        "rows": [
            ("Expected calibration error", number(test["error"]), number(test["error_calibrated"])),
            ("Loss", number(test["loss"]), number(test["loss_calibrated"])),
        ],
    }
