"""`--seeds`: one training after the other, on one split, and then the choice of what is exported.

Each is trained in `RUN/seeds/S`, and resumed as any training is. A run that goes on takes all of them up again: those
that had come to their end have nothing left to train, and are evaluated anew. What is exported is linked into the run
before its result is written, and taken out of `seeds/` when the run is complete, so that there is no moment at which a
kill loses anything.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.commands.report import FEWEST_TO_CHOOSE_BY
from finetune.commands.trained import Trained
from finetune.console import is_main_process, log
from finetune.errors import CheckpointError, ResumeError
from finetune.evaluation import spread
from finetune.export import model_folder
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, write_text
from finetune.settings import durations
from finetune.settings.config import RunConfig
from finetune.task import Score
from finetune.training import checkpoint_io
from finetune.training.callbacks.checkpoints import BEST, LAST
from finetune.training.callbacks.epoch_log import read_rows
from finetune.training.session import Session


@dataclass(frozen=True)
class _Seed:
    """What is kept of a training while the others run; its weights are on the disk."""

    number: int
    folder: RunFolder
    result: RunResult
    predictions: dict[str, Any]
    remarks: list[str]

    def entry(self) -> dict[str, Any]:
        """For result.json."""
        training = {name: self.result.training[name] for name in ("epochs", "best_epoch", "stopped_by", "seconds")}
        return {"seed": self.number, **training, **self.result.metrics}


def check(config: RunConfig, folder: RunFolder) -> None:
    """Whether a run that goes on has as many seeds as it was begun with: one has its files elsewhere.

    Raises:
        ResumeError: It has not.
    """
    begun = folder.settings().get("seeds", 1) if folder.begun else config.seeds
    if begun != config.seeds:
        raise ResumeError(
            f"--resume: the run in {folder.path} was begun with --seeds {begun}, not {config.seeds}: give what it was "
            "begun with, or start another run with --output"
        )


def first_folder(config: RunConfig, folder: RunFolder) -> RunFolder:
    """Where the first training goes: to the run itself, where there is one seed."""
    return folder if config.seeds == 1 else folder.of_seed(config.seed)


def train(config: RunConfig, folder: RunFolder, session: Session, fit: Callable[[int, Session], Trained]) -> Trained:
    """Train all seeds, and choose; a single one in the run's own folder.

    Args:
        config: Resolved; `--max-time` is for all of them: each may take an even share of what is left.
        folder: Of the run.
        session: Of the first seed; those of the others are made here.
        fit: Trains and evaluates a seed.

    Returns:
        What is exported, its weights in its model, `evaluation.seeds` in its result.
    """
    if config.seeds == 1:
        return fit(config.seed, session)
    limit: float | None = durations.seconds(config.max_time) if config.max_time else None
    done: list[_Seed] = []
    while True:
        number = config.seed + len(done)
        log.info(f"seed {number}: training {len(done) + 1} of {config.seeds}")
        if limit is not None:
            session.limits.seconds = limit / (config.seeds - len(done))
        last = fit(number, session)
        done.append(_Seed(number, session.folder, last.result, last.predictions, last.remarks))
        _say(done[-1], session.checkpoints.ranking)
        if limit is not None:
            limit = max(0.0, limit - session.limits.elapsed)
        if len(done) == config.seeds:
            return _choose(folder, done, last)
        # The linear probe is the same for all; nothing else of a training is needed for the next.
        baseline = session.baseline
        del last, session
        gc.collect()
        session = Session(config, folder.of_seed(number + 1), baseline)


def _say(done: _Seed, ranking: Sequence[Score]) -> None:
    validation, test = (done.result.metrics[role] for role in ("validation", "test"))
    scores = ", ".join(f"{of.title} {validation[of.key]:.4f}" for of in ranking)
    first = ranking[0]
    log.info(f"seed {done.number}: validation {scores}; test {first.title} {test[first.key]:.4f}")


def _choose(folder: RunFolder, seeds: Sequence[_Seed], last: Trained) -> Trained:
    """Put what is best into the last training's model, and into the run's folder."""
    paths = [seed.folder.best_checkpoint for seed in seeds]
    session, module, loader = last.session, last.module, last.loader
    module.model.load_state_dict(average(paths))
    scores = {"validation": session.evaluate(module, loader, "validation")}
    enough = last.result.dataset["splits"]["validation"] >= FEWEST_TO_CHOOSE_BY
    each = [seed.result.metrics["validation"] for seed in seeds]
    choice = spread.choose(each, scores["validation"], enough, session.checkpoints.ranking)
    # All processes have the same scores; should they ever not, they must not part here.
    place, chosen_by = session.trainer.strategy.broadcast(choice)
    if place is None:
        scores["test"] = session.evaluate(module, loader, "test")
        result, predictions, remarks = _averaged(seeds, scores, chosen_by), dict(session.predictions), list[str]()
        _install_average(folder, seeds, module.model.state_dict())
    else:
        chosen = seeds[place]
        result, predictions, remarks = chosen.result, chosen.predictions, chosen.remarks
        module.model.load_state_dict(model_folder.best_weights(paths[place]))
        _install(folder, chosen)
    exported = spread.AVERAGE if place is None else seeds[place].number
    entry = spread.summary([seed.entry() for seed in seeds], scores, exported, chosen_by)
    result = dataclasses.replace(result, evaluation={"seeds": entry})
    return dataclasses.replace(last, result=result, predictions=predictions, remarks=remarks)


def average(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the models' weights in checkpoints; counters are those of the first.

    BatchNorm's running means and variances are averaged as well: nothing is estimated again.

    Args:
        checkpoints: Of one architecture.
    """
    first = model_folder.best_weights(checkpoints[0])
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for path in checkpoints[1:]:
        weights = model_folder.best_weights(path)
        for name, total in sums.items():
            total += weights[name]
    means = {name: (total / len(checkpoints)).to(first[name].dtype) for name, total in sums.items()}
    return first | means


