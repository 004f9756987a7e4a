"""result.json -> what a card prints. Nothing is computed here that is not in the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "top5_accuracy": ("accuracy", "Top-5 accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "balanced_accuracy": ("accuracy", "Balanced accuracy"),
    "loss": ("loss", "Loss"),
}
"""By key of result.json: the Hub's metric type, and the name to print."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]!|<>~$&])")


class CardError(ValueError):
    """A run's folder does not hold what a card needs."""

    exit_code = 2


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
    if result.get("schema_version") != 1:
        raise CardError(f"{path}: expected schema version 1, got {result.get('schema_version')!r}")
    return result


def escape(text: object) -> str:
    """Text from a dataset as plain Markdown text, on one line: no markup, HTML, table cell or template in it acts."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def metadata(result: dict[str, Any], name: str) -> ModelCardData:
    """The card's YAML head.

    Args:
        result: Content of result.json.
        name: Of the model, for the model index.
    """
    dataset, model = result["dataset"], result["model"]
    return ModelCardData(
        library_name="timm",
        pipeline_tag=result["task"],
        license=model.get("base_license") or "unknown",
        base_model=model["base_model"],
        datasets=[dataset["id"]] if dataset["hub"] else None,
        tags=[result["task"], "timm", "transformers"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=result["task"],
                dataset_type=dataset["id"],
                dataset_name=dataset["id"],
                dataset_config=dataset["config"],
                dataset_split="test",
                dataset_revision=dataset["revision"],
                metric_type=METRICS[key][0],
                metric_name=METRICS[key][1],
                metric_value=value,
            )
            for key, value in _known(result["metrics"]["test"])
        ],
    )


def _known(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """Those that this version has a name for; a later one may have written more."""
    return [(key, metrics[key]) for key in METRICS if key in metrics]


def sections(result: dict[str, Any]) -> dict[str, Any]:
    """The template's variables: text that is already escaped, and numbers."""
    dataset, model, training, metrics = (result[key] for key in ("dataset", "model", "training", "metrics"))
    counts, excluded = dataset["splits"], dataset["excluded"]
    return {
        "architecture": escape(model["architecture"]),
        "parameters": f"{model['parameters']:,}",
        "image_size": model["image_size"],
        "pretrained": model["pretrained"],
        "base_model": escape(model["base_model"]) if model["base_model"] else None,
        "base_license": escape(model["base_license"]) if model.get("base_license") else None,
        "dataset": escape(dataset["id"]),
        "dataset_url": f"https://huggingface.co/datasets/{quote(dataset['id'])}" if dataset["hub"] else None,
        "dataset_config": escape(dataset["config"]) if dataset["config"] else None,
        "dataset_revision": escape(dataset["revision"]) if dataset["revision"] else None,
        "dataset_license": escape(dataset["license"]) if dataset["license"] else None,
        "classes": [escape(name) for name in dataset["classes"]],
        "splits": [(role, f"{count:,}", _origin(role, dataset)) for role, count in counts.items()],
        "max_samples": dataset.get("max_samples"),
        "undecodable": sum(len(rows) for rows in excluded["undecodable"].values()),
        "unlabelled": sum(excluded["unlabelled"].values()),
        "metrics": [
            (METRICS[key][1], f"{value:.4f}", f"{metrics['validation'][key]:.4f}")
            for key, value in _known(metrics["test"])
        ],
        "training": [(escape(k.replace("_", " ")), escape(v)) for k, v in training.items() if v is not None],
        "seed": result["seed"],
        "environment": {escape(name): escape(version) for name, version in result["environment"].items()},
    }


def _origin(role: str, dataset: dict[str, Any]) -> str:
    held_out = dataset["held_out"]
    if role == "train" and "stream" in dataset:
        return "of a stream: the images of the last epoch"
    if role in held_out:
        return f"{100 * held_out[role]['fraction']:g}% of {escape(held_out[role]['from'])}, held out by class"
    if role == "train" and held_out:
        return "what was not held out"
    return "as in the dataset"
