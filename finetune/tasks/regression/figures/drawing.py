"""The pictures of a finished regression, in model/figures/; each from numbers that are kept in files too."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.evaluation.assessment import MISTAKES_SHOWN, write_table
from finetune.evaluation.figures import curves, mistakes, style
from finetune.evaluation.figures.drawing import attempt
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.tasks.regression.figures import scatter
from finetune.tasks.regression.predictions import NumberPredictions

_SHOWN = (("val_mae", "mean absolute error", style.BLUE), ("val_rmse", "RMSE", style.GREEN))


@dataclass(frozen=True)
class Subject:
    """What there is to draw of a run.

    Attributes:
        test: What was predicted.
        data: The images of the test split.
        result: The run's numbers.
        metrics: metrics.csv.
    """

    test: NumberPredictions
    data: LabelledImages
    result: RunResult
    metrics: Path

    @property
    def values(self) -> np.ndarray:
        """Predicted, float64 `[N]`."""
        found: np.ndarray = self.test.values.double().numpy()
        return found

    @property
    def targets(self) -> np.ndarray:
        """True, float64 `[N]`."""
        found: np.ndarray = self.test.targets.double().numpy()
        return found

    @property
    def half_width(self) -> float | None:
        """Of the interval for single predictions."""
        width: float | None = self.result.evaluation.get("calibration", {}).get("half_width")
        return width

    @property
    def name(self) -> str:
        """Of the number."""
        return self.data.schema.target_column


def add(result: RunResult, test: NumberPredictions, data: LabelledImages, folder: RunFolder) -> RunResult:
    """Draw a finished run's figures, and save in result.json which there are; mistakes.csv has all test images.

    Raises:
        OSError: The disk is full.
    """
    subject, target = Subject(test, data, result, folder.metrics), folder.model / "figures"
    entry = dict(result.evaluation)
    entry["figures"] = draw_all(subject, target)
    if "mistakes" in entry["figures"]:
        entry["mistakes"] = entry["mistakes"] | {"shown": min(MISTAKES_SHOWN, len(test.values))}
    # Beside model/: names of files are nobody's business.
    attempt("mistakes.csv", lambda: write_table(folder.path / "mistakes.csv", rows(test, data)))
    result = dataclasses.replace(result, evaluation=entry)
    result.save(folder.result)
    return result


def draw_all(subject: Subject, folder: Path) -> dict[str, str]:
    """Draw what can be drawn; a figure that fails is reported, and missing.

    Args:
        subject: The run.
        folder: To write to; made, or emptied if it is there.

    Returns:
        Paths by figure (`predicted`, `residuals`, `mistakes`, `curves`), relative to the parent of `folder`.

    Raises:
        OSError: The disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    makers: dict[str, Callable[[Subject], Figure | None]] = {
        "predicted": _predicted,
        "residuals": _residuals,
        "mistakes": _mistakes,
        "curves": _curves,
    }
    made = {}
    for name, make in makers.items():
        path = folder / f"{name}.png"
        if attempt(f"figure {name}", partial(_make, make, subject, path)):
            made[name] = f"{folder.name}/{path.name}"
    return made


def _make(make: Callable[[Subject], Figure | None], subject: Subject, path: Path) -> bool:
    with style.style():
        drawn = make(subject)
        if drawn is not None:
            photographs = make is _mistakes
            style.save(drawn, path, limit=900_000 if photographs else 300_000, photographs=photographs)
    return drawn is not None


def _predicted(subject: Subject) -> Figure:
    scores = subject.result.metrics["test"]
    head = (
        f"{len(subject.values):,} test images: mean absolute error {style.number(scores['mae'])}, R2 {scores['r2']:.4f}"
    )
    return scatter.predicted(subject.values, subject.targets, subject.name, subject.half_width, head)


def _residuals(subject: Subject) -> Figure:
    return scatter.residuals(subject.values, subject.targets, subject.name, subject.half_width)


def _curves(subject: Subject) -> Figure | None:
    columns = curves.read(subject.metrics)
    trained = bool(columns) and columns["epoch"].max() > 0  # the linear probe alone is no curve
    return curves.draw(columns, subject.result.training["best_epoch"], _SHOWN) if trained else None


def worst(test: NumberPredictions, count: int = MISTAKES_SHOWN) -> list[int]:
    """The images with the largest errors: places in the split, the largest first."""
    places: list[int] = np.argsort(-np.abs(test.errors), kind="stable")[:count].tolist()
    return places


def _mistakes(subject: Subject) -> Figure:
    places, errors = worst(subject.test), subject.test.errors
    shown = [
        mistakes.Shown(
            images.decode(value), f"{subject.targets[at]:.4g}", f"{subject.values[at]:.4g}", f"{errors[at]:+.3g}"
        )
        for value, at in zip(subject.data.values("test", places), places, strict=True)
    ]
    head = f"The {len(shown)} largest errors of {len(errors):,} test images"
    return mistakes.page(shown, head, "true, \N{RIGHTWARDS ARROW} predicted, and the difference")


def rows(test: NumberPredictions, data: LabelledImages) -> list[dict[str, Any]]:
    """All test images, the largest error first: where the image is, its number, the predicted one."""
    places, part = worst(test, len(test.values)), data.splits.parts["test"]
    return [
        {
            "split": part.source,
            "row": int(part.rows[at]),
            "file": file,
            "true": f"{float(test.targets[at]):.9g}",
            "predicted": f"{float(test.values[at]):.9g}",
            "error": f"{test.errors[at]:.6g}",
        }
        for at, file in zip(places, data.files("test", places), strict=True)
    ]
