"""DropBlock's rate over a training."""

from __future__ import annotations

import lightning as L
from timm.layers import DropBlock2d


class DropBlockSchedule(L.Callback):
    """Raises the rate of every DropBlock linearly by epoch: `rate * (epoch + 1) / epochs`.

    Source: `DropBlockScheduler` in `resnest/gluon/dropblock.py` of https://github.com/zhanghang1989/ResNeSt.

    Args:
        rate: In the last epoch.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the rate of an epoch that is resumed in the middle: Lightning does not start it again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set this epoch's rate."""
        rate = self.rate * (trainer.current_epoch + 1) / (trainer.max_epochs or 1)
        for module in pl_module.modules():
            if isinstance(module, DropBlock2d):
                module.drop_prob = rate
