"""How a multi-label model is written: timm's folder, with what transformers and `predict` need besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from finetune.data.dataset import LabelledImages
from finetune.evaluation import labels
from finetune.export import model_folder
from finetune.networks import models
from finetune.runs.result import RunResult
from finetune.tasks.multi_label.schema import TASK

PROBLEM = "multi_label_classification"
"""transformers' `problem_type`: its pipeline then gives a sigmoid of each output."""


def save(
    network: nn.Module, folder: Path, data: LabelledImages, data_config: Mapping[str, Any], result: RunResult
) -> None:
    """Write model/: `problem_type` says sigmoid to transformers, `calibration` holds temperature and thresholds.

    Raises:
        ExportError: Stock timm cannot build the same network.
    """
    temperature = result.evaluation.get("calibration", {}).get("temperature")
    extra = {
        "task": TASK,
        "problem_type": PROBLEM,
        "calibration": {"thresholds": result.evaluation["thresholds"]["values"]},
    }
    model_folder.save(network, folder, data.schema.classes, data_config, temperature, extra)


def file_metadata(network: nn.Module, folder: Path) -> dict[str, str]:
    """Classes, temperature and thresholds: an exported file gives logits, of which each is a class's own."""
    found = models.calibration(f"local-dir:{folder}")
    names = labels.names(network)
    return {
        "problem_type": PROBLEM,
        "classes": json.dumps(names),
        "temperature": json.dumps(found.get("temperature", 1.0)),
        "thresholds": json.dumps(found.get("thresholds", [0.5] * len(names))),
    }
