"""Lightning data module of a frozen backbone's features: computed once, by all processes together, and remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError
from finetune.loading.datamodule import Batch, ImageDataModule, ResumableLoader
from finetune.loading.sampler import EvalBatches, Item, process
from finetune.networks import features

IMAGES_AT_ONCE = 64
"""Per device; `--batch-size` is that of the classifier, and may be more than a whole network has memory for."""
ROWS_AT_ONCE = 1024
"""Rows of features per batch in evaluation."""


class FeatureRows(TorchDataset[Batch]):
    """Batches of features, indexed by a list of `Item` as `finetune.loading.datamodule.ImageRows` is.

    Args:
        values: float32 `[N, ...]`.
        targets: `[N, ...]`.
    """

    def __init__(self, values: np.ndarray, targets: np.ndarray) -> None:
        self.values, self.targets = values, targets

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, items: Sequence[Item]) -> Batch:
        indices = [index for _, index in items]
        return torch.from_numpy(self.values[indices]), torch.from_numpy(self.targets[indices])


class FeatureDataModule(L.LightningDataModule):
    """The inputs of a classifier, for the images of another data module as the exported model sees them.

    The order is that of the images. The features are computed in float32 in `setup`, where they are not on the disk
    yet, split over the processes of the Trainer; the first process's weights count.

    Args:
        images: What the features are of. Its batches, handed over as Lightning would, are what `network` takes.
        network: Batch of images -> logits.
        classifier: The part of it that takes features and gives these logits.
        model: The part of it that `classifier` belongs to; what the features depend on.

    Attributes:
        values: By split, float32 `[N, ...]`, mapped from the disk; empty before `setup`.
        seconds: That `setup` took.
    """

    def __init__(self, images: ImageDataModule, network: nn.Module, classifier: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.images, self.network, self.classifier, self.model = images, network, classifier, model
        self.values: dict[str, np.ndarray] = {}
        self.seconds = 0.0

    @property
    def data(self) -> LabelledImages:
        """The dataset."""
        return self.images.data

    @property
    def epoch_images(self) -> int:
        """Training images of an epoch."""
        return self.images.epoch_images

    @property
    def micro_batches(self) -> int:
        """Into how many a device's share of each training batch is cut."""
        return self.images.micro_batches

    @property
    def images_at_once(self) -> int:
        """Per device, while features are computed."""
        return min(IMAGES_AT_ONCE, self.images.device_batch_size or IMAGES_AT_ONCE)

    def setup(self, stage: str) -> None:
        """Find the features or compute them; the same on all processes.

        Raises:
            ModelError: The network's output is not that of its classifier.
            OSError: The features cannot be written.
        """
        self.images.trainer = self.trainer
        if self.values:
            return
        assert self.trainer is not None
        began, strategy = time.perf_counter(), self.trainer.strategy
        with _on(self.network, strategy.root_device):
            if self.trainer.world_size > 1:  # the first process alone has read the weights
                for value in self.network.state_dict().values():
                    torch.distributed.broadcast(value, 0)
            backbone = features.backbone_hash(self.model, self.classifier)
            for role, part in self.images.data.splits.parts.items():
                path = features.cache_file(
                    self.images.data, role, self.images.data_config, backbone, strategy.root_device.type
                )
                found = features.read(path)
                known = strategy.reduce_boolean_decision(found is not None)
                if not known:
                    self._compute(role, path)
                    strategy.barrier()
                    found = features.read(path)
                if found is None or len(found) != len(part.rows):
                    raise OSError(
                        f"{path} is damaged right after it was written: set HF_DATASETS_CACHE to another disk"
                    )
                self.values[role] = found
                log.info(
                    f"features of {role}: {' x '.join(map(str, found.shape))}, {'cached' if known else 'computed'}"
                )
        self.seconds = time.perf_counter() - began

    def _compute(self, role: str, path: Path) -> None:
        batches = self._gathered(role)
        assert self.trainer is not None
        if self.trainer.local_rank == 0:  # of each machine: they may not share a disk
            features.write(path, len(self.images.data.splits.parts[role].rows), batches)
        else:
            for _ in batches:
                pass

    def _gathered(self, role: str) -> Iterator[tuple[int, np.ndarray]]:
        """First row, and float32 `[B, ...]`, of all processes' batches."""
        world = process()[1]
        count = len(self.images.data.splits.parts[role].rows)
        plans = [EvalBatches(count, self.images_at_once, each, world) for each in range(world)]
        for step, values in enumerate(self._own(role)):
            starts = [plan.start + int(plan.bounds[step]) for plan in plans]
            sizes = [int(plan.bounds[step + 1] - plan.bounds[step]) for plan in plans]
            shares = [values]
            if world > 1:  # collective calls want equal shapes
                padded = values.new_zeros(max(sizes), *values.shape[1:])
                padded[: len(values)] = values
                shares = [torch.empty_like(padded) for _ in range(world)]
                torch.distributed.all_gather(shares, padded)
            for start, size, share in zip(starts, sizes, shares, strict=True):
                yield start, share[:size].float().cpu().numpy()

    def _own(self, role: str) -> Iterator[Tensor]:
        """Features of this process's share of the images, batch by batch."""
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        with classifier_inputs(self.network, self.classifier) as inputs_of:
            for batch in self.images.eval_dataloader(role, self.images_at_once):
                moved: Any = self.images.transfer_batch_to_device(batch, device, 0)
                pixels, _ = self.images.on_after_batch_transfer(moved, 0)
                yield inputs_of(pixels)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The training split's features, in the order that its images would have."""
        return ResumableLoader(
            self._rows("train"),
            batch_size=None,
            sampler=self.images.train_batches(),
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split's features, in order."""
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split's features, in order."""
        return self._evaluation("test")

    def _evaluation(self, role: str) -> DataLoader[Batch]:
        rows = self._rows(role)
        return DataLoader(rows, batch_size=None, sampler=EvalBatches(len(rows), ROWS_AT_ONCE, *process()))

    def _rows(self, role: str) -> FeatureRows:
        return FeatureRows(self.values[role], self.images.data.splits.parts[role].targets)

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, as of the images."""
        return self.images.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.images.load_state_dict(state_dict)


@contextmanager
def classifier_inputs(network: nn.Module, classifier: nn.Module) -> Iterator[Callable[[Any], Tensor]]:
    """A function from a batch to what the classifier gets of it, whatever the network does before; no gradients.

    Raises:
        ModelError: From the function, where the classifier's output is not the network's.
    """
    seen: dict[str, Tensor] = {}
    hook = classifier.register_forward_hook(lambda _, inputs, output: seen.update(inputs=inputs[0], output=output))

    @torch.inference_mode()
    def inputs_of(batch: Any) -> Tensor:
        seen.clear()
        logits = network(batch)
        last = seen.get("output")
        if last is None or last.shape != logits.shape or not torch.equal(last, logits):
            raise ModelError(
                "--freeze backbone: the model does something with its classifier's output, so that its features alone "
                "are not enough: ask for some augmentation, such as --hflip 0.5, and images pass through it every time"
            )
        return seen["inputs"]

    try:
        yield inputs_of
    finally:
        hook.remove()


@contextmanager
def _on(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The network on a device in eval mode; then on the CPU and in train mode again."""
    network.to(device).eval()
    try:
        yield
    finally:
        network.cpu().train()
