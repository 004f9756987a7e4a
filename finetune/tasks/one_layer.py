"""What tasks have in common whose networks end in one linear layer: a frozen backbone, and the linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from finetune.console import log
from finetune.data import splits
from finetune.errors import ModelError
from finetune.loading import choose
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import features, freezing, head_start
from finetune.networks.feature_data import FeatureDataModule
from finetune.settings.config import RunConfig
from finetune.settings.options import LOADER, fields
from finetune.task import Learner
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.module import TaskModule


class OnFeatures:
    """For a task's module, before it among the bases: the model is the last layer alone, and batches are its inputs."""

    dropout: float
    model: nn.Module
    training: bool

    def forward(self, features: Tensor) -> Any:
        """What the layer says of float32 features `[B, ...]`."""
        dropped = F.dropout(features, self.dropout) if self.dropout and self.training else features
        return self.model(dropped)


def baseline(config: RunConfig) -> HeadStart:
    """The linear probe, to be told of what by `learner`."""
    return HeadStart(config.head_init or "probe", None, config.seed, required=config.solved)


def identity(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Checkpoints of a classifier alone do not hold the backbone."""
    if not config.caches_features:
        return {}
    return {"weights of the backbone": features.backbone_hash(model, freezing.classifier_of(model))}


def learner(
    config: RunConfig,
    images: ImageDataModule,
    task: TaskModule,
    head: HeadStart,
    on_features: Callable[[nn.Module], Any],
) -> Learner:
    """What trains on what: the layer on features, where the backbone would give the same ones in every epoch.

    Args:
        config: Resolved.
        images: Of the run.
        task: The whole network's.
        head: With the task's `kind`; told what it is fitted to.
        on_features: The task's module for its last layer; an `OnFeatures`, whose `dropout` is set here.
    """
    model = task.model
    module, loader = _frozen(config, task, images, model, on_features)
    _start_head(config, images, head, task, loader, model)
    return Learner(module, loader)


def _frozen(
    config: RunConfig,
    task: TaskModule,
    images: ImageDataModule,
    model: nn.Module,
    on_features: Callable[[nn.Module], Any],
) -> tuple[TaskModule, ImageDataModule | FeatureDataModule]:
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
    head = on_features(classifier)
    head.dropout = float(getattr(model, "drop_rate", 0.0) or 0.0)
    return head, FeatureDataModule(images, task, classifier, model)


def _start_head(
    config: RunConfig,
    images: ImageDataModule,
    head: HeadStart,
    task: TaskModule,
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
    head.classifier = layer
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
    drawn = "drawn by class" if images.data.schema.classes else "drawn by stratum"
    log.info(f"the linear probe is fitted to {config.probe_images} training images, {drawn} (--probe-images)")
    data = dataclasses.replace(images.data, splits=few)
    return choose.module(data, data_config=images.data_config, **fields(config, LOADER))
