"""How a segmentation network learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune.console import log
from finetune.errors import ConfigError
from finetune.settings.config import RunConfig
from finetune.settings.of_tasks import DILATED
from finetune.settings.options import fields
from finetune.task import Learner, Schema
from finetune.tasks.segmentation import network as networks
from finetune.tasks.segmentation.module import SegmentationTask
from finetune.training import imbalance

_TASK = ("optimizer", "lr", "weight_decay", "warmup_epochs", "schedule", "label_smoothing", "imbalance", "seed")
BACKBONE_LR = 0.1
"""Of the decoder's, for a backbone that has learnt before."""
SIZE = 256
"""Short side of the images, where none is given."""


def preset(config: RunConfig) -> dict[str, Any]:
    """Settings where none are given."""
    common: dict[str, Any] = {
        "image_size": SIZE,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "batch_size": 16,
        "label_smoothing": 0.0,
        "hflip": 0.5,
        "crop_scale": None,
        "head_init": None,
    }
    if config.pretrained:
        return common | {"epochs": 40, "lr": 1e-3, "warmup_epochs": 1.0, "batch_norm": "held"}
    return common | {"epochs": 60, "lr": 2e-3, "warmup_epochs": 1.0, "batch_norm": "trained"}


def network(config: RunConfig, schema: Schema, pretrained: bool) -> nn.Module:
    """The network, before a training whose result could not be exported.

    Raises:
        ConfigError: A backbone that stays as it is would see each image once, and features of masks are not kept.
        ModelError: It cannot be built.
        ExportError: No other program could build it.
    """
    if config.caches_features:
        raise ConfigError(
            "--freeze backbone: the decoder trains on images that change: ask for some augmentation, such as --hflip "
            "0.5 or --color-jitter 0.2"
        )
    decoder = config.decoder or "fpn"
    made = networks.build(
        config.model,
        len(schema.classes),
        pretrained,
        decoder,
        config.output_stride or (16 if decoder in DILATED else networks.MULTIPLE),
        config.image_size or SIZE,
        config.zero_init_last,
        config.drop_path,
        config.dropout,
        config.tile,
        bool(config.auxiliary_loss),
    )
    made.classes = schema.classes
    return made


def learner(config: RunConfig, images: Any, model: nn.Module) -> Learner:
    """The whole network on images."""
    counts = images.data.targets("train").sum(axis=0).tolist()
    assert isinstance(model, networks.SegmentationNetwork)
    log.info(f"decoder {config.decoder or 'fpn'}, {_shares(counts, images.data.schema.classes, config.imbalance)}")
    task = SegmentationTask(
        model,
        len(images.data.schema.classes),
        backbone_lr=BACKBONE_LR if config.pretrained else 1.0,
        loss=config.segmentation_loss or "ce",
        auxiliary_loss=config.auxiliary_loss or 0.0,
        class_counts=counts,
        grad_checkpointing=config.grad_checkpointing,
        **fields(config, _TASK),
    )
    return Learner(task, images)


def _shares(counts: list[int], classes: tuple[str, ...], remedy: str) -> str:
    """One line that says how unequal the classes' pixels are, with the flag to try where that matters."""
    present = {name: count for name, count in zip(classes, counts, strict=True) if count}
    total = sum(present.values())
    if not present:
        return "no training pixel has a class"
    rare, common = min(present, key=lambda name: present[name]), max(present, key=lambda name: present[name])
    text = f"training pixels: {present[common] / total:.1%} {common}, {present[rare] / total:.2%} {rare}"
    unequal = present[common] > imbalance.NOTEWORTHY**2 * present[rare] and remedy == "none"
    return f"{text}; if rare classes matter as much, try --segmentation-loss ce-dice" if unequal else text


def identity(config: RunConfig) -> dict[str, Any]:
    """What the shapes of the weights do not say."""
    loss, stride = config.segmentation_loss or "ce", config.output_stride
    return {"--decoder": config.decoder or "fpn", "--output-stride": stride, "--segmentation-loss": loss} | (
        {"--auxiliary-loss": config.auxiliary_loss} if config.auxiliary_loss else {}
    )
