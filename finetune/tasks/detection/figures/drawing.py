"""The pictures of a finished run, in model/figures/, and the table of classes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from finetune.data import images
from finetune.evaluation.assessment import write_table
from finetune.evaluation.figures import curves, reliability, style
from finetune.evaluation.figures.drawing import attempt
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.tasks.detection.figures import examples, numbers
from finetune.tasks.detection.judging import threshold
from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.judging.matches import match


def add(result: RunResult, test: Detected, data: Any, folder: RunFolder) -> RunResult:
    """Draw a finished run's figures, write the table of classes, and save in result.json which there are.

    Raises:
        OSError: The disk is full.
    """
    entry = dict(result.evaluation)
    target = folder.model / "figures"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    entry["figures"] = {}
    for name, make in _makers(result, test, data, folder).items():
        path = target / f"{name}.png"

        def step(make: Callable[[], Figure | None] = make, path: Path = path, name: str = name) -> bool:
            return _make(make, path, photographs=name == "examples")

        if attempt(f"figure {name}", step):
            entry["figures"][name] = f"{target.name}/{path.name}"
    attempt("per_class.csv", lambda: write_table(target / "per_class.csv", entry["per_class"]["test"]))
    result = dataclasses.replace(result, evaluation=entry)
    result.save(folder.result)
    return result


def _makers(result: RunResult, test: Detected, data: Any, folder: RunFolder) -> dict[str, Callable[[], Figure | None]]:
    classes = data.schema.classes
    found = match(test, len(classes))
    shown = result.evaluation["threshold"]["score"]
    temperature = result.evaluation.get("calibration", {}).get("temperature")

    def learning() -> Figure | None:
        columns = curves.read(folder.metrics)
        return curves.draw(columns, result.training["best_epoch"], lines(columns)) if columns else None

    def reliable() -> Figure | None:
        counted = ~found.ignored[:, 0]
        if not counted.any():
            return None
        panels = [("As it is", found.score[counted])]
        if temperature is not None:
            calibrated = threshold.calibrated(found.score[counted], temperature)
            panels.append((f"At temperature {temperature:.2f}", calibrated))
        return reliability.draw(panels, found.true[counted, 0])

    return {
        "examples": lambda: _examples(test, data, shown),
        "precision_recall": lambda: numbers.precision_recall(found, classes, shown),
        "classes": lambda: numbers.bars(result.evaluation["per_class"]["test"], result.metrics["test"]),
        "reliability": reliable,
        "curves": learning,
    }


def lines(columns: Collection[str]) -> tuple[curves.Line, ...]:
    """What the curves show of metrics.csv: the AP of boxes, or of masks, which choose the epoch where there are any."""
    kind = "mask_" if "val_mask_map" in columns else ""
    name = f"{kind.replace('_', ' ')}AP"
    return (f"val_{kind}map", name, style.BLUE), (f"val_{kind}map_50", f"{name} at overlap 0.5", style.GREEN)


def _examples(test: Detected, data: Any, shown: float) -> Figure:
    pairs = test.pairs()
    picked = []
    for kind, some in examples.chosen(examples.qualities(test, shown)).items():
        for quality in some:
            (value,) = data.values("test", [quality.place])
            picked.append((kind, quality, images.decode(value), *pairs[quality.place]))
    return examples.draw(picked, data.schema.classes, shown)


def _make(make: Callable[[], Figure | None], path: Path, photographs: bool) -> bool:
    with style.style():
        drawn = make()
        if drawn is not None:
            style.save(drawn, path, limit=900_000 if photographs else 300_000, photographs=photographs)
    return drawn is not None
