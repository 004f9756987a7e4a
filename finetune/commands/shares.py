"""`--curve`: trainings on parts of the training images, then the one on all of them, which is exported.

Parts are nested and stratified: each has the images of the smaller ones, and strata in their shares. Validation and
test images are the same for all, and so are the settings; only epochs that the preset has for so many images are those
that it has for fewer, for a part of the images in as many epochs is a training that was cut short, and would promise of
more images what more steps bring. Each part is trained in `RUN/curve/PERCENT`, and resumed as any training is. A run
that goes on takes all of them up again: those that had come to their end have nothing left to train, and are evaluated
anew.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.commands.trained import Trained
from finetune.console import is_main_process, log
from finetune.data import splits
from finetune.data.dataset import LabelledImages
from finetune.errors import DatasetError
from finetune.evaluation.comparing import paired
from finetune.evaluation.intervals import LEVEL
from finetune.evaluation.study import learning_curve, power_law
from finetune.evaluation.study.learning_curve import FRACTIONS, RESAMPLES
from finetune.runs.runfolder import RunFolder
from finetune.settings import durations
from finetune.settings.config import RunConfig
from finetune.settings.presets import epochs_for
from finetune.task import Task
from finetune.training.session import Session

FEWEST = 16
"""Training images of a part, below which a training tells nothing."""
METHOD = "percentile bootstrap over the test images, the same for all sizes; one training a size"

Fit = Callable[[RunConfig, LabelledImages, Session], Trained]
"""Trains and evaluates on what it is given."""


@dataclass(frozen=True)
class Share:
    """A part of the training images.

    Attributes:
        percent: Of them.
        config: Resolved.
        data: With these training images.
    """

    percent: int
    config: RunConfig
    data: LabelledImages

    @property
    def images(self) -> int:
        """How many."""
        return len(self.data.splits.parts["train"].rows)

    @property
    def work(self) -> int:
        """Images that its training takes, all epochs together."""
        return self.images * (self.config.epochs or 1)


@dataclass(frozen=True)
class Measured:
    """A training on a part, or on all.

    Attributes:
        percent: Of the training images.
        images: How many.
        epochs: Planned.
        scores: On validation and test.
        drawn: float64 `[R]`, the first score on resamples of the test images; empty in all but the first process.
    """

    percent: int
    images: int
    epochs: int
    scores: dict[str, dict[str, float]]
    drawn: np.ndarray


def plan(config: RunConfig, data: LabelledImages) -> list[Share]:
    """What is trained, the fewest images first; with the whole at the end.

    Args:
        config: Resolved, for all training images.
        data: With these.

    Raises:
        DatasetError: There are too few training images for a curve.
    """
    whole = data.splits.counts()["train"]
    made, parts = [Share(100, config, data)], data.splits
    for fraction in sorted(FRACTIONS, reverse=True)[1:]:
        size = round(fraction * whole)
        if size < max(FEWEST, len(data.schema.classes)):
            break
        parts = splits.sampled(parts, data.schema, "train", size, config.seed)  # of the larger part: they are nested
        own = _settings(config, whole, len(parts.parts["train"].rows))
        made.insert(0, Share(round(100 * fraction), own, dataclasses.replace(data, splits=parts)))
    if len(made) < power_law.FEWEST:
        raise DatasetError(
            f"--curve: {whole} training images are too few: a quarter of them would be below "
            f"{max(FEWEST, len(data.schema.classes))}, and a curve needs {power_law.FEWEST} sizes; leave out --curve, "
            "or see what probe --curve says"
        )
    return made


def _settings(config: RunConfig, whole: int, images: int) -> RunConfig:
    """Those of a part: the same; of the preset's epochs for the whole those for so many images, and as much warm-up."""
    if not config.epochs or config.epochs != epochs_for(whole, config.batch_size or 1):
        return config
    epochs = epochs_for(images, config.batch_size or 1)
    warmup = config.warmup_epochs
    warmup = None if warmup is None else warmup * epochs / config.epochs
    return dataclasses.replace(config, epochs=epochs, warmup_epochs=warmup)


def train(
    config: RunConfig, folder: RunFolder, data: LabelledImages, task: Task, session: Session, fit: Fit
) -> list[Measured]:
    """Train on all parts but the whole, in this order; nothing without `--curve`.

    Args:
        config: Resolved; `--max-time` is for all trainings together: each may take of what is left its share by the
            images that it has to see.
        folder: Of the run.
        data: Of the run.
        task: Of the run.
        session: That the whole is trained in, later.
        fit: Trains and evaluates.

    Raises:
        DatasetError: There are too few training images for a curve.
    """
    if not config.curve:
        return []
    shares = plan(config, data)
    folder.create(config, data.splits)  # so that it can be resumed
    limit: float | None = durations.seconds(config.max_time) if config.max_time else None
    done: list[Measured] = []
    for place, share in enumerate(shares[:-1]):
        log.info(f"{share.percent} % of the training images, {share.images}: training {place + 1} of {len(shares)}")
        own = Session(share.config, folder.of_share(share.percent))
        if limit is not None:
            own.limits.seconds = limit * share.work / sum(of.work for of in shares[place:])
        done.append(_measured(share, fit(share.config, share.data, own), task, config.seed))
        if limit is not None:
            limit = max(0.0, limit - own.limits.elapsed)
        first = task.scores[0]
        test = done[-1].scores["test"][first.key]
        log.info(f"{share.percent} % of the training images: test {first.title} {test:.4f}")
        del own
        gc.collect()
    if limit is not None:
        session.limits.seconds = limit
    log.info(f"all {shares[-1].images} training images: training {len(shares)} of {len(shares)}")
    return done


def _measured(share: Share, trained: Trained, task: Task, seed: int) -> Measured:
    drawn = np.zeros(0)
    if is_main_process():
        count = len(share.data.splits.parts["test"].rows)
        scores = task.resampler(trained.predictions["test"])
        drawn = np.concatenate([scores(weights) for weights in paired.draws(count, seed, RESAMPLES)])
    return Measured(share.percent, share.images, share.config.epochs or 0, trained.result.metrics, drawn)


def add(trained: Trained, parts: Sequence[Measured], config: RunConfig, data: LabelledImages, task: Task) -> Trained:
    """What was trained on all images, with `evaluation.curve` in its result where there were parts.

    Args:
        trained: On all.
        parts: As `train` gave them.
        config: Of the run.
        data: Of the run.
        task: Of the run.
    """
    if not parts or not is_main_process():
        return trained
    measured = [*parts, _measured(Share(100, config, data), trained, task, config.seed)]
    entry = curve(measured, task)
    result = dataclasses.replace(trained.result, evaluation=trained.result.evaluation | {"curve": entry})
    return dataclasses.replace(trained, result=result)


def curve(measured: Sequence[Measured], task: Task) -> dict[str, Any]:
    """`evaluation.curve` of result.json."""
    first = task.scores[0]
    now = np.array([one.scores["test"][first.key] for one in measured])
    drawn = np.stack([one.drawn for one in measured])
    found = learning_curve.of_scores([one.images for one in measured], now, drawn, first.title, first.higher)
    entry = found.to_json() | {"level": LEVEL, "resamples": drawn.shape[1], "method": METHOD}
    for point, one in zip(entry["points"], measured, strict=True):
        point |= {"percent": one.percent, "epochs": one.epochs} | one.scores
    return entry


def tidy(folder: RunFolder) -> None:
    """Before the run is complete: what the parts would have been resumed from takes room, and is of no more use."""
    for path in folder.curve.glob("*/checkpoints/last.ckpt"):
        path.unlink()
