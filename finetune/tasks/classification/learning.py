"""How a classifier learns: its network, what trains on what, and the linear probe that it has to beat."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune.console import log
from finetune.export import model_folder
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import models
from finetune.settings.config import RunConfig
from finetune.settings.options import fields
from finetune.task import Learner, Schema
from finetune.tasks import one_layer
from finetune.tasks.classification.feature_classification import FeatureClassificationTask
from finetune.tasks.classification.image_classification import ImageClassificationTask
from finetune.tasks.classification.probe import ClassProbing
from finetune.training import imbalance
from finetune.training.callbacks.head_start import HeadStart

_MODEL = ("image_size", "zero_init_last", "drop_path", "dropout", "drop_block")
_OPTIMISER = ("optimizer", "lr", "weight_decay", "layer_decay", "warmup_epochs", "schedule")
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


def learner(config: RunConfig, images: ImageDataModule, model: nn.Module, head: HeadStart) -> Learner:
    """What trains on what: the classifier on features, where the backbone would give the same ones in every epoch."""
    classes, counts = images.data.schema.classes, _counts(images)
    log.info(imbalance.summary(counts, classes, config.imbalance))
    options = {"num_classes": len(classes), "class_counts": counts, **_options(config)}
    task = ImageClassificationTask(model, **options)
    head.kind = ClassProbing(counts, config.imbalance)
    return one_layer.learner(config, images, task, head, lambda layer: FeatureClassificationTask(layer, **options))


def _counts(images: ImageDataModule) -> list[int]:
    counts: list[int] = images.data.schema.facts({"train": images.data.targets("train")})["class_counts"]["train"]
    return counts


def _options(config: RunConfig) -> dict[str, Any]:
    """Those that are given: a classifier that is solved for has no optimiser."""
    return {name: value for name, value in fields(config, _TASK).items() if value is not None}
