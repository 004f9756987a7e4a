"""BatchNorm that keeps the statistics of its pretrained weights."""

from __future__ import annotations

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.networks.freezing import backbone_of


class HoldBatchNorm(L.Callback):
    """Normalises by the running statistics of the pretrained weights, in training too; weight and bias of norms train.

    A few hundred images of another kind say little about means and variances, and those of each small batch less: the
    noise costs more than what better statistics would bring (docs/explanation/presets.md). torch's BatchNorm does so in
    eval mode, and other layers (dropout, stochastic depth) stay in train mode.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also of an epoch that is resumed in the middle, which Lightning does not start again."""
        hold(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After validation, and after `FreezeBackbone` has let another stage train."""
        hold(pl_module)


def hold(module: nn.Module) -> None:
    """Put every BatchNorm of a module into eval mode; of a task whose model has a backbone, those of the backbone."""
    for layer in backbone_of(getattr(module, "model", module)).modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def norms_train(model: nn.Module, held: bool, frozen: bool) -> bool:
    """Whether some BatchNorm of a model is to follow the batches of its training.

    Args:
        model: Of a task.
        held: Whether `HoldBatchNorm` keeps those of the backbone.
        frozen: Whether the backbone is in eval mode, or will be for a while.
    """
    kept = {id(layer) for layer in backbone_of(model).modules()} if held or frozen else set()
    return any(isinstance(layer, _BatchNorm) and id(layer) not in kept for layer in model.modules())
