"""How a regression learns: its network, what trains on what, and the ridge regression that it has to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune.console import log
from finetune.export import model_folder
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import models
from finetune.settings.config import RunConfig
from finetune.settings.options import fields
from finetune.task import Learner
from finetune.tasks import one_layer
from finetune.tasks.regression import scaled
from finetune.tasks.regression.feature_regression import FeatureRegressionTask
from finetune.tasks.regression.image_regression import ImageRegressionTask
from finetune.tasks.regression.probe import NumberProbing
from finetune.tasks.regression.scaled import Scale
from finetune.training.callbacks.head_start import HeadStart

_MODEL = ("image_size", "zero_init_last", "drop_path", "dropout", "drop_block")
_TASK = (
    "optimizer",
    "lr",
    "weight_decay",
    "layer_decay",
    "warmup_epochs",
    "schedule",
    "seed",
    "grad_checkpointing",
)


def network(config: RunConfig, pretrained: bool) -> nn.Module:
    """The network, before a training whose result could not be exported.

    Raises:
        ModelError: It cannot be built, or does not end in one linear layer.
        ExportError: Stock timm cannot build it.
    """
    model = models.build(config.model, 1, pretrained, **fields(config, _MODEL))
    scaled.last_layer(model)
    model_folder.check(model)
    return model


def learner(config: RunConfig, images: ImageDataModule, model: nn.Module, head: HeadStart) -> Learner:
    """What trains on what: the last layer on features, where the backbone would give the same ones in every epoch."""
    scale = Scale.of(images.data.example_targets("train"))
    log.info(f"numbers are standardised for the training: mean {scale.mean:.6g}, standard deviation {scale.sd:.6g}")
    if config.pretrained and _is_one_of_ours(model):
        _keep(model, scale)
        head.init = "timm"
    options = {"mean": scale.mean, "sd": scale.sd, **_options(config)}
    task = ImageRegressionTask(model, **options)
    head.kind = NumberProbing(scale)
    return one_layer.learner(config, images, task, head, lambda layer: FeatureRegressionTask(layer, **options))


def _is_one_of_ours(model: nn.Module) -> bool:
    """Whether the weights came with an output for one number."""
    described: Any = model
    return bool(described.pretrained_cfg.get("num_classes") == 1)


def _keep(model: nn.Module, scale: Scale) -> None:
    """Let the layer that came with the weights give the same numbers once it is scaled."""
    layer = scaled.last_layer(model)
    log.info("the last layer of the pretrained weights gives a number already, and is kept")
    with torch.no_grad():
        layer.weight.div_(scale.sd)
        layer.bias.sub_(scale.mean).div_(scale.sd)


def _options(config: RunConfig) -> dict[str, Any]:
    """Those that are given: a layer that is solved for has no optimiser."""
    return {name: value for name, value in fields(config, _TASK).items() if value is not None}
