"""How a regression's model/ is written: as stock timm and transformers load it, in the dataset's unit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError
from finetune.evaluation import labels
from finetune.export import model_folder
from finetune.runs.result import RunResult
from finetune.tasks.regression import scaled

PROBLEM = "regression"
"""transformers' `problem_type`: its pipeline then gives the output itself, and no probability."""


@dataclass(frozen=True)
class Interval:
    """How far a single prediction may be off.

    Attributes:
        half_width: In the dataset's unit.
        level: Share of images that lie within.
    """

    half_width: float
    level: float


def save(
    model: nn.Module, folder: Path, data: LabelledImages, data_config: Mapping[str, Any], result: RunResult
) -> None:
    """Write config.json and model.safetensors; the folder appears whole or not at all.

    The name of the one output is the column's. `calibration` holds the level and half width of the interval.

    Raises:
        ExportError: Stock timm cannot build the same network.
    """
    entries: dict[str, Any] = {"problem_type": PROBLEM}
    if calibration := result.evaluation.get("calibration"):
        entries["calibration"] = {name: calibration[name] for name in ("level", "half_width", "method", "images")}
    with scaled.folded(model) as plain:
        model_folder.save(plain, folder, [data.schema.target_column], data_config, extra=entries)


def interval_of(config: Mapping[str, Any], name: str) -> Interval | None:
    """The interval that a config.json holds.

    Args:
        config: Its content.
        name: Of the model, for the message.

    Raises:
        ModelError: It is none.
    """
    found = config.get("calibration")
    if found is None:
        return None
    try:
        made = Interval(float(found["half_width"]), float(found["level"]))
        if not (0 <= made.half_width < math.inf and 0 < made.level < 1):
            raise ValueError("values that cannot be")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f'{name}: expected "calibration": {{"level": 0 to 1, "half_width": a number}} in config.json, got {found!r}'
        ) from error
    return made


def file_metadata(model: nn.Module, folder: Path) -> dict[str, str]:
    """Of an exported file: the name of the number and its interval; `classes` and `temperature` for any reader."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "classes": json.dumps(labels.names(model)),
        "temperature": json.dumps(1.0),
        "problem_type": PROBLEM,
        "calibration": json.dumps(config.get("calibration")),
    }
