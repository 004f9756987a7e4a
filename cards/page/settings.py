"""The settings of a training as a card lists them: `training` of result.json in words."""

from __future__ import annotations

from typing import Any

from cards.page.text import escape

_NAMES = {
    "epochs": "epochs",
    "planned_epochs": "epochs planned",
    "partial_epoch": "share of the last epoch",
    "stopped_by": "stopped by",
    "best_epoch": "best epoch",
    "chosen_by": "best epoch chosen by",
    "batch_size": "images per step",
    "device_batch_size": "images at a time on a device",
    "optimizer": "optimizer",
    "lr": "peak learning rate",
    "warmup_epochs": "warm-up epochs, then a cosine",
    "weight_decay": "weight decay",
    "layer_decay": "learning rate from layer to layer, factor",
    "clip_grad": "largest gradient norm",
    "ema": "decay of the weights' average",
    "label_smoothing": "label smoothing",
    "crop_scale": "random crop, smallest share of the area",
    "hflip": "horizontal flip, probability",
    "auto_augment": "policy of colours and shapes",
    "color_jitter": "colour jitter",
    "random_erasing": "random erasing, probability",
    "mixup": "mixup, Beta parameter",
    "cutmix": "CutMix, Beta parameter",
    "zero_init_last": "residual branches start at zero",
    "drop_path": "stochastic depth, rate",
    "dropout": "dropout, rate",
    "drop_block": "DropBlock, rate at the end",
    "head_init": "a new classifier starts",
    "batch_norm": "BatchNorm statistics",
    "freeze": "frozen",
    "unfreeze_every": "epochs until one more stage trains",
    "imbalance": "unequal classes",
    "patience": "patience, epochs",
    "grad_checkpointing": "gradient checkpointing",
    "precision": "arithmetic",
    "devices": "devices",
    "seconds": "seconds, with validation",
    "feature_seconds": "seconds for the backbone's features",
    "images_per_second": "images per second",
    "data_wait": "share of the time spent waiting for images",
}
"""In the card's order; what a later version adds comes after these, under its own name."""
_OFF_AT_ZERO = ("hflip", "random_erasing", "label_smoothing", "mixup", "cutmix", "warmup_epochs")


def rows(training: dict[str, Any], seed: int) -> list[tuple[str, str]]:
    """Name and value of each setting that was on, as Markdown."""
    order = [*(key for key in _NAMES if key in training), *(key for key in training if key not in _NAMES)]
    shown = [key for key in order if _is_on(key, training)]
    listed = [(_NAMES.get(key) or escape(key.replace("_", " ")), _value(training[key])) for key in shown]
    return [*listed, ("seed", str(seed))]


def _is_on(key: str, training: dict[str, Any]) -> bool:
    value = training[key]
    if key == "planned_epochs" and value == training["epochs"]:
        return False
    return not (value is None or value is False or value == "none" or (key in _OFF_AT_ZERO and not value))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(f"{value:,.0f}" if isinstance(value, float) and value >= 1000 else value)
