"""The LightningModule that all tasks have in common: how one learns, not what."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from finetune.loading.randomness import seeded
from finetune.networks.grad_checkpointing import RunningStatistics, enable
from finetune.training import sharding
from finetune.training.accumulation import StepWeights
from finetune.training.optim import make_optimizer, make_schedule, scale_gradients

Batch = tuple[Tensor, Any]


class TaskModule(L.LightningModule, ABC):
    """Optimiser and schedule, shares of unequal batches, sharding, checkpoints, exact scores; works in any Trainer.

    A task gives the loss of a batch, what the model says of one, and a torchmetrics `Metric` that is updated with both
    and computes the scores by name. Batches are float32 `[B, 3, H, W]` and targets. Logs `train_loss`, and the scores
    as `val_NAME` and `test_NAME`. Validation and test run in float32 whatever the Trainer's precision.

    The `__init__` of a subclass calls this one's, `save_hyperparameters` and then `begin`; `optimizer`, `lr`,
    `weight_decay`, `warmup_epochs`, `seed`, `layer_decay` and `grad_checkpointing` are read from its arguments, and
    `schedule` (see `finetune.training.optim.SHAPES`) where it has it.

    Attributes:
        model: What is trained.
        scores: A metric for `val` and one for `test`.
        batch_loss: Sum of the losses and number of the images of the last batch, over all processes.
        exact: The scores of the last validation or test, in float64.
    """

    model: nn.Module
    scores: dict[str, Metric]

    def begin(self, model: nn.Module, scores: Mapping[str, Metric]) -> None:
        """Take the model and the metrics.

        Args:
            model: What is trained.
            scores: A metric for `val` and one for `test`.

        Raises:
            ModelError: `grad_checkpointing` for a model that has none.
        """
        self.model = model.to(memory_format=torch.channels_last)
        if self.hparams["grad_checkpointing"]:
            enable(self.model)
        self.statistics: RunningStatistics | None = None  # to pause where a batch is seen again in the backward pass
        # Not submodules: Lightning would move them to any device, and MPS has no float64.
        self.scores = dict(scores)
        self.exact: dict[str, float] = {}
        self.step_weights = StepWeights()
        self.batch_loss = torch.zeros(2)
        # Sum of the losses and number of the images of this epoch, over all processes; a checkpoint takes them along.
        self.epoch_loss = torch.zeros(2, dtype=torch.float64)

    @abstractmethod
    def training_loss(self, pixels: Tensor, targets: Any) -> Tensor:
        """Mean loss of a batch; what is random in it is seeded."""

    @abstractmethod
    def nothing(self, pixels: Tensor) -> Any:
        """What the model says of no image: the outputs of a batch of none."""

    def outputs(self, pixels: Tensor) -> Any:
        """What the model says of float32 images, in float32: what the metric is updated with."""
        return self(pixels).float()

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

    def forward(self, pixels: Tensor) -> Any:
        """The model's answer to float32 `[B, 3, H, W]`; of a classifier logits `[B, num_classes]`."""
        return self.model(pixels.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of this process's share, weighted so that the step's gradient is that of the whole batch."""
        with seeded(self.device, self.hparams["seed"], self.current_epoch, batch_index, self.global_rank):
            pixels, targets = batch
            _check_normalised(pixels)
            loss = self.training_loss(pixels, targets)
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

    def validation_step(self, batch: Batch, batch_index: int) -> Any:
        """Adds a batch to the validation scores; what the model says of it, in float32."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> Any:
        """Adds a batch to the test scores; what the model says of it, in float32."""
        return self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test scores."""
        self._log_scores("test")

    def _evaluate(self, batch: Batch, stage: str) -> Any:
        pixels, targets = batch
        _check_normalised(pixels)
        with torch.autocast(self.device.type, enabled=False):
            if len(targets):
                outputs = self.outputs(pixels.float())
            else:  # of a process whose part of a stream has come to its end
                outputs = self.nothing(pixels)
                if sharding.is_split(self.model):  # the others gather weights, which takes all
                    self(pixels.new_zeros(1, *pixels.shape[1:]).float())
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.scores[stage].to(device).update(_moved(outputs, device), _moved(targets, device))
        return outputs

    def _log_scores(self, stage: str) -> None:
        scores = self.scores[stage]
        values = scores.compute()
        # Lightning keeps float32; what is reported comes from here, in float64.
        self.exact = {name: value.item() for name, value in values.items()}
        self.log_dict({f"{stage}_{name}": value.float() for name, value in values.items()}, sync_dist=True)
        scores.reset()

    def rate_scales(self) -> Mapping[str, float]:
        """Factors of the learning rate of parameters of `model` whose names begin so; none where all have one."""
        return {}

    def configure_optimizers(self) -> Any:
        """Timm's optimizer, and a warm-up and a fall over the optimizer steps that the Trainer plans."""
        options = self.hparams
        rates = (options["layer_decay"], self.rate_scales())
        optimizer = make_optimizer(self.model, options["optimizer"], options["lr"], options["weight_decay"], *rates)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        epochs = self.trainer.max_epochs or 1
        warmup = min(round(options["warmup_epochs"] * steps / max(epochs, 1)), steps // 2)
        scheduler = make_schedule(optimizer, steps, warmup, options.get("schedule") or "cosine")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _moved(values: Any, device: torch.device) -> Any:
    """Tensors, and lists and dicts of them, on a device."""
    return move_data_to_device(values, device)


def _check_normalised(pixels: Tensor | Sequence[Tensor]) -> None:
    first = pixels if isinstance(pixels, Tensor) else pixels[0]  # images of several sizes come in a list
    if not first.is_floating_point():
        raise TypeError(
            f"expected normalised float32 images, got {first.dtype}: give the Trainer an ImageDataModule itself, not "
            "its loaders, or apply its `normalize` to each batch"
        )
