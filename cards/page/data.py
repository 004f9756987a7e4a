"""result.json and what lies in model/ -> what a card prints. Nothing is computed that does not follow from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cards.errors import CardError
from cards.page import settings
from cards.page.head import METRICS, known
from cards.page.limitations import limitations
from cards.page.text import command, escape, name_list, number

__all__ = ["CardError", "read", "sections"]

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
_FIGURE = re.compile(r"figures/[a-z_]+\.png")


CHOSEN = {
    "the last epoch": "The weights are those of the last epoch",
    "solved": "The classifier was solved for, on features of a frozen backbone",
}
"""By `training.chosen_by`: how the weights were chosen; by validation where nothing else is said."""


def read(run: Path) -> dict[str, Any]:
    """A run's result.json.

    Raises:
        CardError: The run is not complete.
    """
    path = run / "result.json"
    if not path.is_file():
        raise CardError(f"{run} holds no complete run: expected {path}; give the folder that `finetune --output` made")
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CardError(f"{path} is not JSON: {error}") from error
    if not isinstance(result, dict) or result.get("schema_version") != 1:
        version = result.get("schema_version") if isinstance(result, dict) else None
        raise CardError(f"{path}: expected schema version 1, got {version!r}")
    return result


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables: text that is already escaped, and numbers as they are printed.

    Args:
        result: Content of result.json.
        model: Its folder: figures and exported files are spoken of where they are there.
    """
    evaluation = result.get("evaluation") or {}
    calibration = evaluation.get("calibration")
    words = result.get("command") or []
    return {
        **_model(result["model"]),
        **_dataset(result["dataset"]),
        **_scores(result, evaluation),
        **_classes(result["dataset"]["classes"], evaluation.get("per_class", {}).get("test", []), model),
        "calibration": calibration and _calibration(calibration),
        "figures": _figures(evaluation.get("figures", {}), model),
        "onnx": (model / "model.onnx").is_file(),
        "openvino": (model / "model.xml").is_file(),
        "limitations": limitations(result),
        "chosen": _chosen(result),
        "averaged": result["model"].get("weights") == "averaged",
        "seeds": _seeds(evaluation["seeds"]) if "seeds" in evaluation else None,
        "training": settings.rows(result["training"], result["seed"]),
        "command": command(words) if words else None,
        "environment": ", ".join(f"{escape(name)} {escape(of)}" for name, of in result["environment"].items()),
    }


def _model(model: dict[str, Any]) -> dict[str, Any]:
    tag, name = model.get("pretrained_tag"), str(model["name"])
    # A folder's name is nobody's business, and no name of weights.
    weights = f"{name}.{tag}" if tag and ":" not in name and "/" not in name else None
    return {
        "architecture": escape(model["architecture"]),
        "parameters": f"{model['parameters']:,}",
        "image_size": model["image_size"],
        "pretrained": model["pretrained"],
        "base_model": escape(model["base_model"] or weights) if model["base_model"] or weights else None,
        "base_license": escape(model["base_license"]) if model.get("base_license") else None,
    }


def _dataset(dataset: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": escape(dataset["id"]),
        "dataset_url": f"https://huggingface.co/datasets/{quote(dataset['id'])}" if dataset["hub"] else None,
        "dataset_config": escape(dataset["config"]) if dataset["config"] else None,
        "dataset_revision": escape(dataset["revision"]) if dataset["revision"] else None,
        "dataset_license": escape(dataset["license"]) if dataset["license"] else None,
        "splits": [(role, f"{count:,}", _origin(role, dataset)) for role, count in dataset["splits"].items()],
    }


def _origin(role: str, dataset: dict[str, Any]) -> str:
    held_out, sources = dataset["held_out"], dataset.get("sources", {})
    if role == "train" and "stream" in dataset:
        return "of a stream: the images of the last epoch"
    if role in held_out:
        return f"{100 * held_out[role]['fraction']:g}% of {escape(held_out[role]['from'])}, held out by class"
    if role == "train" and held_out:
        return f"{escape(sources[role])} without what was held out" if role in sources else "what was not held out"
    return f"{escape(sources[role])} of the dataset" if role in sources else "as in the dataset"


def _scores(result: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The table of results, and the sentence above it."""
    test, validation = result["metrics"]["test"], result["metrics"]["validation"]
    intervals, floor = evaluation.get("intervals", {}), evaluation.get("majority_class")
    ends = {name: f"{number(low)} to {number(high)}" for name, (low, high) in intervals.get("test", {}).items()}
    rows = [
        (METRICS[key][1], number(value), ends.get(key, ""), number(validation[key]) if key in validation else "")
        for key, value in known(test)
    ]
    if floor:
        answer = f"Accuracy of always answering {escape(floor['class'])}"
        rows.append((answer, number(floor["test"]), "", number(floor["validation"])))
    if probe := evaluation.get("probe"):
        low, high = probe["intervals"]["test"]["accuracy"]
        text = f"Accuracy of a linear probe on the frozen features of {probe['images']:,} training images"
        test_score, validation_score = (number(probe[role]["accuracy"]) for role in ("test", "validation"))
        rows.append((text, test_score, f"{number(low)} to {number(high)}", validation_score))
    return {
        "metrics": rows,
        "accuracy": number(test["accuracy"]) if "accuracy" in test else None,
        "accuracy_interval": ends.get("accuracy"),
        "level": f"{100 * intervals['level']:g}" if intervals else None,
        "method": escape(intervals["method"]) if intervals else None,
        # Wilson's interval, where every image is right, is not resampled.
        "resamples": f"{intervals['resamples']:,}" if intervals and "bootstrap over" in intervals["method"] else None,
        "floor": number(floor["test"]) if floor else None,
        "floor_class": escape(floor["class"]) if floor else None,
        "test_images": f"{result['dataset']['splits']['test']:,}",
    }


def _chosen(result: dict[str, Any]) -> str:
    if result["model"].get("weights") == "averaged over seeds":
        return "The weights are an average over seeds"
    return CHOSEN.get(result["training"].get("chosen_by", ""), "The epoch was chosen by validation accuracy")


def _seeds(found: dict[str, Any]) -> str:
    """One line: mean, standard deviation, each seed, and which one this is."""
    each = ", ".join(f"{number(one['test']['accuracy'])} (seed {one['seed']})" for one in found["each"])
    this = "the average of their weights" if found["exported"] == "average" else f"that of seed {found['exported']}"
    return (
        f"{len(found['each'])} trainings that differ in their seed alone have a mean test accuracy of "
        f"{number(found['mean']['test']['accuracy'])} with a standard deviation of "
        f"{number(found['sd']['test']['accuracy'])}: {each}. This model is {this}, chosen on validation "
        f"({escape(found['chosen_by'])})."
    )


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


def _figures(named: Mapping[str, str], model: Path) -> dict[str, str]:
    """Markdown images by figure, of those that are there."""
    found = {name: path for name, path in named.items() if name in FIGURES and _FIGURE.fullmatch(str(path))}
    return {name: f"![{FIGURES[name]}]({path})" for name, path in found.items() if (model / path).is_file()}
