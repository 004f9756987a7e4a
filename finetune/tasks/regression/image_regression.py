"""A number an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from finetune.networks import models
from finetune.tasks.regression import scaled
from finetune.tasks.regression.metrics import NumberScores
from finetune.tasks.regression.scaled import Scale
from finetune.training.module import TaskModule


class ImageRegressionTask(TaskModule):
    """Trains and evaluates a network that gives a number an image; works in any Lightning Trainer.

    Batches are float32 `[B, 3, H, W]` and float32 `[B]`. The network answers in the dataset's unit, and is trained by
    smooth L1 (beta 1, https://arxiv.org/abs/1504.08083) on numbers of mean 0 and standard deviation 1. Logs
    `train_loss`, which is of these, and for `val` and `test` `{stage}_mae`, `{stage}_rmse`, `{stage}_r2`,
    `{stage}_spearman`, which are of the dataset's. Validation and test run in float32 whatever the Trainer's precision.

    Args:
        model: A network with one output, `[B, 1]`, or the name of one, see `finetune.networks.models.build`. Its last
            layer becomes a `finetune.tasks.regression.scaled.ScaledLinear` where mean and sd are given.
        mean: Of the training numbers.
        sd: Their standard deviation.
        pretrained: Load the weights of a model given by name.
        optimizer: Any that timm knows.
        lr: Peak learning rate.
        weight_decay: Weight decay; norms and biases have none.
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the rate falls; stepped per batch.
        schedule: How it falls, see `finetune.training.optim.SHAPES`; along a cosine when not given.
        seed: Of what is random in a step (dropout, drop path, DropBlock): of (seed, epoch, batch, process).
        layer_decay: Factor of the learning rate from each layer to the one before it, see `finetune.training.optim`.
        grad_checkpointing: Compute activations again in the backward pass; gradients and statistics stay the same.

    Raises:
        ModelError: The network does not end in one linear layer, or has no `grad_checkpointing`.

    Attributes:
        batch_loss: Sum of the losses and number of the images of the last batch, over all processes.
        exact: The scores of the last validation or test, in float64.
    """

    def __init__(
        self,
        model: str | nn.Module,
        mean: float | None = None,
        sd: float | None = None,
        pretrained: bool = True,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        schedule: str | None = None,
        seed: int = 0,
        layer_decay: float | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        built = models.build(model, 1, pretrained) if isinstance(model, str) else model
        self.scale = Scale(mean or 0.0, 1.0 if sd is None else sd)
        if mean is not None or sd is not None:
            scaled.install(built, self.scale)
        self.begin(built, {stage: NumberScores() for stage in ("val", "test")})

    def outputs(self, pixels: Tensor) -> Tensor:
        """Numbers float32 `[B]` in the dataset's unit."""
        found: Tensor = self(pixels).float()[:, 0]
        return found

    def training_loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Mean smooth L1 loss of a batch, of standardised numbers."""
        said = self(pixels)[:, 0]
        return F.smooth_l1_loss(self.scale.standardised(said), self.scale.standardised(targets.to(said.dtype)))

    def nothing(self, pixels: Tensor) -> Tensor:
        """float32 `[0]`."""
        return pixels.new_zeros(0)
