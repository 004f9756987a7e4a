"""An exponential moving average of the weights, which is what is validated, kept as the best and exported."""

from __future__ import annotations

from itertools import chain

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def decay_of(update: int, decay: float) -> float:
    """Decay of an update, where `update` have gone before: it rises as `(1 + update) / (10 + update)` up to `decay`.

    Without the rise the random first weights would stay in the average for `1 / (1 - decay)` steps, which may be more
    than a short training has. Source: TensorFlow's `ExponentialMovingAverage(num_updates=...)`; timm's
    `ModelEmaV3(use_warmup=True)` has another curve for the same purpose.
    """
    return min(decay, (1 + update) / (10 + update))


class AveragedWeights(AveragedModel):
    """A copy of a model whose weights follow those of the model.

    Parameters and floating-point buffers are averaged, so that BatchNorm's running statistics belong to the averaged
    weights as timm's `ModelEmaV3` has it; other buffers (counters) are copied.

    Args:
        model: To copy.
        decay: Per update, after its rise (`decay_of`).
        device: Where the copy lives.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | None = None) -> None:
        super().__init__(model, device=device, use_buffers=True)
        self.decay = decay
        self.n_averaged = self.n_averaged.cpu()  # asking a GPU would wait for it at every step

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's weights after a step into the average; the first ones are the average."""
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        updates = int(self.n_averaged)
        averaged, current = [], []
        for mean, value in pairs:
            if updates and mean.is_floating_point():
                averaged.append(mean)
                current.append(value.to(mean.device))
            else:
                mean.copy_(value)
        if averaged:
            average = get_ema_multi_avg_fn(decay_of(updates, self.decay))  # type: ignore[no-untyped-call]
            average(averaged, current, updates)
        self.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]


class EMA(WeightAveraging):
    """Lightning's weight averaging, with a decay that rises, on the training's device, and for training alone.

    Lightning puts the averaged weights in place for each validation, and into a checkpoint's `state_dict`; the raw
    weights, which training goes on with, are its `current_model_state`.

    Args:
        decay: Per optimizer step, below 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copies the model to where, and to the precision in which, it will be; Lightning's own leaves it as it is."""
        if stage == "fit":
            self._average_model = AveragedWeights(pl_module, self.decay, trainer.strategy.root_device)
            trainer.precision_plugin.convert_module(self._average_model.module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets go of the copy: Lightning would put it in place in a `validate` of other weights after the training."""
        self._average_model = None
