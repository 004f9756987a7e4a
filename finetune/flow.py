"""The whole flow: a config in, a finished run folder out."""

from __future__ import annotations

import dataclasses
from typing import Any

import lightning as L
import timm.optim
from torch import nn

import cards
from finetune import export, imbalance, loggers, models, resume, runfolder, training
from finetune.config import RunConfig
from finetune.console import is_main_process, log
from finetune.datamodule import ImageDataModule
from finetune.dataset import LabelledImages, prepare
from finetune.errors import ConfigError, suggest
from finetune.report import describe, remarks, table
from finetune.result import RunResult
from finetune.tasks import TASKS


def run(config: RunConfig) -> RunResult:
    """Train, evaluate, export and describe one model.

    Args:
        config: All settings. `config.dataset` may be a `datasets.Dataset` or `DatasetDict` in memory.

    Returns:
        The numbers of `result.json`, and the folder.

    Raises:
        FinetuneError: A mistake that the user can mend; the message says how. Nothing that looks finished is left.
    """
    config = _checked(config)
    folder = runfolder.choose(config)
    if folder.complete:  # `--resume auto` repeated after the end; anything else is refused by `choose`
        log.info(f"the run in {folder.path} is complete")
        return RunResult.load(folder.result)
    session = training.Session(config, folder)
    data = _load(config)
    L.seed_everything(config.seed, verbose=False)
    model = _build_model(config, data)
    data_config = models.data_config(model, config.image_size, config.interpolation)
    config = _with_inferred(config, data, data_config)
    balance = config.imbalance == "balanced-sampler"
    loader = ImageDataModule(data, data_config=data_config, balance=balance, **_fields(config, _LOADER))
    counts = data.class_counts("train")
    log.info(imbalance.summary(counts, data.schema.classes, config.imbalance))
    task = TASKS[data.schema.task](
        model, num_classes=len(data.schema.classes), class_counts=counts, **_fields(config, _TASK)
    )
    identity = resume.identity(config, data, model)
    start = resume.checkpoint(folder, identity)
    folder.create(config, data.splits)
    session.fit(task, loader, identity, start)
    model.load_state_dict(export.best_weights(folder.best_checkpoint))
    metrics = {role: session.evaluate(task, loader, role) for role in ("validation", "test")}
    result = describe(config, folder, data, model, data_config, session, metrics)
    session.log_results(metrics)
    if is_main_process():
        export.save(model, folder.model, data.schema.classes, data_config)
        result.save(folder.result)
        cards.build(folder.path)
        for line in remarks(config, data, session, data_config["input_size"][-1]):
            log.info(line)
        log.info(table(result))
    return result


_MODEL = ("image_size", "drop_path", "dropout", "drop_block")
_AUGMENT = ("crop_scale", "hflip", "auto_augment", "color_jitter", "random_erasing")
_LOADER = ("batch_size", *_AUGMENT, "workers", "seed")
_TASK = ("optimizer", "lr", "weight_decay", "warmup_epochs", "label_smoothing", "mixup", "cutmix", "imbalance", "seed")
_DATA = (
    "dataset_config",
    "revision",
    "image_column",
    "target_column",
    "train_split",
    "val_split",
    "test_split",
    "val_fraction",
    "test_fraction",
    "max_samples",
    "seed",
)


def _fields(config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _checked(config: RunConfig) -> RunConfig:
    """Everything that can be known to be wrong before any data is read."""
    config = config.resolved()
    models.check_name(config.model)
    loggers.check(config.logger)
    known: list[str] = timm.optim.list_optimizers()
    if config.optimizer not in known:
        raise ConfigError(f"--optimizer: unknown {config.optimizer!r}{suggest(str(config.optimizer), known)}")
    return config


def _load(config: RunConfig) -> LabelledImages:
    return prepare(config.dataset, **_fields(config, _DATA))


def _build_model(config: RunConfig, data: LabelledImages) -> nn.Module:
    # The first process alone fetches weights; DDP hands them to the others.
    pretrained = config.pretrained and is_main_process()
    model = models.build(config.model, len(data.schema.classes), pretrained, **_fields(config, _MODEL))
    export.check(model)
    if config.compile:
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
