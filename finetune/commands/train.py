"""`python -m finetune [train]`: a config in, a finished run folder out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from finetune.commands import report, seeds, shares, write_up
from finetune.commands.phases import Phases
from finetune.commands.start import Start, begin
from finetune.commands.trained import Trained
from finetune.console import is_main_process, log, show_in_notebooks
from finetune.data.checks import quick
from finetune.data.checks.inspecting import Inspecting
from finetune.data.dataset import LabelledImages
from finetune.export import model_folder, publishing
from finetune.loading import choose
from finetune.networks import models
from finetune.runs import claim, seal
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, settings_of
from finetune.settings import of_tasks
from finetune.settings.config import RunConfig
from finetune.settings.options import LOADER, fields
from finetune.task import Learner, Task
from finetune.tasks import registry
from finetune.training import resume
from finetune.training.callbacks.batch_norm import norms_train
from finetune.training.peers import Peers, connect
from finetune.training.session import Session


def run(config: RunConfig, begun: Start | None = None) -> RunResult:
    """Train, evaluate, export and describe one model.

    Args:
        config: All settings. `config.dataset` may be a `datasets.Dataset` or `DatasetDict` in memory.
        begun: What `finetune.commands.start.begin` made of it, where that came before this module was imported.

    Returns:
        The numbers of `result.json`, and the folder.

    Raises:
        FinetuneError: A mistake that the user can mend; the message says how. Nothing that looks finished is left.
    """
    show_in_notebooks()
    begun = begun or begin(config)
    try:
        return _run(begun)
    finally:
        claim.release(begun.folder.path)


def _run(begun: Start) -> RunResult:
    config, peers, folder = begun.config, begun.peers, begun.folder
    if folder.complete:  # `--resume auto` repeated after the end; anything else is refused by `choose`
        log.info(f"the run in {folder.path} is complete")
        publishing.publish(config, folder.path)
        return RunResult.load(folder.result)
    peers.from_first(lambda: seeds.check(config, folder))
    if peers.from_first(lambda: write_up.unfinished(config, folder)):
        found = peers.in_turn(lambda: choose.load(config, registry.reader(config.task, config), begun.place))
        return peers.from_first(lambda: write_up.go_on(config, found, folder))
    session, phases = Session(config, seeds.first_folder(config, folder)), Phases()
    with phases.of("reading"):
        data = peers.in_turn(lambda: choose.load(config, registry.reader(config.task, config), begun.place))
    task = registry.get(data.schema.task)
    config = of_tasks.settle(config, task.name, task.preset(config), task.refused)
    config = config if config.streaming else config.for_images(data.splits.counts()["train"])
    inspected = task.inspection(data) if isinstance(task, Inspecting) else None
    with phases.of("reading"):
        copies = quick.find(data, inspected.differ if inspected else None) if is_main_process() else None
    for line in quick.lines(copies) if copies else ():
        log.info(line)
    session.settle_precision(config, task)
    log.info(report.plan(config, folder, session))
    fit = partial(_train, peers=peers, phases=phases)
    with write_up.on_disk(folder), phases.of("training"):
        parts = shares.train(
            config, folder, data, task, session, lambda own, part, of: fit(own, own.seed, task, part, of)
        )
        trained = seeds.train(config, folder, session, lambda seed, of: fit(config, seed, task, data, of))
        trained = shares.add(trained, parts, config, data, task)
    if not is_main_process():
        return trained.result
    return write_up.write_up(trained, config, task, data, folder, copies, phases)


def trial(
    config: RunConfig, task: Task, data: LabelledImages, folder: RunFolder, watch: L.Callback
) -> dict[str, float]:
    """Train once, and score on validation alone; `run` with `resume` tests what came out, and finishes the run.

    Args:
        config: Resolved, for one device.
        task: Of the dataset.
        data: With its splits; the test split's images are not decoded.
        folder: A new one.
        watch: Is told of each validation, and may stop the training.

    Returns:
        The scores of the best epoch.

    Raises:
        FinetuneError: As `run` raises it.
    """
    config = of_tasks.settle(config, task.name, task.preset(config), task.refused).for_images(
        data.splits.counts()["train"]
    )
    session = Session(config, folder)
    session.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    fitted = _fitted(config, config.seed, task, data, session, connect())
    return session.evaluate(fitted.learner.module, fitted.learner.loader, "validation")


@dataclass(frozen=True)
class _Fitted:
    """A network that was trained, with its best weights."""

    config: RunConfig
    model: nn.Module
    data_config: dict[str, Any]
    learner: Learner


def _train(
    config: RunConfig, seed: int, task: Task, data: LabelledImages, session: Session, peers: Peers, phases: Phases
) -> Trained:
    """Train one seed, and evaluate its best weights; the splits, and what the linear probe is fitted to, are given."""
    fitted = _fitted(config, seed, task, data, session, peers)
    config, model, data_config, learner = fitted.config, fitted.model, fitted.data_config, fitted.learner
    with phases.of("evaluation"):
        metrics = {role: session.evaluate(learner.module, learner.loader, role) for role in ("validation", "test")}
    result = report.describe(config, session.folder, data, model, data_config, session, metrics)
    session.log_results(metrics)
    said = report.remarks(config, data, session, data_config["input_size"][-1]) if is_main_process() else []
    predictions = dict(session.predictions)
    return Trained(model, data_config, learner.module, learner.loader, session, result, predictions, said)


def _fitted(config: RunConfig, seed: int, task: Task, data: LabelledImages, session: Session, peers: Peers) -> _Fitted:
    """Train one seed; nothing is evaluated but what chooses its best weights."""
    session.plan(config, task)
    L.seed_everything(seed, verbose=False)
    model = peers.in_turn(lambda: _network(config, task, data))
    data_config = models.data_config(model, config.image_size, config.interpolation)
    config = _with_inferred(config, data, data_config)
    own, balance = dataclasses.replace(config, seed=seed), config.imbalance == "balanced-sampler"
    options = fields(own, LOADER) | of_tasks.loading(own, task.name)
    images = task.data_module(data, data_config, balance=balance, **options)
    images.norms_train = norms_train(model, config.batch_norm == "held", config.freeze == "backbone")
    images.check(session.trainer.world_size)
    learner = task.learner(own, images, model, session.baseline)
    session.checkpoints.chooses = report.chooses(config, data)
    # The first process alone has the pretrained weights yet.
    identity = resume.identity(own, data, model) | (task.identity(config, model) if is_main_process() else {})
    start = peers.in_turn(lambda: resume.checkpoint(session.folder, identity))
    session.folder.create(config, data.splits)
    if is_main_process():
        parts = {name: value for name, value in identity.items() if name.endswith(" split")}
        seal.lock(session.folder, parts, resume.weights(model), settings_of(config))
    peers.agree(session.folder, identity | {"what --precision auto takes (name one)": session.precision}, start)
    _fit(session, learner, identity, start)
    return _Fitted(config, model, data_config, learner)


def _fit(session: Session, learner: Learner, identity: dict[str, Any], start: Path | None) -> None:
    """Train, from a checkpoint where there is one, and take the best weights."""
    module, whole = learner.module, learner.module.model
    with session.folder.announced():
        session.fit(module, learner.loader, identity, start)
    module.model = whole  # FSDP has trained a copy
    module.model.load_state_dict(model_folder.best_weights(session.folder.best_checkpoint))


def _network(config: RunConfig, task: Task, data: LabelledImages) -> nn.Module:
    # The first process alone fetches weights; DDP and FSDP hand them to the others.
    model = task.network(config, data.schema, config.pretrained and is_main_process())
    if config.compile and not config.caches_features:  # nothing but the classifier trains
        model.compile()
    return model


def _with_inferred(config: RunConfig, data: LabelledImages, data_config: dict[str, Any]) -> RunConfig:
    """What config.yaml should say, so that it repeats this run even when the source grows."""
    return dataclasses.replace(
        config,
        image_size=data_config["input_size"][-1],
        interpolation=data_config["interpolation"],
        image_column=data.schema.image_column,
        target_column=data.schema.target_column,
        revision=data.source.revision or config.revision,
    )
