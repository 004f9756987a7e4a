"""Single-label image classification."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from finetune.errors import ConfigError
from finetune.evaluation.metrics import ClassificationScores
from finetune.loading.randomness import seeded
from finetune.networks import models
from finetune.networks.grad_checkpointing import RunningStatistics, enable
from finetune.training import sharding
from finetune.training.accumulation import StepWeights
from finetune.training.imbalance import ImbalanceLoss
from finetune.training.optim import make_optimizer, make_schedule, scale_gradients

Batch = tuple[Tensor, Tensor]


class ImageClassificationTask(L.LightningModule):
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
        warmup_epochs: Epochs of linear warm-up, at most half of all, before the cosine to zero; stepped per batch.
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
        self.model = built.to(memory_format=torch.channels_last)
        if grad_checkpointing:
            enable(self.model)
        self.statistics: RunningStatistics | None = None  # to pause where a batch is seen again in the backward pass
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
        # Not submodules: Lightning would move them to any device, and MPS has no float64.
        self.scores = {stage: ClassificationScores(num_classes) for stage in ("val", "test")}
        self.exact: dict[str, float] = {}
        self.step_weights = StepWeights()
        self.batch_loss = torch.zeros(2)
        # Sum of the losses and number of the images of this epoch, over all processes; a checkpoint takes them along.
        self.epoch_loss = torch.zeros(2, dtype=torch.float64)

    def configure_model(self) -> None:
        """Splits the model over the processes for the training, where the strategy is for that (`training.sharding`).

        What was given to the task stays whole, and as it was.

        Raises:
            ModelError: PyTorch cannot split it.
        """
        if self.device_mesh is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if not sharding.is_split(self.model):
            self.model = copy.deepcopy(self.model)
            sharding.split(self.model, self.device_mesh["data_parallel"])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of float32 `[B, 3, H, W]`."""
        logits: Tensor = self.model(pixels.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of this process's share, weighted so that the step's gradient is that of the whole batch."""
        with seeded(self.device, self.hparams["seed"], self.current_epoch, batch_index, self.global_rank):
            _check_normalised(batch[0])
            pixels, targets = batch if self.mix is None else self.mix(*batch)
            loss: Tensor = self.loss(self(pixels), targets)
        return loss * self._share(loss.detach(), len(targets))

    def _share(self, loss: Tensor, size: int) -> float | Tensor:
        """The weight of the mean loss of the images here; adds those of all processes to the epoch's."""
        here = torch.stack([loss.float() * size, torch.tensor(float(size), device=self.device)])
        total: Tensor = self.trainer.strategy.reduce(here, reduce_op="sum")
        self.batch_loss = total
        precise = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        self.epoch_loss = self.epoch_loss.to(self.device, precise) + total
        world = self.trainer.world_size
        # In the loss's own precision: a float32 share would cost a float64 gradient its last eight digits.
        return self.step_weights.weight(size, size if world == 1 else total[1].to(loss.dtype), world)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Logs the mean of the epoch's loss after its last step, also where the Trainer is asked to stop within it."""
        if self.trainer.is_last_batch or self.trainer.should_stop:
            mean = self.epoch_loss[0] / self.epoch_loss[1]
            # It is the same everywhere; without sync_dist Lightning warns that it might not be.
            self.log("train_loss", mean.float(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Finishes the gradient that several batches have added to; Lightning clips it after this."""
        factor = self.step_weights.correction(self.trainer.accumulate_grad_batches)
        if factor is not None:
            scale_gradients(optimizer, factor)

    def on_fit_start(self) -> None:
        """Finds the norms, which may have become SyncBatchNorms."""
        if self.hparams["grad_checkpointing"]:
            self.statistics = RunningStatistics(self.model)

    def on_before_backward(self, loss: Tensor) -> None:
        """Lets no batch count twice in running statistics."""
        if self.statistics is not None:
            self.statistics.pause()

    def on_after_backward(self) -> None:
        """As before."""
        if self.statistics is not None:
            self.statistics.resume()

    def on_train_epoch_start(self) -> None:
        """Begins the mean of the epoch's loss; not called where a resumed run goes on within an epoch."""
        self.epoch_loss = torch.zeros_like(self.epoch_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the epoch's loss so far."""
        checkpoint["epoch_loss"] = self.epoch_loss.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the epoch's loss so far."""
        self.epoch_loss = checkpoint.get("epoch_loss", self.epoch_loss)

    def on_validation_start(self) -> None:
        """Lets all processes validate one model."""
        if sharding.is_split(self.model):
            sharding.share_buffers(self.model)

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Adds a batch to the validation scores; float32 logits `[B, num_classes]`."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Adds a batch to the test scores; float32 logits `[B, num_classes]`."""
        return self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test scores."""
        self._log_scores("test")

    def _evaluate(self, batch: Batch, stage: str) -> Tensor:
        pixels, targets = batch
        _check_normalised(pixels)
        with torch.autocast(self.device.type, enabled=False):
            if len(targets):
                logits: Tensor = self(pixels.float()).float()
            else:  # of a process whose part of a stream has come to its end
                logits = pixels.new_zeros(0, self.scores[stage].num_classes)
                if sharding.is_split(self.model):  # the others gather weights, which takes all
                    self(pixels.new_zeros(1, *pixels.shape[1:]).float())
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.scores[stage].to(device).update(logits.to(device), targets.to(device))
        return logits

    def _log_scores(self, stage: str) -> None:
        scores = self.scores[stage]
        values = scores.compute()
        # Lightning keeps float32; what is reported comes from here, in float64.
        self.exact = {name: value.item() for name, value in values.items()}
        self.log_dict({f"{stage}_{name}": value.float() for name, value in values.items()}, sync_dist=True)
        scores.reset()

    def configure_optimizers(self) -> Any:
        """Timm's optimizer, and a warm-up and cosine over the optimizer steps that the Trainer plans."""
        options = self.hparams
        optimizer = make_optimizer(
            self.model, options["optimizer"], options["lr"], options["weight_decay"], options["layer_decay"]
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        epochs = self.trainer.max_epochs or 1
        warmup = min(round(options["warmup_epochs"] * steps / max(epochs, 1)), steps // 2)
        scheduler = make_schedule(optimizer, steps, warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _check_normalised(pixels: Tensor) -> None:
    if not pixels.is_floating_point():
        raise TypeError(
            f"expected normalised float32 images, got {pixels.dtype}: give the Trainer an ImageDataModule itself, not "
            "its loaders, or apply its `normalize` to each batch"
        )
