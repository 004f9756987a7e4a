"""The start of each command: all that can be wrong with it before torch, Lightning and the data are there.

Those take seconds to import. A mistyped name should not wait for them, and where the data lies is said at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from finetune.data import places
from finetune.data.places import Place
from finetune.errors import ConfigError, suggest
from finetune.export import publishing
from finetune.networks import model_names, timm_names
from finetune.runs import claim, runfolder
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings.config import RunConfig
from finetune.settings.verbs import EvaluateOptions, PredictOptions
from finetune.tasks import registry
from finetune.training import loggers, peers
from finetune.training.peers import Peers


@dataclass(frozen=True)
class Start:
    """A run that may begin.

    Attributes:
        config: Resolved and checked.
        peers: The processes of the run.
        folder: Of the run; complete where `--resume auto` was repeated after the end.
        place: Where the dataset is; None for one in memory, and where nothing remains to be read.
    """

    config: RunConfig
    peers: Peers
    folder: RunFolder
    place: Place | None


def begin(config: RunConfig) -> Start:
    """Check settings and names, choose and claim the folder and find the dataset, in this order.

    An empty folder is all that is written; it goes where the dataset is not found.

    Raises:
        FinetuneError: A mistake that the user can mend; the message says how.
    """
    config = _checked(config)
    others = peers.connect()
    others.from_first(lambda: publishing.check(config))
    folder = others.from_first(lambda: runfolder.choose(config))
    place = None
    if isinstance(config.dataset, str | os.PathLike) and not folder.complete:
        try:
            place = others.in_turn(lambda: places.find(config.dataset, config.dataset_config, config.revision))
        except BaseException:
            claim.release(folder.path)
            raise
    return Start(config, others, folder, place)


def _checked(config: RunConfig) -> RunConfig:
    config = config.resolved()
    registry.reader(config.task)
    model_names.check_name(config.model)
    loggers.check(config.logger)
    known = timm_names.names().optimizers
    if config.optimizer not in (None, *known):
        raise ConfigError(f"--optimizer: unknown {config.optimizer!r}{suggest(str(config.optimizer), known)}")
    return config


def check_evaluation(options: EvaluateOptions) -> None:
    """Raise where there is nothing to evaluate, or nothing to evaluate it on; the Hub is not asked.

    Raises:
        FinetuneError: The run, the model or the dataset does not exist.
    """
    run = RunFolder(Path(options.model).expanduser().absolute())
    if options.dataset is None:
        if Path(options.model).exists() or options.model.startswith(("/", ".", "~")):
            RunResult.load(run.result)
            return
        model_names.check_name(options.model)
        if is_model(options.model):  # it may say itself what it was tested on
            return
        raise ConfigError(f"--dataset must be given: what shall {options.model} be evaluated on?")
    if not run.result.is_file():
        model_names.check_name(options.model)
    places.check(options.dataset)


def is_model(name: str) -> bool:
    """Whether a name is that of a model with files of its own: a repository, or a folder."""
    return name.startswith((*model_names.HUB, "local-dir:"))


def check_prediction(options: PredictOptions) -> None:
    """Raise where there is no such model, or no such dataset; the Hub is not asked.

    Raises:
        FinetuneError: The model or the dataset does not exist.
    """
    if Path(options.model).suffix not in model_names.EXPORTED:
        check_model(options.model)
    if options.dataset:
        places.check(options.dataset)


def check_model(model: str) -> None:
    """Raise where there is no such model; the Hub is not asked.

    Raises:
        ModelError: It is neither a run, nor a model's folder, nor a name that timm or the Hub could know.
    """
    model_names.check_name(model_names.locate(model))