def _averaged(seeds: Sequence[_Seed], scores: dict[str, dict[str, float]], chosen_by: str) -> RunResult:
    """The first seed's result, with what is of all: the time they took together, the longest's epochs."""
    result = seeds[0].result
    trainings = [seed.result.training for seed in seeds]
    changed = {
        "epochs": max(training["epochs"] for training in trainings),
        "partial_epoch": None,
        "stopped_by": next((training["stopped_by"] for training in trainings if training["stopped_by"]), None),
        "seconds": round(sum(training["seconds"] for training in trainings), 3),
        "images_per_second": round(statistics.mean(training["images_per_second"] for training in trainings), 3),
        "data_wait": round(statistics.mean(training["data_wait"] for training in trainings), 6),
        "best_epoch": None,
        "chosen_by": f"average of the weights of {len(seeds)} seeds: {chosen_by}",
    }
    model = result.model | {"weights": spread.AVERAGED}
    return dataclasses.replace(result, model=model, metrics=scores, training=result.training | changed)


def _install(folder: RunFolder, chosen: _Seed) -> None:
    """Let the run have the files of one of its seeds; they stay there, too."""
    if not is_main_process():
        return
    folder.checkpoints.mkdir(exist_ok=True)
    for name in (BEST, LAST):
        checkpoint_io.same_content(chosen.folder.checkpoints / name, folder.checkpoints / name)
    checkpoint_io.same_content(chosen.folder.metrics, folder.metrics)


def _install_average(folder: RunFolder, seeds: Sequence[_Seed], weights: dict[str, Tensor]) -> None:
    """A checkpoint of weights alone, and the mean of the seeds' metrics.

    Raises:
        CheckpointError: It cannot be written.
    """
    if not is_main_process():
        return
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / LAST).unlink(missing_ok=True)
    writer = checkpoint_io.AtomicCheckpointIO()
    state = {f"model.{name}": value.detach().cpu() for name, value in weights.items()}
    writer.save_checkpoint({"state_dict": state}, folder.best_checkpoint)
    if writer.error is not None:
        raise CheckpointError(
            f"cannot write a checkpoint to {folder.checkpoints}: {writer.error.strerror}; free some space, then go on "
            f"with: python -m finetune --resume {folder.path}"
        ) from writer.error
    write_text(folder.metrics, mean_rows([seed.folder.metrics for seed in seeds]))


def mean_rows(paths: Sequence[Path]) -> str:
    """The mean of several metrics.csv, as such: the epochs that all have; empty where one of them is."""
    tables = []
    for path in paths:
        tables.append({int(float(row["epoch"])): row for row in read_rows(path)})
    text = io.StringIO()
    names = list(next(iter(tables[0].values())))
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for epoch in sorted(set.intersection(*map(set, tables))):
        means = {name: _mean([table[epoch][name] for table in tables]) for name in names}
        writer.writerow(means | {"epoch": epoch})
    return text.getvalue()


def _mean(cells: Sequence[str]) -> float | str:
    return sum(map(float, cells)) / len(cells) if all(cells) else ""


def tidy(folder: RunFolder, result: RunResult) -> None:
    """After the run is complete: what the run has of the exported seed is not needed twice."""
    exported = result.evaluation.get("seeds", {}).get("exported", spread.AVERAGE)
    if exported != spread.AVERAGE:
        shutil.rmtree(folder.of_seed(exported).path, ignore_errors=True)
