"""The pictures of a finished multi-label run, in model/figures/, and its tables."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.evaluation.assessment import MISTAKES_SHOWN, write_table
from finetune.evaluation.figures import curves, reliability, style
from finetune.evaluation.figures.drawing import attempt
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.tasks.multi_label import judging
from finetune.tasks.multi_label.figures import classes, confusions, mistakes
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions

_CURVES = (
    ("val_mean_average_precision", "mean average precision", style.BLUE),
    ("val_macro_f1", "macro F1", style.GREEN),
)
_PAIRS = ("share of pairs of an image\nand a class that are true", "share of\npairs")
Wrong = tuple[int, int, bool, float]
"""Place in the split, class, whether it is missed, and its calibrated probability."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What there is to draw of a run.

    Attributes:
        test: What was predicted.
        data: Class names, and the images of the test split.
        evaluation: Of result.json.
        result: Of the run.
        metrics: metrics.csv.
    """

    test: MultiLabelPredictions
    data: LabelledImages
    evaluation: dict[str, Any]
    result: RunResult
    metrics: Path

    @property
    def temperature(self) -> float:
        """Of the calibration; 1 without."""
        value: float = self.evaluation.get("calibration", {}).get("temperature", 1.0)
        return value

    def wrong(self) -> list[Wrong]:
        """All mistakes, the most confident first."""
        logits, targets = self.test.arrays()
        limits = self.evaluation["thresholds"]["values"]
        chances = torch.sigmoid(self.test.logits.double() / self.temperature).numpy()
        answered = logits >= judging.logits_of(limits, self.temperature, len(limits))
        places = np.argwhere((answered != (targets > 0)) & (targets >= 0))
        sure = [chances[i, k] if answered[i, k] else 1 - chances[i, k] for i, k in places]
        order = np.argsort(-np.array(sure), kind="stable")
        return [(int(i), int(k), not answered[i, k], float(chances[i, k])) for i, k in places[order]]


def add(result: RunResult, test: MultiLabelPredictions, data: LabelledImages, folder: RunFolder) -> RunResult:
    """Draw a finished run's figures, write its tables, and save in result.json which there are.

    Raises:
        OSError: The disk is full.
    """
    entry = dict(result.evaluation)
    subject = Subject(test, data, entry, result, folder.metrics)
    target = folder.model / "figures"
    entry["figures"] = draw_all(subject, target)
    wrong = subject.wrong()
    if "mistakes" in entry["figures"]:
        entry["mistakes"] = entry["mistakes"] | {"shown": min(len(wrong), MISTAKES_SHOWN)}
    if wrong:  # beside model/: names of files are nobody's business
        attempt("mistakes.csv", lambda: write_table(folder.path / "mistakes.csv", _table(wrong, data)))
    attempt("per_class.csv", lambda: write_table(target / "per_class.csv", entry["per_class"]["test"]))
    result = dataclasses.replace(result, evaluation=entry)
    result.save(folder.result)
    return result


def draw_all(subject: Subject, folder: Path) -> dict[str, str]:
    """Draw what can be drawn into a new folder; paths by figure, relative to its parent.

    Raises:
        OSError: The disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    makers: dict[str, Callable[[Subject], Figure | None]] = {
        "classes": lambda of: classes.bars(of.evaluation["per_class"]["test"]),
        "precision_recall": _precision,
        "confusion": _confusions,
        "reliability": _reliability,
        "mistakes": _mistakes,
        "curves": _curves,
    }
    made = {}
    for name, make in makers.items():
        path = folder / f"{name}.png"
        if attempt(f"figure {name}", partial(_make, name, make, subject, path)):
            made[name] = f"{folder.name}/{path.name}"
    return made


def _make(name: str, make: Callable[[Subject], Figure | None], subject: Subject, path: Path) -> bool:
    with style.style():
        drawn = make(subject)
        if drawn is not None:
            photographs = name == "mistakes"
            style.save(drawn, path, limit=900_000 if photographs else 300_000, photographs=photographs)
    return drawn is not None


def _precision(subject: Subject) -> Figure:
    mean = subject.result.metrics["test"]["mean_average_precision"]
    return classes.curves(subject.test, subject.data.schema.classes, mean)


def _confusions(subject: Subject) -> Figure:
    limits = subject.evaluation["thresholds"]["values"]
    answered = judging.logits_of(limits, subject.temperature, len(limits))
    matrix = judging.taken_for(subject.test, answered)
    return confusions.draw(matrix, subject.data.schema.classes, (subject.test.targets > 0).sum(dim=0).numpy())


def _reliability(subject: Subject) -> Figure:
    before, targets = subject.test.pairs()
    panels = [("As it is", before.numpy())]
    if subject.temperature != 1:
        panels.append((f"At temperature {subject.temperature:.2f}", subject.test.pairs(subject.temperature)[0].numpy()))
    return reliability.draw(panels, targets.bool().numpy(), _PAIRS)


def _mistakes(subject: Subject) -> Figure | None:
    wrong = subject.wrong()
    if not wrong:
        return None
    values = subject.data.values("test", [place for place, *_ in wrong[:MISTAKES_SHOWN]])
    shown = [
        mistakes.Mistake(images.decode(value), label, missed, chance)
        for value, (_, label, missed, chance) in zip(values, wrong, strict=False)
    ]
    return mistakes.draw(shown, subject.data.schema.classes, len(wrong))


def _curves(subject: Subject) -> Figure | None:
    columns = curves.read(subject.metrics)
    trained = bool(columns) and columns["epoch"].max() > 0  # the linear probe alone is no curve
    return curves.draw(columns, subject.result.training["best_epoch"], _CURVES) if trained else None


def _table(wrong: list[Wrong], data: LabelledImages) -> list[dict[str, Any]]:
    """Where each image is, the class, and what happened to it."""
    part, names = data.splits.parts["test"], data.schema.classes
    files = data.files("test", [place for place, *_ in wrong])
    return [
        {
            "split": part.source,
            "row": int(part.rows[place]),
            "file": file,
            "class": names[label],
            "mistake": "missed" if missed else "invented",
            "probability": f"{chance:.4f}",
        }
        for (place, label, missed, chance), file in zip(wrong, files, strict=True)
    ]
