"""What cards need to know of each task, one row each, by result.json's `task`; data alone, and nothing else asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cards.errors import CardError

OURS = "finetune.json"
"""In model/, where config.json is another library's than timm's: task, classes, how to prepare an image."""


@dataclass(frozen=True)
class CardTask:
    """A row.

    Attributes:
        title: For the model index.
        library: The Hub's `library_name`.
        tags: The card's, besides the task's own name, which is its pipeline tag too.
        metrics: By key of result.json: the Hub's metric type, and the name to print.
        parts: Module of `cards.page` with the page's own parts: `sections(result, model)` and `limitations(result)`.
        template: The page, in `cards/page/`.
        clients: Strangers that load model/: library -> script in `cards/certificate/clients/`.
        runtimes: The script that runs an exported file in the library that it is for.
        required: The one without which nothing is certified.
        app: The Space's app, in `cards/space/`.
        problem: transformers' `problem_type`, where config.json has one.
        pipeline: The Hub's pipeline that runs it, where the Hub has none of the task's name.
        packages: What the app needs besides torch and timm.
        says: What it does with an image, in the Space's card, before `N classes`.
    """

    title: str
    library: str
    tags: tuple[str, ...]
    metrics: Mapping[str, tuple[str, str]]
    parts: str
    template: str
    clients: Mapping[str, str] = field(default_factory=dict)
    runtimes: str = "stock_runtimes"
    required: str = "timm"
    app: str = "app.py"
    problem: str | None = None
    pipeline: str | None = None
    packages: tuple[str, ...] = ()
    says: str = "names the most probable of its"


_BOXES = {
    "map": ("map", "AP of the boxes"),
    "map_50": ("map_50", "AP at overlap 0.5"),
    "map_75": ("map_75", "AP at overlap 0.75"),
    "map_small": ("map_small", "AP of small objects"),
    "map_medium": ("map_medium", "AP of medium objects"),
    "map_large": ("map_large", "AP of large objects"),
    "mar_100": ("mar_100", "AR, 100 objects an image"),
}
_MASKS = {
    "mask_map": ("mask_map", "AP of the masks"),
    "mask_map_50": ("mask_map_50", "AP of the masks at overlap 0.5"),
    "mask_map_75": ("mask_map_75", "AP of the masks at overlap 0.75"),
}


TASKS = {
    "image-classification": CardTask(
        title="Image classification",
        library="timm",
        tags=("timm", "transformers"),
        metrics={
            "accuracy": ("accuracy", "Accuracy"),
            "top5_accuracy": ("accuracy", "Top-5 accuracy"),
            "macro_f1": ("f1", "Macro F1"),
            "balanced_accuracy": ("accuracy", "Balanced accuracy"),
            "loss": ("loss", "Loss"),
        },
        parts="cards.page.classification",
        template="template.md",
        clients={"timm": "stock_timm", "transformers": "stock_transformers"},
    ),
    "image-regression": CardTask(
        title="Image regression",
        library="timm",
        tags=("timm", "transformers"),
        metrics={
            "mae": ("mae", "Mean absolute error"),
            "rmse": ("rmse", "Root mean squared error"),
            "r2": ("r_squared", "R2"),
            "spearman": ("spearmanr", "Spearman's rank correlation"),
        },
        parts="cards.page.regression",
        template="regression.md",
        clients={"timm": "stock_timm", "transformers": "stock_transformers"},
        app="regression_app.py",
        problem="regression",
        pipeline="image-classification",
    ),
    "multi-label-classification": CardTask(
        title="Multi-label image classification",
        library="timm",
        tags=("multi-label", "timm", "transformers"),
        metrics={
            "mean_average_precision": ("mean_average_precision", "Mean average precision"),
            "micro_average_precision": ("average_precision", "Micro average precision"),
            "macro_f1": ("f1", "Macro F1"),
            "micro_f1": ("f1", "Micro F1"),
            "exact_match": ("exact_match", "Exact match"),
            "loss": ("loss", "Loss"),
        },
        parts="cards.page.multi_label",
        template="multi_label.md",
        clients={"timm": "stock_timm", "transformers": "stock_transformers"},
        app="app_multi_label.py",
        problem="multi_label_classification",
        pipeline="image-classification",
    ),
    "semantic-segmentation": CardTask(
        title="Semantic segmentation",
        library="segmentation-models-pytorch",
        tags=("segmentation-models-pytorch", "timm"),
        metrics={
            "mean_iou": ("mean_iou", "Mean IoU"),
            "pixel_accuracy": ("accuracy", "Pixel accuracy"),
            "mean_accuracy": ("accuracy", "Mean accuracy of the classes"),
            "macro_dice": ("f1", "Macro Dice"),
            "loss": ("loss", "Loss"),
        },
        parts="cards.page.segmentation",
        template="segmentation.md",
        clients={"segmentation_models_pytorch": "stock_smp"},
        required="segmentation_models_pytorch",
        app="segmentation.py",
        pipeline="image-segmentation",
        packages=("segmentation-models-pytorch",),
        says="gives each pixel one of its",
    ),
    "object-detection": CardTask(
        title="Object detection",
        library="torchvision",
        tags=("torchvision", "timm"),
        metrics=_BOXES,
        parts="cards.page.detection",
        template="detection.md",
        clients={"torchvision": "stock_torchvision"},
        runtimes="stock_boxes",
        required="torchvision",
        app="detection.py",
        says="finds objects of its",
    ),
    "instance-segmentation": CardTask(
        title="Instance segmentation",
        library="torchvision",
        tags=("instance-segmentation", "torchvision", "timm"),
        metrics=_MASKS | _BOXES,
        parts="cards.page.detection",
        template="detection.md",
        clients={"torchvision": "stock_torchvision"},
        runtimes="stock_boxes",
        required="torchvision",
        app="detection.py",
        pipeline="image-segmentation",
        says="finds objects of its",
    ),
}


def of(result: Mapping[str, Any]) -> CardTask:
    """The row of a run.

    Raises:
        CardError: This version has no such task.
    """
    name = result.get("task")
    if name not in TASKS:
        raise CardError(f"no card for the task {name!r}: this version knows {', '.join(TASKS)}; update it")
    return TASKS[name]


def of_model(model: Path) -> CardTask:
    """The row of a model's folder: by the result.json beside it, its finetune.json or config.json; else classification.

    Raises:
        CardError: This version has no such task.
    """
    beside, own = model.parent / "result.json", model / OURS
    path = beside if beside.is_file() else own
    if not path.is_file():
        return TASKS[_said(model)]
    try:
        return of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise CardError(f"{path} is not JSON: {error}") from error


def _said(model: Path) -> str:
    """The task that config.json names by its `problem_type`, as those of other tasks than classification do."""
    try:
        problem = json.loads((model / "config.json").read_text(encoding="utf-8"))["problem_type"]
    except (OSError, ValueError, KeyError, TypeError):
        problem = None
    return next((name for name, row in TASKS.items() if problem and row.problem == problem), "image-classification")
