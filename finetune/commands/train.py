"""The whole flow: a config in, a finished run folder out."""

from __future__ import annotations

import dataclasses
from typing import Any

import lightning as L
from torch import nn

import cards
from finetune.commands import seeds
from finetune.commands.report import chooses, describe, remarks, table
from finetune.commands.start import Start, begin
from finetune.commands.trained import Trained
from finetune.console import is_main_process, log
from finetune.data import splits
from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError
from finetune.evaluation import assessment
from finetune.evaluation.figures import drawing
from finetune.export import certify, model_folder, publishing
from finetune.loading import choose, transforms
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import features, freezing, head_start, models
from finetune.networks.feature_data import FeatureDataModule
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings.config import RunConfig
from finetune.tasks import TASKS, FeatureClassificationTask, ImageClassificationTask
from finetune.training import imbalance, resume
from finetune.training import session as training
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.peers import Peers


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
    begun = begun or begin(config)
    config, peers, folder = begun.config, begun.peers, begun.folder
    if folder.complete:  # `--resume auto` repeated after the end; anything else is refused by `choose`
        log.info(f"the run in {folder.path} is complete")
        publishing.publish(config, folder.path)
        return RunResult.load(folder.result)
    peers.from_first(lambda: seeds.check(config, folder))
    session = training.Session(config, seeds.first_folder(config, folder))
    data = peers.in_turn(lambda: choose.load(config, begun.place))
    config = config if config.streaming else config.for_images(data.splits.counts()["train"])
    if config.seeds == 1:
        trained = _train(config, config.seed, data, session, peers)
    else:
        trained = seeds.train(config, folder, session, lambda seed, session: _train(config, seed, data, session, peers))
    return _write_up(trained, config, data, folder) if is_main_process() else trained.result


def _train(config: RunConfig, seed: int, data: LabelledImages, session: training.Session, peers: Peers) -> Trained:
    """Train one seed, and evaluate its best weights; the splits, and what the linear probe is fitted to, are given."""
    session.plan(config)
    folder = session.folder
    L.seed_everything(seed, verbose=False)
    model = peers.in_turn(lambda: _build_model(config, data))
    data_config = models.data_config(model, config.image_size, config.interpolation)
    config = _with_inferred(config, data, data_config)
    own = dataclasses.replace(config, seed=seed)
    balance = config.imbalance == "balanced-sampler"
    images = choose.module(data, data_config=data_config, balance=balance, **_fields(own, _LOADER))
    images.check(session.trainer.world_size)
    task, loader = _task(own, images, model)
    _start_head(config, images, session.head, task, loader, model)
    session.checkpoints.chooses = chooses(config, data)
    identity = resume.identity(own, data, model) | _backbone_identity(config, model)
    start = peers.in_turn(lambda: resume.checkpoint(folder, identity))
    folder.create(config, data.splits)
    peers.agree(folder, identity | {"what --precision auto takes (name one)": session.precision}, start)
    whole = task.model
    with folder.announced():
        session.fit(task, loader, identity, start)
    task.model = whole  # FSDP has trained a copy
    task.model.load_state_dict(model_folder.best_weights(folder.best_checkpoint))
    metrics = {role: session.evaluate(task, loader, role) for role in ("validation", "test")}
    result = describe(config, folder, data, model, data_config, session, metrics)
    session.log_results(metrics)
    said = remarks(config, data, session, data_config["input_size"][-1]) if is_main_process() else []
    return Trained(model, data_config, task, loader, session, result, dict(session.predictions), said)


def _write_up(trained: Trained, config: RunConfig, data: LabelledImages, folder: RunFolder) -> RunResult:
    """Everything that is made of the finished model and its numbers."""
    model, data_config, predictions = trained.model, trained.data_config, trained.predictions
    head = trained.session.head
    result = assessment.add(trained.result, predictions, data, head.epoch0, head.predictions.get("test"))
    temperature = result.evaluation.get("calibration", {}).get("temperature")
    model_folder.save(model, folder.model, data.schema.classes, data_config, temperature)
    result.save(folder.result)
    seeds.tidy(folder, result)
    certify.write_inputs(folder.verify, model, data, transforms.normalised(data_config))
    result = drawing.add(result, predictions["test"], data, folder)
    certify.certify(folder.path)
    cards.build(folder.path)
    for line in trained.remarks:
        log.info(line)
    log.info(table(result))
    publishing.publish(config, folder.path)
    return result


