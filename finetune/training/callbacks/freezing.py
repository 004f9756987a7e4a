"""A backbone that does not train, or not yet."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finetune.console import log
from finetune.networks import freezing


class FreezeBackbone(L.Callback):
    """Trains the classifier of a task's `model`, and with `unfreeze_every` one more stage every so many epochs.

    What is frozen is in eval mode: running statistics stay, nothing is dropped, and no gradients are computed. Dropout
    before the classifier stays on, at the model's rate.

    What is trained is a function of the epoch, so that nothing needs to be remembered for a resumed run. This is not
    Lightning's `BaseFinetuning`: that normalises frozen norms by the batch, adds groups to the optimizer behind the
    scheduler's back, and under DDP leaves their gradients unreduced. Here, parameters that never train are not in the
    optimizer; those that will are there from the start, in timm's groups and under the one schedule, and as long as
    they have no gradients the optimizer neither steps, decays nor keeps state for them.

    Args:
        unfreeze_every: Epochs between two stages; never when not given.
    """

    def __init__(self, unfreeze_every: int | None = None) -> None:
        self.every = unfreeze_every
        self.level = -1
        self.stages: list[set[str]] = []
        self.hook: RemovableHandle | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freezes what never trains: before the optimizer and DDP look at what does.

        Raises:
            ModelError: The model has no single classifier, or none of known stages.
        """
        if stage != "fit":
            return
        model = _model(pl_module)
        classifier = freezing.classifier_of(model)
        self.hook = classifier.register_forward_pre_hook(
            _dropout(model, float(getattr(model, "drop_rate", 0.0) or 0.0))
        )
        if self.every is None:
            own = {id(parameter) for parameter in classifier.parameters()}
            self.stages = [{name for name, parameter in model.named_parameters() if id(parameter) in own}]
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in own)
        else:
            self.stages = freezing.stages(model)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also of an epoch that is resumed in the middle, which Lightning does not start again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let this epoch's stages train."""
        level = 0 if self.every is None else min(trainer.current_epoch // self.every, len(self.stages) - 1)
        model = _model(pl_module)
        freezing.train_only(model, set().union(*self.stages[: level + 1]))
        if level == self.level:
            return
        self.level = level
        if self.every is None:
            return
        parts = sum(parameter.requires_grad for parameter in model.parameters())
        log.info(f"epoch {trainer.current_epoch + 1}: {level} of {len(self.stages) - 1} stages train ({parts} tensors)")
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):  # it reduces the gradients of what could train when it was made
            strategy.model = pl_module
            strategy.configure_ddp()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes the hook away."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None


def _model(task: L.LightningModule) -> nn.Module:
    model: Any = task.model
    assert isinstance(model, nn.Module)
    return model


def _dropout(model: nn.Module, rate: float) -> Any:
    """A hook of the classifier. A model drops only in train mode, which most of it is not in while it is frozen."""

    def drop(classifier: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        off = model.training or not classifier.training or not rate
        return inputs if off else (F.dropout(inputs[0], rate), *inputs[1:])

    return drop
