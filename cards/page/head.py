"""The YAML head of a run's card: what the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from cards import tasks

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)


def metadata(result: dict[str, Any], name: str, model: Path) -> ModelCardData:
    """The card's YAML head.

    Args:
        result: Content of result.json.
        name: Of the model, for the model index.
        model: Its folder, which says what was exported.
    """
    dataset, base = result["dataset"], _hub_id(result["model"]["base_model"])
    task = tasks.of(result)
    named = task.metrics
    optional: dict[str, Any] = license_of(result["model"].get("base_license"))
    optional |= {"base_model_relation": "finetune"} if base else {}
    return ModelCardData(
        library_name=task.library,
        pipeline_tag=task.pipeline or result["task"],
        base_model=base,
        datasets=[dataset["id"]] if dataset["hub"] and _hub_id(dataset["id"]) else None,
        metrics=list(dict.fromkeys(named[key][0] for key in named if key in result["metrics"]["test"])),
        tags=_tags(result, model),
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task.pipeline or result["task"],
                task_name=task.title,
                dataset_type=dataset["id"],
                dataset_name=dataset["id"],
                dataset_config=dataset["config"],
                dataset_split=test_split(dataset),
                dataset_revision=dataset["revision"],
                dataset_args=_part(dataset),
                metric_type=named[key][0],
                metric_name=named[key][1],
                metric_value=value,
            )
            for key, value in known(result["metrics"]["test"], named)
        ],
        **optional,
    )


def known(metrics: dict[str, float], named: Mapping[str, tuple[str, str]]) -> list[tuple[str, float]]:
    """Those that this version has a name for; a later one may have written more."""
    return [(key, metrics[key]) for key in named if key in metrics]


def test_split(dataset: dict[str, Any]) -> str:
    """The dataset's split that the test images are from; earlier runs say it only of those that were held out."""
    held_out = dataset["held_out"].get("test", {}).get("from", "test")
    return str(dataset.get("sources", {}).get("test", held_out))


def license_of(text: str | None) -> dict[str, str]:
    """The head's licence; what is no id of one is `other`, and named."""
    if not text:
        return {"license": "unknown"}
    return {"license": text} if _LICENSE.fullmatch(text) else {"license": "other", "license_name": text}


def _part(dataset: dict[str, Any]) -> dict[str, Any] | None:
    """Which part of the split the test images are, where it is not the whole."""
    held_out = dataset["held_out"].get("test")
    return {"held_out": held_out["fraction"]} if held_out else None


def _hub_id(text: str | None) -> str | None:
    """The id, if it can be one: the Hub refuses a head with any other."""
    return text if text and _HUB_ID.fullmatch(text) else None


def _tags(result: dict[str, Any], model: Path) -> list[str]:
    tags = [result["task"], *tasks.of(result).tags]
    tags += ["resnest"] if str(result["model"]["architecture"]).startswith("resnest") else []
    return tags + [
        tag for tag, name in {"onnx": "model.onnx", "openvino": "model.xml"}.items() if (model / name).is_file()
    ]
