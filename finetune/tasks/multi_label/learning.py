"""How a multi-label classifier learns: its network, what trains on what, and the linear probe that it has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from finetune.console import log
from finetune.data.splits import ratio
from finetune.errors import ConfigError
from finetune.export import model_folder
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import models
from finetune.settings.config import RunConfig
from finetune.settings.options import fields
from finetune.task import Learner, Schema
from finetune.tasks import one_layer
from finetune.tasks.multi_label.losses import positive_weights
from finetune.tasks.multi_label.module import FeatureMultiLabelTask, MultiLabelTask
from finetune.tasks.multi_label.probe import MultiLabelProbing
from finetune.training.callbacks.head_start import HeadStart

_MODEL = ("image_size", "zero_init_last", "drop_path", "dropout", "drop_block")
_OPTIMISER = ("optimizer", "lr", "weight_decay", "layer_decay", "warmup_epochs", "schedule")
_TASK = (*_OPTIMISER, "label_smoothing", "mixup", "cutmix", "imbalance", "seed", "grad_checkpointing")
REMEDIES = ("none", "class-weights")
PRESET = {"label_smoothing": 0.0}
"""Smoothing towards a half would hide what is rare: a class of one image in a hundred is far from it."""
CROP_SCALE = 0.8
"""A class may be a small thing at the edge: what a crop cuts off it is still said to show (docs/how-to/multi-label.md).
"""
WHOLE = {"crop_pct": 1.0, "crop_mode": "squash"}
"""timm's words for the whole image, both sides resized, for the same reason; all who load the model do as it says."""


def preset(config: RunConfig) -> dict[str, float]:
    """The task's own values: with a frozen backbone, images stay as they are.

    Raises:
        ConfigError: A remedy against unequal classes that is for one class an image.
    """
    if config.imbalance not in REMEDIES:
        raise ConfigError(
            f"--imbalance {config.imbalance} is for one class an image, and this dataset names several: give "
            "--imbalance class-weights (positives of a class count negatives over positives times), or leave it out"
        )
    return PRESET if config.head_only else PRESET | {"crop_scale": CROP_SCALE}


def network(config: RunConfig, schema: Schema, pretrained: bool) -> nn.Module:
    """The network, which looks at whole images, before a training whose result could not be exported.

    Raises:
        ModelError: It cannot be built.
        ExportError: Stock timm cannot build it.
    """
    model: Any = models.build(config.model, len(schema.classes), pretrained, **fields(config, _MODEL))
    model.pretrained_cfg = {**model.pretrained_cfg, **WHOLE}
    model_folder.check(model)
    found: nn.Module = model
    return found


def learner(config: RunConfig, images: ImageDataModule, model: nn.Module, head: HeadStart) -> Learner:
    """What trains on what: the classifier on features, where the backbone would give the same ones in every epoch."""
    targets, classes = images.data.targets("train"), images.data.schema.classes
    positives, negatives = (targets > 0).sum(axis=0), (targets == 0).sum(axis=0)
    known = positives + negatives
    log.info(_summary(positives, classes, config.imbalance))
    options = {
        "num_classes": len(classes),
        "class_counts": positives.tolist(),
        "known_counts": known.tolist(),
        "loss": config.multi_label_loss or "bce",
        **{name: value for name, value in fields(config, _TASK).items() if value is not None},
    }
    weights = positive_weights(positives, known) if config.imbalance == "class-weights" else None
    head.kind = MultiLabelProbing(positives, negatives, weights)
    task = MultiLabelTask(model, **options)
    return one_layer.learner(config, images, task, head, lambda layer: FeatureMultiLabelTask(layer, **options))


def _summary(positives: np.ndarray, classes: tuple[str, ...], remedy: str) -> str:
    """One line on how unequal the training classes are."""
    present = np.flatnonzero(positives)
    if not len(present):
        return "class ratio: known once the stream has been read"
    most, least = present[positives[present].argmax()], present[positives[present].argmin()]
    text = f"class ratio {ratio(positives.tolist()):.3g}:1"
    if positives[most] > positives[least]:
        text += f" ({positives[most]} training images of {classes[most]}, {positives[least]} of {classes[least]})"
    return text if remedy == "none" else f"{text}; --imbalance {remedy}"
