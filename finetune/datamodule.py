"""Lightning data module: knows the dataset and its splits, never the model."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch.utilities.seed import isolate_rng
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from finetune import images, transforms
from finetune.dataset import LabelledImages, prepare
from finetune.errors import LostImageError
from finetune.limits import MAX_IMAGE_PIXELS
from finetune.sampler import EvalBatches, Item, TrainBatches, process
from finetune.transforms import Transform

Batch = tuple[Tensor, Tensor]


class ImageRows(TorchDataset[Batch]):
    """Batches of decoded, transformed images.

    Indexed by a list of `Item`; gives float32 `[B, 3, H, W]` and int64 `[B]`. What a random transform draws for an
    image depends on (seed, epoch, index) alone: not on workers, devices or the images before it.

    Args:
        encoded: Split of the source, images not decoded.
        column: Its images.
        rows: int64 `[N]`, rows of the split that belong to us.
        labels: int64 `[N]`, their class indices.
        transform: PIL RGB -> float32 `[3, H, W]`.
        seed: Of the random transforms.
        max_pixels: A larger image is refused before it is decoded.

    Raises:
        LostImageError: An image does not decode, though the search for such images before the training let it pass.
    """

    def __init__(
        self,
        encoded: Dataset,
        column: str,
        rows: np.ndarray,
        labels: np.ndarray,
        transform: Transform,
        seed: int = 0,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.max_pixels = max_pixels
        self.encoded = encoded.select_columns([column])
        self.column, self.rows, self.labels, self.transform, self.seed = column, rows, labels, transform, seed

    def __len__(self) -> int:
        return len(self.rows)

    def _sample(self, epoch: int, index: int) -> Tensor:
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(3)
        random.seed(int(state[0]))
        torch.manual_seed(int(state[1]))
        np.random.seed(state[2])  # timm's policies draw from all three
        return self.transform(self._decode(int(self.rows[index])))

    def _decode(self, row: int) -> Image:
        try:
            return images.decode(self.encoded[row][self.column], self.max_pixels)
        except Exception as error:  # Pillow's decoders raise whatever they like on broken input
            raise LostImageError(
                f"row {row} of split {str(self.encoded.split)!r} decoded when the data was checked, and now does not "
                f"({images.reason(error)}): bring the image back and go on with --resume, or start another run, which "
                "leaves it out"
            ) from error

    def __getitem__(self, items: Sequence[Item]) -> Batch:
        with isolate_rng(include_cuda=False):  # without workers the model's dropout draws from the same generators
            pixels = torch.stack([self._sample(epoch, index) for epoch, index in items])
        targets = torch.from_numpy(self.labels[[index for _, index in items]])
        return pixels, targets


class _TrainLoader(DataLoader[Batch]):
    """A loader that goes on within an epoch; its place is kept by `ImageDataModule`, and its sampler starts there.

    Lightning warns of a resume within an epoch unless the loader has these methods, and would call them too late: it
    makes the iterator, which may prefetch, before it restores its loops.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember here."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore here."""


