"""Settings of the training where none are given: for pretrained weights, from scratch, for a frozen backbone.

docs/explanation/presets.md has the trials that they come from.
"""

from __future__ import annotations

import math
from typing import Any

PRETRAINED_PRESET: dict[str, Any] = {
    "epochs": None,  # by the number of images: `epochs_for`
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 4.0,  # or a tenth of all
    "label_smoothing": 0.1,
    "crop_scale": 0.35,
    "hflip": 0.5,
    "head_init": "zero",
    "batch_norm": "held",
}
SCRATCH_PRESET: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.1,
    "crop_scale": 0.6,
    "hflip": 0.5,
    "head_init": "timm",
    "batch_norm": "trained",
}
# A classifier on the features of a backbone that stays as it is. Without augmentation these are computed once, so that
# many epochs cost little, and larger batches keep the loop's own share small. Adam at 0.05 overfits within a few epochs
# (docs/explanation/presets.md).
FROZEN_PRESET: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.0,
    "crop_scale": None,
    "hflip": 0.0,
    "head_init": "zero",
    "batch_norm": "held",
}
# A classifier that is solved for has no settings of its own; batches are those of the evaluation.
SOLVED_PRESET: dict[str, Any] = {"batch_size": FROZEN_PRESET["batch_size"], "hflip": 0.0}
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 150, 10, 40
"""Of a training from pretrained weights: so many optimizer steps at least, within these epochs."""


def epochs_for(images: int, batch_size: int) -> int:
    """Epochs of a training from pretrained weights: what counts where images are few is the number of steps.

    Args:
        images: Of an epoch.
        batch_size: Images per optimizer step.
    """
    steps = math.ceil(images / batch_size)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / steps)))


EPOCHS_PER_WARMUP = 10
"""A training of fewer epochs has no whole one to warm up in, but its share of one."""
