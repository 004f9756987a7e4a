"""What is made of a finished model: numbers, figures, certificate, card; in an order in which nothing is lost.

A run is complete when complete.json is there, which is written last. One that ended before it, by a kill or a full
disk, goes on from what it has: with its numbers, its model and its predictions nothing is trained or evaluated again.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

import cards
from finetune.commands import evaluate_published, report, seeds, shares
from finetune.commands.phases import Phases
from finetune.commands.trained import Trained
from finetune.commands.trust import leaks
from finetune.commands.trust.failing import weaknesses
from finetune.console import log
from finetune.data.checks.copies import Copies
from finetune.data.dataset import TARGETS, LabelledImages
from finetune.errors import DatasetError, FinetuneError, RunFolderError
from finetune.evaluation import saved, spread
from finetune.evaluation.figures import shares as shares_figure
from finetune.export import certify, publishing
from finetune.loading.allocator import freed_memory_kept
from finetune.networks import models
from finetune.runs import model_files, reading, seal
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, settings_of
from finetune.settings.config import RunConfig
from finetune.settings.options import ModelOptions, TrainingOptions
from finetune.task import Task
from finetune.tasks import registry

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR)


@dataclass(frozen=True)
class Finished:
    """What the rest of a run is made from.

    Attributes:
        model: With the exported weights.
        data_config: timm's, as the model was evaluated with.
        result: With its `evaluation`.
        predictions: Of `validation` and `test`.
        remarks: What the user should know of how it went.
    """

    model: nn.Module
    data_config: Mapping[str, Any]
    result: RunResult
    predictions: Mapping[str, Any]
    remarks: Sequence[str] = ()


def write_up(
    trained: Trained,
    config: RunConfig,
    task: Task,
    data: LabelledImages,
    folder: RunFolder,
    copies: Copies | None,
    phases: Phases,
) -> RunResult:
    """Save a training's numbers and model, and then everything that is made of them; in the first process.

    Args:
        trained: What is exported.
        config: Of the run.
        task: Of the run.
        data: Of the run.
        folder: Of the run.
        copies: Among the images; None where it was not looked for them.
        phases: What the run has taken its time for until now.

    Raises:
        RunFolderError: The disk is full, or the folder cannot be written any more; what was there is intact.
    """
    predictions = trained.predictions
    with on_disk(folder):
        with phases.of("evaluation"):
            result = task.assess(trained.result, predictions, data, trained.session.baseline)
            result = leaks.add(result, predictions, task, data, copies)
            if config.robustness and not config.streaming:  # whose images would have to be read once more
                result = _with_weaknesses(result, trained, task, data)
        with phases.of("export"):
            task.save(trained.model, folder.model, data, trained.data_config, result)
            saved.save(folder.predictions, predictions)
            result.save(folder.result)
    finished = Finished(trained.model, trained.data_config, result, predictions, trained.remarks)
    return finish(finished, config, task, data, folder, phases)


def _with_weaknesses(result: RunResult, trained: Trained, task: Task, data: LabelledImages) -> RunResult:
    """The result with where the model fails; without it, said, where that cannot be found out: the training counts."""
    device = trained.session.trainer.strategy.root_device
    try:
        with freed_memory_kept():
            return weaknesses.add(result, trained.predictions, data, trained.model, trained.data_config, task, device)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        log.info(f"warning: where the model fails was not found out ({type(error).__name__}: {error}): a bug of ours")
        return result


def finish(
    finished: Finished, config: RunConfig, task: Task, data: LabelledImages, folder: RunFolder, phases: Phases
) -> RunResult:
    """Witness, figures, certificate, card, and complete.json; each replaces what an earlier try has left of it.

    Raises:
        RunFolderError: The disk is full, or the folder cannot be written any more; what was there is intact.
    """
    with on_disk(folder):
        with phases.of("export"):
            task.witness(finished.model, folder.verify, data, finished.data_config)
        with phases.of("pictures"):
            result: RunResult = task.draw(finished.result, finished.predictions["test"], data, folder)
            result = shares_figure.add(result, folder)
        with phases.of("certificate and card"):
            if not config.streaming:  # whose rows are not numbered
                evaluate_published.write(folder, result, config, data)
            certify.certify(folder.path)
            cards.build(folder.path)
            shares.tidy(folder)
            seal.complete(folder, without=_twice(folder, result))
    seeds.tidy(folder, result)
    for line in (*finished.remarks, phases.line()):
        log.info(line)
    log.info(report.table(result, task, task.scores))
    publishing.publish(config, folder.path)
    return result


def _twice(folder: RunFolder, result: RunResult) -> Path | None:
    """What `seeds.tidy` will delete."""
    exported = result.evaluation.get("seeds", {}).get("exported", spread.AVERAGE)
    return None if exported == spread.AVERAGE else folder.of_seed(exported).path


def unfinished(config: RunConfig, folder: RunFolder) -> bool:
    """Whether a run has all that `finish` needs and was begun with these settings; else its training goes on first."""
    if folder.complete or not folder.lock.is_file() or not reading.whole(folder.lock, reading.LOCK):
        return False
    try:
        result = RunResult.load(folder.result)
        task = registry.get(result.task)
        model_files.check(folder.model)
        recorded, asked = folder.settings(), settings_of(config)
    except FinetuneError:
        return False
    options = [f.name for group in (ModelOptions, TrainingOptions) for f in dataclasses.fields(group)]
    same = all(recorded.get(name) == asked[name] for name in (*options, "seed", "seeds") if asked[name] is not None)
    same = same and (not config.curve or "curve" in result.evaluation)
    return same and "test" in (saved.load(folder.predictions, task.collector().kind) or {})


def go_on(config: RunConfig, data: LabelledImages, folder: RunFolder) -> RunResult:
    """Finish a run that `unfinished` says yes of.

    Raises:
        DatasetError: The dataset has changed since.
        RunFolderError: The disk is full, or a file of the run is damaged.
    """
    result = RunResult.load(folder.result)
    task = registry.get(result.task)
    recorded = reading.read(folder.lock, reading.LOCK)["data"]
    now = {name: of for name, of in data.fingerprints().items() if name in recorded or not name.startswith(TARGETS)}
    changed = sorted({name.removeprefix(TARGETS) for name, of in now.items() if of != recorded.get(name)})
    if changed:
        raise DatasetError(
            f"--resume: the dataset has changed since the run in {folder.path} began: other images or labels in its "
            f"{', '.join(changed)}; give the dataset it was begun with, or start another run with --output"
        )
    log.info(f"the training in {folder.path} has come to its end: finishing its figures, certificate and card")
    model = task.load(folder.model)
    predictions = saved.load(folder.predictions, task.collector().kind) or {}
    return finish(Finished(model, models.data_config(model), result, predictions), config, task, data, folder, Phases())


@contextmanager
def on_disk(folder: RunFolder) -> Iterator[None]:
    """Say in one line what cannot be written, and how the run goes on.

    Raises:
        RunFolderError: The disk is full, or the folder cannot be written any more.
    """
    try:
        yield
    except FinetuneError:
        raise
    except cards.CardError as error:
        raise RunFolderError(f"{error}; go on with: python -m finetune --resume {folder.root}") from error
    except SafetensorError as error:
        raise RunFolderError(_unwritten(folder, " ".join(str(error).split())[:200])) from error
    except OSError as error:
        ours = error.filename is None or Path(str(error.filename)).absolute().is_relative_to(folder.root)
        if error.errno not in _DISK or not ours:
            raise
        raise RunFolderError(_unwritten(folder, error.strerror or str(error))) from error


def _unwritten(folder: RunFolder, reason: str) -> str:
    return (
        f"cannot write to {folder.path}: {reason}; what was written before is intact: free some space or let it be "
        f"written, then go on with: python -m finetune --resume {folder.root}"
    )