class ImageDataModule(L.LightningDataModule):
    """An image dataset, ready for Lightning's Trainer.

    After `__init__` the dataset is open: `classes` and `num_classes` are known (so LightningCLI can link them to the
    model's arguments). Loaders give float32 `[B, 3, H, W]`, normalised, and int64 `[B]`; over several devices each
    image is seen exactly once per epoch, in training and in evaluation.

    Args:
        dataset: What `finetune.source.load` takes, or what `finetune.dataset.prepare` returned.
        image_size: Side of the square input in pixels, where no `data_config` is given.
        batch_size: Images per optimizer step over all devices; in evaluation, per device.
        data_config: timm's data config (`timm.data.resolve_data_config`): input size, interpolation, crop, mean, std.
        crop_scale: Smallest share of the area that a random training crop keeps.
        hflip: Probability of a horizontal flip in training.
        auto_augment: timm's policy of random colours and shapes in training, for instance `rand-m6-n2`.
        color_jitter: How far brightness, contrast and saturation may change in training.
        random_erasing: Probability that a rectangle of a training image is erased.
        workers: Processes that decode; chosen from the cores at hand when not given.
        seed: Of the splits, the order and the augmentation.
        dataset_config: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        image_column: Column of the images; inferred when not given.
        target_column: Column of the classes; inferred when not given.
        val_fraction: Share of train to hold out where there is no validation split.
        test_fraction: Share of train to hold out where there is no test split.
        max_samples: Use at most so many images of each split.
        max_image_pixels: Larger images are left out before they are decoded.

    Raises:
        FinetuneError: The dataset cannot be opened, understood or split; see `finetune.dataset.prepare`.
    """

    def __init__(
        self,
        dataset: Any,
        image_size: int = 224,
        batch_size: int = 32,
        data_config: dict[str, Any] | None = None,
        crop_scale: float = 0.35,
        hflip: float = 0.5,
        auto_augment: str | None = None,
        color_jitter: float | None = None,
        random_erasing: float = 0.0,
        workers: int | None = None,
        seed: int = 0,
        dataset_config: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        target_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_samples: int | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        super().__init__()
        if not isinstance(dataset, LabelledImages):
            dataset = prepare(
                dataset,
                dataset_config=dataset_config,
                revision=revision,
                image_column=image_column,
                target_column=target_column,
                val_fraction=val_fraction,
                test_fraction=test_fraction,
                max_samples=max_samples,
                max_image_pixels=max_image_pixels,
                seed=seed,
            )
        self.data: LabelledImages = dataset
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.position = {"epoch": 0, "step": 0}
        self.data_config = data_config or _imagenet_config(image_size)
        self.train_transform = transforms.training(
            self.data_config, crop_scale, hflip, auto_augment, color_jitter, random_erasing
        )
        self.eval_transform = transforms.evaluation(self.data_config)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class indices."""
        return self.data.schema.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random crops of the training split, in an order that depends on (seed, epoch); where a resumed run stood."""
        rows = self._rows("train", self.train_transform)
        epoch, step = self.position["epoch"], self.position["step"]
        batches = TrainBatches(len(rows), self.batch_size, self.seed, *process(), epoch=epoch, start=step)
        return self._loader(rows, batches, _TrainLoader)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the epoch in progress or ahead, and how many of its batches have been trained on."""
        if self.trainer is None:
            return self.position
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current  # Lightning types them as a base class of what they are
        batches: Any = loop.epoch_loop.batch_progress.current
        within = epochs.ready > epochs.processed
        return {"epoch": epochs.processed, "step": batches.processed if within else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The training loader starts from `state_dict`; Lightning calls this before it asks for the loader."""
        self.position = state_dict

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, as the exported model sees it."""
        return self.eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split, as the exported model sees it."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, role: str) -> DataLoader[Batch]:
        """Any split, in order, as the exported model sees it."""
        rows = self._rows(role, self.eval_transform)
        return self._loader(rows, EvalBatches(len(rows), self.batch_size, *process()))

    def _rows(self, role: str, transform: Transform) -> ImageRows:
        part = self.data.splits.parts[role]
        column = self.data.schema.image_column
        encoded, limit = self.data.encoded(role), self.data.max_image_pixels
        return ImageRows(encoded, column, part.rows, part.labels, transform, self.seed, limit)

    def _loader(
        self, rows: ImageRows, batches: TrainBatches | EvalBatches, kind: type[DataLoader[Batch]] = DataLoader
    ) -> DataLoader[Batch]:
        workers = default_workers(len(rows)) if self.workers is None else self.workers
        # batch_size=None: the sampler hands over whole batches, see finetune.sampler.
        return kind(
            rows,
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
        )


def default_workers(count: int) -> int:
    """Decoding processes for `count` images: the cores at hand, shared by the processes of this machine."""
    if count < 256:
        return 0  # starting processes takes longer than decoding
    return min(8, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", process()[1]))))


def available_cores() -> int:
    """Cores that this process may use; fewer than the machine has in a container or under a batch system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def _imagenet_config(image_size: int) -> dict[str, Any]:
    from timm.data import resolve_data_config

    config: dict[str, Any] = resolve_data_config({"input_size": (3, image_size, image_size)})
    return config
