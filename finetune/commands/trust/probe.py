"""`python -m finetune probe`: the bar that a finetune must beat, for one or several backbones."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.commands.trust import curve, embed
from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.errors import DatasetError
from finetune.evaluation.study.learning_curve import Curve
from finetune.settings.data_verbs import ProbeOptions
from finetune.study import Bar
from finetune.task import Score, Task
from finetune.tasks import registry


@dataclass(frozen=True)
class Probed:
    """A backbone's bars.

    Attributes:
        model: Its name.
        width: Of its features.
        bars: Linear probe, nearest neighbours.
        seconds: That features and fits took.
        score: The task's first.
        curve: Of the linear probe, where it was asked for.
    """

    model: str
    width: int
    bars: Sequence[Bar]
    seconds: float
    score: Score
    curve: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        bars = {
            bar.title: {**bar.scores, "intervals": {"test": {k: list(v) for k, v in bar.intervals.items()}}}
            for bar in self.bars
        }
        seconds = round(self.seconds, 3)
        found = {"model": self.model, "features": self.width, "seconds": seconds, "bars": bars}
        return found | ({"curve": self.curve.to_json()} if self.curve else {})


def probe(options: ProbeOptions) -> list[Probed]:
    """Fit and judge the bars of every model that the flags name.

    Raises:
        FinetuneError: The dataset or a model cannot be read, or the task has no probe.
    """
    data = embed.opened(options)
    task = registry.get(data.schema.task)
    registry.study_of(task, "probe")
    found = []
    for name in options.model:
        found.append(_one(name, task, data, options))
        log.info(_line(found[-1]))
    return found


def _one(name: str, task: Task, data: LabelledImages, options: ProbeOptions) -> Probed:
    began, study = time.perf_counter(), registry.study_of(task, "probe")
    values = embed.features(data, name, options)
    targets = {role: part.targets for role, part in data.splits.parts.items()}
    try:
        bars = list(study.bars(values, targets, data.schema, options.seed))
    except ValueError as error:
        raise DatasetError(f"nothing can be fitted to the features of {name}: {error}") from error
    seconds = time.perf_counter() - began
    found = curve.of_probe(study, task, values, targets, data.schema, options.seed) if options.curve else None
    return Probed(name, values["train"].shape[1], bars, seconds, task.scores[0], found)


def _line(found: Probed) -> str:
    score = found.score
    return "; ".join(f"{bar.title}: {score.title} {bar.scores['test'][score.key]:.4f} on test" for bar in found.bars)


def report(found: Sequence[Probed], options: ProbeOptions) -> None:
    """Print the table, or JSON."""
    if options.json:
        print(json.dumps({"dataset": str(options.dataset), "models": [one.to_json() for one in found]}))
        return
    for line in table(found):
        log.info(line)


def table(found: Sequence[Probed]) -> list[str]:
    """One row a model and bar, the best on validation first."""
    score = found[0].score.key
    width = max(len(one.model) for one in found) + 2
    lines = ["", f"{'model':{width}}{'':20}{'test':>10}{'95 % interval':>20}{'validation':>12}{'seconds':>9}"]
    ranked = sorted(found, key=lambda one: -one.bars[0].scores["validation"][score])
    for one in ranked:
        for bar in one.bars:
            low, high = bar.intervals.get(score, (float("nan"), float("nan")))
            lines.append(
                f"{one.model:{width}}{bar.title:20}{bar.scores['test'][score]:>10.4f}"
                f"{f'[{low:.4f}, {high:.4f}]':>20}{bar.scores['validation'][score]:>12.4f}{one.seconds:>9.1f}"
            )
    if len(found) > 1:
        lines.append(f"best on validation: {ranked[0].model}")
    for one in found:
        lines += [f"{one.model}: {bar.title}: {bar.said}" for bar in one.bars if bar.said]
        lines += [f"{one.model}: {line}" for line in one.curve.lines()] if one.curve else []
    return lines
