"""How a classifier learns: its network, what trains on what, and the linear probe that it has to beat."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from finetune.console import log
from finetune.data import splits
from finetune.errors import ModelError
from finetune.export import model_folder
from finetune.loading import choose
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import features, freezing, head_start, models
from finetune.networks.feature_data import FeatureDataModule
from finetune.settings.config import RunConfig
from finetune.settings.options import LOADER, fields
from finetune.task import Learner, Schema
from finetune.tasks.classification.feature_classification import FeatureClassificationTask
from finetune.tasks.classification.image_classification import ImageClassificationTask
from finetune.training import imbalance
from finetune.training.callbacks.head_start import HeadStart

_MODEL = ("image_size", "zero_init_last", "drop_path", "dropout", "drop_block")
_OPTIMISER = ("optimizer", "lr", "weight_decay", "layer_decay", "warmup_epochs")
_TASK = (*_OPTIMISER, "label_smoothing", "mixup", "cutmix", "imbalance", "seed", "grad_checkpointing")


def network(config: RunConfig, schema: Schema, pretrained: bool) -> nn.Module:
    """The network, before a training whose result could not be exported.

    Raises:
        ModelError: It cannot be built.
        ExportError: Stock timm cannot build it.
    """
    model = models.build(config.model, len(schema.classes), pretrained, **fields(config, _MODEL))
    model_folder.check(model)
    return model


def baseline(config: RunConfig) -> HeadStart:
    """The linear probe, to be told of what by `learner`."""
    return HeadStart(config.head_init or "probe", config.imbalance, config.seed, required=config.solved)


def learner(config: RunConfig, images: ImageDataModule, model: nn.Module, head: HeadStart) -> Learner:
    """What trains on what: the classifier on features, where the backbone would give the same ones in every epoch."""
    classes, counts = images.data.schema.classes, _counts(images)
    log.info(imbalance.summary(counts, classes, config.imbalance))
    task = ImageClassificationTask(model, num_classes=len(classes), class_counts=counts, **_options(config))
    module, loader = _frozen(config, task, images, model)
    _start_head(config, images, head, task, loader, model)
    return Learner(module, loader)


def identity(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Checkpoints of a classifier alone do not hold the backbone."""
    if not config.caches_features:
        return {}
    return {"weights of the backbone": features.backbone_hash(model, freezing.classifier_of(model))}


def _counts(images: ImageDataModule) -> list[int]:
    counts: list[int] = images.data.schema.facts({"train": images.data.targets("train")})["class_counts"]["train"]
    return counts


def _options(config: RunConfig) -> dict[str, Any]:
    """Those that are given: a classifier that is solved for has no optimiser."""
    return {name: value for name, value in fields(config, _TASK).items() if value is not None}


def _frozen(
    config: RunConfig, task: ImageClassificationTask, images: ImageDataModule, model: nn.Module
) -> tuple[ImageClassificationTask, ImageDataModule | FeatureDataModule]:
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
    options = {"dropout": float(getattr(model, "drop_rate", 0.0) or 0.0), **_options(config)}
    head = FeatureClassificationTask(
        classifier, num_classes=task.hparams["num_classes"], class_counts=_counts(images), **options
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
    head.classifier, head.counts = layer, _counts(images)
    if not config.solved and not head_start.is_new(model, images.data.schema.classes):
        head.init = "timm"
        log.info("the classifier of the pretrained weights is for these classes, and is kept")
    if config.probed:
        own = loader if isinstance(loader, FeatureDataModule) else None
        head.features = own or FeatureDataModule(_probed(config, images, head.seed), task, layer, model)


def _probed(config: RunConfig, images: ImageDataModule, seed: int) -> ImageDataModule:
    """The images that the linear probe is fitted to; the same for all seeds of a run."""
    few = splits.sampled(images.data.splits, images.data.schema, "train", config.probe_images, seed)
    if few is images.data.splits:
        return images
    log.info(f"the linear probe is fitted to {config.probe_images} training images, drawn by class (--probe-images)")
    data = dataclasses.replace(images.data, splits=few)
    return choose.module(data, data_config=images.data_config, **fields(config, LOADER))