_MODEL = ("image_size", "zero_init_last", "drop_path", "dropout", "drop_block")
_AUGMENT = ("crop_scale", "hflip", "auto_augment", "color_jitter", "random_erasing")
_LOADER = ("batch_size", "device_batch_size", "steps_per_epoch", *_AUGMENT, "workers", "seed")
_OPTIMISER = ("optimizer", "lr", "weight_decay", "layer_decay", "warmup_epochs")
_TASK = (*_OPTIMISER, "label_smoothing", "mixup", "cutmix", "imbalance", "seed", "grad_checkpointing")


def _fields(config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _task_options(config: RunConfig) -> dict[str, Any]:
    """Those that are given: a classifier that is solved for has no optimiser."""
    return {name: value for name, value in _fields(config, _TASK).items() if value is not None}


def _build_model(config: RunConfig, data: LabelledImages) -> nn.Module:
    # The first process alone fetches weights; DDP and FSDP hand them to the others.
    pretrained = config.pretrained and is_main_process()
    model = models.build(config.model, len(data.schema.classes), pretrained, **_fields(config, _MODEL))
    model_folder.check(model)
    if config.compile and not config.caches_features:  # nothing but the classifier trains
        model.compile()
    return model


def _task(
    config: RunConfig, images: ImageDataModule, model: nn.Module
) -> tuple[ImageClassificationTask, ImageDataModule | FeatureDataModule]:
    """What trains on what."""
    schema, counts = images.data.schema, images.data.class_counts("train")
    log.info(imbalance.summary(counts, schema.classes, config.imbalance))
    kind, options = TASKS[schema.task], _task_options(config)
    task = kind(model, num_classes=len(schema.classes), class_counts=counts, **options)
    return _frozen(config, task, images, model)


def _frozen(
    config: RunConfig, task: ImageClassificationTask, images: ImageDataModule, model: nn.Module
) -> tuple[ImageClassificationTask, ImageDataModule | FeatureDataModule]:
    """What trains on what: the classifier on features, where the backbone would give the same ones in every epoch."""
    if config.freeze == "none":
        return task, images
    if not config.pretrained:
        log.warning("warning: --freeze backbone with --no-pretrained keeps random weights, which is rarely wanted")
    if not config.caches_features:
        if config.head_only:
            why = ", ".join(config.augmentations)
            log.info(f"frozen backbone: images are augmented ({why}), so that it runs in every step")
        return task, images
    done = "is solved for" if config.solved else "trains on them"
    log.info(f"frozen backbone: no augmentation, so that features are computed once; the classifier {done}")
    classifier = freezing.classifier_of(model)
    options = {"dropout": float(getattr(model, "drop_rate", 0.0) or 0.0), **_task_options(config)}
    counts = images.data.class_counts("train")
    head = FeatureClassificationTask(
        classifier, num_classes=task.hparams["num_classes"], class_counts=counts, **options
    )
    return head, FeatureDataModule(images, task, classifier, model)


def _start_head(
    config: RunConfig,
    images: ImageDataModule,
    head: HeadStart,
    task: ImageClassificationTask,
    loader: ImageDataModule | FeatureDataModule,
    model: nn.Module,
) -> None:
    """Say what the classifier starts with, and what the linear probe is fitted to."""
    if not (config.pretrained or config.solved):
        return
    layer = head_start.linear_classifier(model)
    if layer is None:
        problem = f"the classifier of {type(model).__name__} is not one linear layer"
        if config.solved:
            raise ModelError(f"--freeze backbone cannot solve for the classifier: {problem}; train it, by --lr 0.01")
        log.info(f"{problem}: it starts as timm has it, and there is no linear probe to compare with")
        return
    head.classifier, head.counts = layer, images.data.class_counts("train")
    if not config.solved and not head_start.is_new(model, images.classes):
        head.init = "timm"
        log.info("the classifier of the pretrained weights is for these classes, and is kept")
    if config.probed:
        own = loader if isinstance(loader, FeatureDataModule) else None
        head.features = own or FeatureDataModule(_probed(config, images), task, layer, model)


def _probed(config: RunConfig, images: ImageDataModule) -> ImageDataModule:
    """The images that the linear probe is fitted to."""
    few = splits.sampled(images.data.splits, "train", config.probe_images, config.seed)
    if few is images.data.splits:
        return images
    log.info(f"the linear probe is fitted to {config.probe_images} training images, drawn by class (--probe-images)")
    data = dataclasses.replace(images.data, splits=few)
    return choose.module(data, data_config=images.data_config, **_fields(config, _LOADER))


def _backbone_identity(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Checkpoints of a classifier alone do not hold the backbone; other processes do not have its weights yet."""
    if not (config.caches_features and is_main_process()):
        return {}
    return {"weights of the backbone": features.backbone_hash(model, freezing.classifier_of(model))}


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
