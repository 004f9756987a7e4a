"""result.json and what lies in model/ -> what a card prints. Nothing is computed that does not follow from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cards import tasks
from cards.errors import CardError
from cards.page import curve, settings, weaknesses
from cards.page.head import known
from cards.page.limitations import leaked
from cards.page.text import command, escape, number

__all__ = ["CardError", "read", "sections"]

Row = tuple[str, str, str, str]
"""Of the table of results: title, test, its interval, validation."""

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
    parts: Any = import_module(tasks.of(result).parts)
    words = result.get("command") or []
    return {
        **_model(result["model"]),
        **_dataset(result["dataset"]),
        **_scores(result, evaluation, parts.floors(evaluation)),
        **parts.sections(result, model),
        "figures": figures(evaluation.get("figures", {}), parts.FIGURES, model),
        "weaknesses": weaknesses.section(evaluation),
        "curve": curve.section(evaluation["curve"], model) if "curve" in evaluation else None,
        "onnx": (model / "model.onnx").is_file(),
        "openvino": (model / "model.xml").is_file(),
        "limitations": [*leaked(result), *parts.limitations(result)],
        "chosen": _chosen(result),
        "averaged": result["model"].get("weights") == "averaged",
        "seeds": _seeds(evaluation["seeds"], *_first(result)) if "seeds" in evaluation else None,
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
        how = "held out by class" if dataset["classes"] else "held out, stratified"
        return f"{100 * held_out[role]['fraction']:g}% of {escape(held_out[role]['from'])}, {how}"
    if role == "train" and held_out:
        return f"{escape(sources[role])} without what was held out" if role in sources else "what was not held out"
    return f"{escape(sources[role])} of the dataset" if role in sources else "as in the dataset"


def _scores(result: dict[str, Any], evaluation: dict[str, Any], floors: Sequence[Row]) -> dict[str, Any]:
    """The table of results, and the sentence above it."""
    test, validation = result["metrics"]["test"], result["metrics"]["validation"]
    intervals, named = evaluation.get("intervals", {}), tasks.of(result).metrics
    ends = {name: f"{number(low)} to {number(high)}" for name, (low, high) in intervals.get("test", {}).items()}
    rows = [
        (named[key][1], number(value), ends.get(key, ""), number(validation[key]) if key in validation else "")
        for key, value in known(test, named)
    ]
    return {
        "metrics": [*rows, *floors],
        "level": f"{100 * intervals['level']:g}" if intervals else None,
        "method": escape(intervals["method"]) if intervals else None,
        # Wilson's interval, where every image is right, is not resampled.
        "resamples": f"{intervals['resamples']:,}" if intervals and "bootstrap over" in intervals["method"] else None,
        "test_images": f"{result['dataset']['splits']['test']:,}",
    }


def _chosen(result: dict[str, Any]) -> str:
    if result["model"].get("weights") == "averaged over seeds":
        return "The weights are an average over seeds"
    first = escape(str(result["training"].get("chosen_by") or f"validation {_first(result)[1]}").partition(",")[0])
    return CHOSEN.get(result["training"].get("chosen_by", ""), f"The epoch was chosen by {first}")


def _first(result: dict[str, Any]) -> tuple[str, str]:
    """Key and name of the first of the task's metrics."""
    key, (_, name) = next(iter(tasks.of(result).metrics.items()))
    return key, f"{name[0].lower()}{name[1:]}"


def _seeds(found: dict[str, Any], key: str, name: str) -> str:
    """One line: mean, standard deviation, each seed, and which one this is."""
    each = ", ".join(f"{number(one['test'][key])} (seed {one['seed']})" for one in found["each"])
    this = "the average of their weights" if found["exported"] == "average" else f"that of seed {found['exported']}"
    return (
        f"{len(found['each'])} trainings that differ in their seed alone have a mean test {name} of "
        f"{number(found['mean']['test'][key])} with a standard deviation of "
        f"{number(found['sd']['test'][key])}: {each}. This model is {this}, chosen on validation "
        f"({escape(found['chosen_by'])})."
    )


def figures(named: Mapping[str, str], titles: Mapping[str, str], model: Path) -> dict[str, str]:
    """Markdown images by figure, of those that have a title and are there."""
    found = {name: path for name, path in named.items() if name in titles and _FIGURE.fullmatch(str(path))}
    return {name: f"![{titles[name]}]({path})" for name, path in found.items() if (model / path).is_file()}
