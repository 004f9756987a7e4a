"""What models say of images: from a run's folder where it is there, else computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from finetune.commands import evaluate
from finetune.data.dataset import LabelledImages
from finetune.errors import RunFolderError
from finetune.evaluation import saved
from finetune.evaluation.comparing.judged import Comparing, Judged
from finetune.loading.allocator import freed_memory_kept
from finetune.networks import models
from finetune.runs import reading
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.task import Task
from finetune.training.session import make_trainer, quiet


def compute(
    task: Task,
    data: LabelledImages,
    network: nn.Module,
    outputs: int,
    accelerator: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
) -> Any:
    """Predictions of the test split, in the order of its rows, in float32.

    Args:
        task: Of the model.
        data: With the test split.
        network: The model.
        outputs: How many it has.
        accelerator: Lightning's.
        batch_size: Images per batch.
        workers: Processes that decode.
    """
    loader = task.data_module(data, models.data_config(network), batch_size=batch_size, workers=workers)
    collector = task.collector()
    trainer = make_trainer(accelerator, "1", [collector])
    with quiet(), freed_memory_kept():
        trainer.test(task.evaluator(network, outputs), loader, verbose=False)
    return collector.last


def of_run(folder: RunFolder, result: RunResult, task: Task, **options: Any) -> Any:
    """Predictions of a run's test images, as it has kept them; computed where it has not.

    Raises:
        FinetuneError: They are not there, and the dataset is gone or has changed.
    """
    kept = saved.load(folder.predictions, task.collector().kind) or {}
    if "test" in kept:
        return kept["test"]
    data = evaluate.reopen(folder, result, "test")
    return compute(task, data, task.load(folder.model), len(data.schema.classes), **options)


def test_images(folder: RunFolder, result: RunResult) -> str:
    """What identifies the images of a run's test split and their labels, as lock.json has it."""
    if folder.lock.is_file() and reading.whole(folder.lock, reading.LOCK):
        recorded = reading.read(folder.lock, reading.LOCK)["data"]
        if "test split" in recorded:
            return str(recorded["test split"])
    return evaluate.reopen(folder, result, "test").fingerprint("test")


def opened(model: str | Path) -> tuple[RunFolder, RunResult]:
    """A finished run.

    Raises:
        RunFolderError: There is none.
    """
    folder = RunFolder(Path(model).expanduser().absolute())
    if not folder.path.is_dir():
        raise RunFolderError(f"no such folder: {folder.path}; expected a finished run, or a model with --dataset")
    return folder, RunResult.load(folder.result)


def judged(task: Task, found: Any, classes: Sequence[str], images: int, evaluation: Mapping[str, Any]) -> Judged:
    """Weighed predictions, see `finetune.evaluation.comparing.judged`.

    Args:
        task: Of the model; of one that scores no single images its first score alone is weighed.
        found: What its collector keeps.
        classes: Names of the model's outputs.
        images: How many were predicted.
        evaluation: As `Comparing.judged` takes it.
    """
    if isinstance(task, Comparing):
        return task.judged(found, classes, evaluation)
    first, score = task.scores[0], task.resampler(found)
    return Judged(
        scores=lambda weights: {first.key: score(weights)},
        values=np.full(images, np.nan),
        worth=first,
        right=None,
        said=[""] * images,
        true=[""] * images,
        shows=np.zeros((images, 0), dtype=bool),
        names=(),
    )
