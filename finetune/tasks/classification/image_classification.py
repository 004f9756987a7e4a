"""Single-label image classification."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from finetune.errors import ConfigError
from finetune.evaluation.metrics import ClassificationScores
from finetune.networks import models
from finetune.training.imbalance import ImbalanceLoss
from finetune.training.module import TaskModule


class ImageClassificationTask(TaskModule):
    """Trains and evaluates an image classifier; works in any Lightning Trainer.

    Batches are float32 `[B, 3, H, W]` and int64 `[B]`. Logs `train_loss`, and for `val` and `test` `{stage}_accuracy`,
    `{stage}_top5_accuracy` (more than five classes), `{stage}_macro_f1`, `{stage}_balanced_accuracy`, `{stage}_loss`.
    Validation and test run in float32 whatever the Trainer's precision.

    Args:
        model: A model that gives logits `[B, num_classes]`, or the name of one, see `finetune.networks.models.build`.
        num_classes: Number of classes.
        pretrained: Load the weights of a model given by name.
        optimizer: Any that timm knows.
        lr: Peak learning rate.
        weight_decay: Weight decay; norms and biases have none.
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the rate falls; stepped per batch.
        schedule: How it falls, see `finetune.training.optim.SHAPES`; along a cosine when not given.
        label_smoothing: Share of each target that is spread over all classes.
        mixup: Mix pairs of training images with weights from Beta(mixup, mixup), https://arxiv.org/abs/1710.09412.
        cutmix: Paste rectangles between pairs, https://arxiv.org/abs/1905.04899; with `mixup`, a batch has one of both.
        seed: Of what is random in a step (mixup, dropout, drop path, DropBlock): of (seed, epoch, batch, process).
        layer_decay: Factor of the learning rate from each layer to the one before it, see `finetune.training.optim`.
        grad_checkpointing: Compute activations again in the backward pass; gradients and statistics stay the same.
        imbalance: What the training loss does about unequal classes: `none`, `class-weights` or `logit-adjustment`, see
            `finetune.training.imbalance`; `balanced-sampler` is up to the loader.
        class_counts: Training images of each class, where `imbalance` needs them.

    Raises:
        ConfigError: `imbalance` needs `class_counts`.
        ModelError: `grad_checkpointing` for a model that has none.

    Attributes:
        batch_loss: Sum of the losses and number of the images of the last batch, over all processes.
        exact: The scores of the last validation or test, in float64.
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        pretrained: bool = True,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        schedule: str | None = None,
        label_smoothing: float = 0.1,
        mixup: float | None = None,
        cutmix: float | None = None,
        seed: int = 0,
        layer_decay: float | None = None,
        grad_checkpointing: bool = False,
        imbalance: str = "none",
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        built = models.build(model, num_classes, pretrained) if isinstance(model, str) else model
        self.begin(built, {stage: ClassificationScores(num_classes) for stage in ("val", "test")})
        mixes = [
            kind(alpha=alpha, num_classes=num_classes) for kind, alpha in ((MixUp, mixup), (CutMix, cutmix)) if alpha
        ]
        if imbalance in ("class-weights", "logit-adjustment") and len(class_counts or ()) != num_classes:
            raise ConfigError(
                f"imbalance={imbalance!r} needs class_counts, the training images of each of the {num_classes} "
                f"classes, got {class_counts}"
            )
        self.loss = ImbalanceLoss(class_counts or (), imbalance, label_smoothing)
        self.mix = RandomChoice(mixes) if mixes else None

    def training_loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, mixed where that is asked for."""
        if self.mix is not None:
            pixels, targets = self.mix(pixels, targets)
        loss: Tensor = self.loss(self(pixels), targets)
        return loss

    def nothing(self, pixels: Tensor) -> Tensor:
        """float32 logits `[0, num_classes]`."""
        return pixels.new_zeros(0, self.hparams["num_classes"])
