"""The pictures of a finished run, in model/figures/; each from numbers that result.json or metrics.csv have too."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from finetune.console import log
from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.evaluation.assessment import mistakes as mistakes_of
from finetune.evaluation.assessment import worst, write_table
from finetune.evaluation.figures import confusion, curves, mistakes, reliability, style
from finetune.evaluation.predictions import Predictions
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder


@dataclass(frozen=True)
class Subject:
    """What there is to draw of a run.

    Attributes:
        test: What was predicted.
        data: Class names, and the images of the test split.
        metrics: metrics.csv.
        best_epoch: From 1.
        temperature: Of the calibration, if there is one.
    """

    test: Predictions
    data: LabelledImages
    metrics: Path
    best_epoch: int | None
    temperature: float | None


def add(result: RunResult, test: Predictions, data: LabelledImages, folder: RunFolder) -> RunResult:
    """Draw a finished run's figures, write the per-class table, and save in result.json which there are.

    Raises:
        OSError: The disk is full.
    """
    entry = dict(result.evaluation)
    temperature = entry.get("calibration", {}).get("temperature")
    subject = Subject(test, data, folder.metrics, result.training["best_epoch"], temperature)
    target = folder.model / "figures"
    entry["figures"] = draw_all(subject, target)
    if "mistakes" in entry["figures"]:
        entry["mistakes"] = entry["mistakes"] | {"shown": len(worst(test, temperature or 1.0))}
    wrong = mistakes_of(test, temperature or 1.0, data)
    if wrong:  # beside model/: names of files are nobody's business
        attempt("mistakes.csv", lambda: write_table(folder.path / "mistakes.csv", wrong))
    attempt("per_class.csv", lambda: write_table(target / "per_class.csv", entry["per_class"]["test"]))
    result = dataclasses.replace(result, evaluation=entry)
    result.save(folder.result)
    return result


def draw_all(subject: Subject, folder: Path) -> dict[str, str]:
    """Draw what can be drawn; a figure that fails is reported, and missing.

    Args:
        subject: The run.
        folder: To write to; made, or emptied if it is there.

    Returns:
        Paths by figure (`confusion`, `curves`, `reliability`, `mistakes`), relative to the parent of `folder`.

    Raises:
        OSError: The disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    makers: dict[str, Callable[[Subject], Figure | None]] = {
        "confusion": _confusion,
        "curves": _curves,
        "reliability": _reliability,
        "mistakes": _mistakes,
    }
    made = {}
    for name, make in makers.items():
        path = folder / f"{name}.png"
        if attempt(f"figure {name}", partial(_make, make, subject, path)):
            made[name] = f"{folder.name}/{path.name}"
    return made


def attempt(what: str, step: Callable[[], bool | None]) -> bool:
    """Whether `step` answered True; what it raises is reported, for a finished run must not be lost to a picture.

    Raises:
        OSError: The disk is full.
    """
    try:
        return bool(step())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.info(f"warning: {what} could not be made ({type(error).__name__}: {error}); everything else is complete")
        return False


def _make(make: Callable[[Subject], Figure | None], subject: Subject, path: Path) -> bool:
    with style.style():
        drawn = make(subject)
        if drawn is not None:
            photographs = make is _mistakes
            style.save(drawn, path, limit=900_000 if photographs else 300_000, photographs=photographs)
    return drawn is not None


def _confusion(subject: Subject) -> Figure:
    return confusion.draw(subject.test.pairs(), subject.data.schema.classes)


def _curves(subject: Subject) -> Figure | None:
    columns = curves.read(subject.metrics)
    trained = bool(columns) and columns["epoch"].max() > 0  # the linear probe alone is no curve
    return curves.draw(columns, subject.best_epoch, curves.SCORES) if trained else None


def _reliability(subject: Subject) -> Figure:
    test = subject.test
    panels = [("As it is", test.confidences().numpy())]
    if subject.temperature is not None and subject.temperature != 1:
        calibrated = test.confidences(subject.temperature).numpy()
        panels.append((f"At temperature {subject.temperature:.2f}", calibrated))
    return reliability.draw(panels, test.correct.numpy())


def _mistakes(subject: Subject) -> Figure | None:
    found = worst(subject.test, subject.temperature or 1.0)
    if not found:
        return None
    values = subject.data.values("test", [place for place, _, _ in found])
    shown = [
        mistakes.Mistake(images.decode(value), int(subject.test.targets[place]), label, confidence)
        for value, (place, label, confidence) in zip(values, found, strict=True)
    ]
    return mistakes.draw(shown, subject.data.schema.classes, int((~subject.test.correct).sum()))
