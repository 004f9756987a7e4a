"""Lightning data module: knows the dataset and its splits, never the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import lightning as L
import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.errors import ConfigError, LostImageError, listing
from finetune.loading import allocator, jpeg, transforms
from finetune.loading.randomness import seed_augmentation
from finetune.loading.sampler import EvalBatches, Item, TrainBatches, micro_batches, process
from finetune.loading.workers import default_workers, ignore_signals
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.task import Inputs

Batch = tuple[Tensor, Tensor]

ROWS = 256  # in a message at most


class ImageRows(TorchDataset[Batch]):
    """Batches of decoded, transformed images and their targets.

    Indexed by a list of `Item`; gives uint8 `[B, 3, H, W]`, channels last in memory, and the targets as `inputs` brings
    them together; of classes int64 `[B]`. What a random transform draws for an image depends on (seed, visit, index)
    alone: not on workers, devices or the images before it.

    Args:
        encoded: Split of the source, images not decoded.
        column: Its images.
        rows: int64 `[N]`, rows of the split that belong to us.
        targets: `[N, ...]`, what there is to learn of them, where `inputs` has no columns of its own.
        inputs: What makes a sample of an image and its target, and a batch of the targets.
        training: Whether samples are changed at random.
        seed: Of the random transforms.
        max_pixels: A larger image is refused before it is decoded.
        read: What stands in the column, and `max_pixels` -> a PIL image.

    Raises:
        LostImageError: An image does not decode, though the search for such images before the training let it pass.
    """

    def __init__(
        self,
        encoded: Dataset,
        column: str,
        rows: np.ndarray,
        targets: np.ndarray,
        inputs: Inputs,
        training: bool = False,
        seed: int = 0,
        max_pixels: int = MAX_IMAGE_PIXELS,
        read: Callable[[Any, int], PILImage.Image] = images.decode,
    ) -> None:
        # As Arrow tables: for each row alone `datasets` takes a tenth of the time that decoding a small image takes.
        self.encoded = encoded.select_columns([column, *inputs.columns]).with_format("arrow")
        self.column, self.rows, self.targets, self.seed = column, rows, targets, seed
        self.inputs, self.max_pixels, self.read = inputs, max_pixels, read
        self.transform = inputs.training if training else inputs.evaluation

    def __len__(self) -> int:
        return len(self.rows)

    def _sample(self, visit: int, index: int, value: Any, target: Any) -> tuple[Tensor, Any]:
        seed_augmentation(self.seed, visit, index)
        try:
            return self.transform(self.read(value, self.max_pixels), target)
        except Exception as error:  # Pillow's decoders raise whatever they like on broken input
            self._refuse_lost(int(self.rows[index]), value, target, error)
            raise

    def look(self, value: Any, target: Any) -> None:
        """Decode what a row names once more; where its target is a file too, a subclass looks at that as well."""
        images.decode(value, self.max_pixels)

    def _refuse_lost(self, row: int, value: Any, target: Any, error: Exception) -> None:
        """Say so where an error of reading or transforming, which decodes a JPEG, is that of the files."""
        try:
            self.look(value, target)
        except Exception as problem:
            raise LostImageError(
                f"row {row} of split {str(self.encoded.split)!r} decoded when the data was checked, and now does not "
                f"({images.reason(problem)}): bring the file back and go on with --resume, or start another run, "
                "which leaves it out"
            ) from error

    def __getitem__(self, items: Sequence[Item]) -> Batch:
        indices = [index for _, index in items]
        table = self.encoded[self.rows[indices].tolist()]
        values, targets = table[self.column].to_pylist(), self._targets(table, indices)
        with isolate_rng(include_cuda=False):  # without workers the model's dropout draws from the same generators
            samples = [self._sample(*item, *pair) for item, *pair in zip(items, values, targets, strict=True)]
        pixels = self.together([sample for sample, _ in samples])
        return pixels, self.inputs.collate([target for _, target in samples])

    def together(self, samples: Sequence[Tensor]) -> Any:
        """The pixels of a batch, uint8 `[3, H, W]` each; where their sizes differ, a subclass leaves them a list."""
        # Pillow's layout, and the model's; in a worker this collates into shared memory.
        return default_collate([sample.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)

    def _targets(self, table: Any, indices: list[int]) -> Sequence[Any]:
        if not self.inputs.columns:
            return list(self.targets[indices])
        found: list[Any] = table.select(list(self.inputs.columns)).to_pylist()
        return found


class ResumableLoader(DataLoader[Batch]):
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
    """The rows of a dataset, ready for Lightning's Trainer, whatever there is to learn of them.

    `finetune.ImageDataModule` is this for one class an image, and opens a dataset by its name. Checkpoints hold the
    place in the epoch under the name of both.

    Loaders give uint8 `[B, 3, H, W]` and targets. In Lightning's Trainer the data module normalises the pixels on the
    device, so that training and evaluation steps get float32; a loop of your own calls `normalize`. Over several
    devices each image is seen exactly once per epoch, in training and in evaluation.

    Args:
        data: What `finetune.data.dataset.prepare` returned.
        image_size: Side of the square input in pixels, where no `data_config` is given.
        batch_size: Images per optimizer step over all devices; in evaluation, per device.
        data_config: timm's data config (`timm.data.resolve_data_config`): input size, interpolation, crop, mean, std.
        crop_scale: Smallest share of the area that a random training crop keeps; None: no random crops.
        hflip: Probability of a horizontal flip in training.
        auto_augment: timm's policy of random colours and shapes in training, for instance `rand-m6-n2`.
        color_jitter: How far brightness, contrast and saturation may change in training.
        random_erasing: Probability that a rectangle of a training image is erased.
        workers: Processes that decode; chosen from the cores at hand when not given.
        seed: Of the order and the augmentation.
        device_batch_size: Images at a time on a device at most. Training batches then come in `micro_batches` parts,
            and the Trainer must gather as many gradients: give it `callbacks.accumulation.Accumulation`.
        balance: Train on each stratum equally often.
        inputs: How an image and its target become a sample, where both change together; the image alone by the
            arguments above when not given.

    Raises:
        ConfigError: timm does not know the policy of `auto_augment`.

    Attributes:
        normalize: Module that makes of a loader's pixels what the model takes (`loading.transforms.Normalize`).
        alone: Whether a training batch may hold one image alone, where no BatchNorm trains.
        norms_train: Whether some BatchNorm of the model trains; whoever knows the model says so.
    """

    alone = False
    norms_train = True

    @property
    def least(self) -> int:
        """Images at a time in training at least: BatchNorm cannot train on one."""
        return 1 if self.alone and not self.norms_train else 2

    def __init__(
        self,
        data: LabelledImages,
        image_size: int = 224,
        batch_size: int = 32,
        data_config: dict[str, Any] | None = None,
        crop_scale: float | None = 0.35,
        hflip: float = 0.5,
        auto_augment: str | None = None,
        color_jitter: float | None = None,
        random_erasing: float = 0.0,
        workers: int | None = None,
        seed: int = 0,
        device_batch_size: int | None = None,
        balance: bool = False,
        inputs: Inputs | None = None,
    ) -> None:
        super().__init__()
        self.data, self.own_inputs = data, inputs
        self.batch_size, self.workers, self.seed, self.balance = batch_size, workers, seed, balance
        self.device_batch_size = device_batch_size
        self.position = {"epoch": 0, "step": 0}
        self.data_config = data_config or _imagenet_config(image_size)
        self.train_transform = transforms.training(
            self.data_config, crop_scale, hflip, auto_augment, color_jitter, random_erasing
        )
        self.eval_transform = transforms.evaluation(self.data_config)
        self.normalize = transforms.Normalize(self.data_config["mean"], self.data_config["std"])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalises the pixels of our own loaders on the device they have come to; Lightning calls it."""
        pixels = batch[0] if isinstance(batch, list | tuple) and batch else None
        if isinstance(pixels, list) and all(_is_raw(image) for image in pixels):  # of sizes of their own
            return [self._normalised(image) for image in pixels], *batch[1:]
        if not _is_raw(pixels):
            return batch  # of a loader that somebody else gave to the Trainer
        return self._normalised(pixels), *batch[1:]

    def _normalised(self, pixels: Tensor) -> Tensor:
        normalised: Tensor = self.normalize.to(pixels.device)(pixels)
        if self.trainer is not None:  # Lightning's turn was before this: 8-bit pixels have no precision to convert
            normalised = self.trainer.precision_plugin.convert_input(normalised)
        return normalised

    @property
    def epoch_images(self) -> int:
        """Training images of an epoch."""
        return len(self.data.splits.parts["train"].rows)

    @property
    def micro_batches(self) -> int:
        """Into how many a device's share of each training batch is cut.

        Raises:
            SplitError: Some would have fewer than `least` images.
        """
        return micro_batches(self.epoch_images, self.batch_size, process()[1], self.device_batch_size, self.least)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random crops of the training split, in an order that depends on (seed, epoch); where a resumed run stood."""
        batches = self.train_batches()
        self.check_accumulation(batches.micro_batches)
        return self._loader(self._rows("train", training=True), batches, ResumableLoader)

    def train_batches(self) -> TrainBatches:
        """Which images make up each batch of this process, from where a resumed run stood."""
        targets = self.data.splits.parts["train"].targets
        rank, world = process()
        return TrainBatches(
            len(targets),
            self.batch_size,
            self.seed,
            rank,
            world,
            epoch=self.position["epoch"],
            start=self.position["step"],
            device_batch_size=self.device_batch_size,
            balance=self.data.schema.strata(targets) if self.balance else None,
            least=self.least,
        )

    def batch_images(self, epoch: int, number: int, ranks: Sequence[int]) -> str:
        """Which images the given processes had in a micro-batch of the training, for a message; all processes ask."""
        part, batches = self.data.splits.parts["train"], self.train_batches()
        rows = sorted(int(part.rows[index]) for rank in ranks for index in batches.images(epoch, number, rank))
        return f"rows {listing(rows, ROWS)} of split {part.source!r}"

    def check_accumulation(self, parts: int) -> None:
        """Whether the Trainer gathers as many gradients as each batch has parts.

        Raises:
            ConfigError: It does not.
        """
        gathered = parts if self.trainer is None else self.trainer.accumulate_grad_batches
        if self.device_batch_size is not None and gathered != parts:
            raise ConfigError(
                f"device_batch_size {self.device_batch_size} cuts each batch into {parts}, and the Trainer gathers the "
                f"gradients of {gathered}: give it the callback finetune.training.callbacks.accumulation.Accumulation"
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the epoch in progress or ahead, and how many of its optimizer steps have been taken."""
        if self.trainer is None:
            return self.position
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current  # Lightning types them as a base class of what they are
        batches: Any = loop.epoch_loop.batch_progress.current
        within = epochs.ready > epochs.processed
        return {"epoch": epochs.processed, "step": batches.processed // self.micro_batches if within else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The training loader starts from `state_dict`; Lightning calls this before it asks for the loader."""
        self.position = state_dict

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, as the exported model sees it."""
        return self.eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split, as the exported model sees it."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, role: str, batch_size: int | None = None) -> DataLoader[Batch]:
        """Any split, in order, as the exported model sees it; `batch_size` images per device, if not the module's."""
        rows = self._rows(role)
        size = batch_size or min(self.batch_size, self.device_batch_size or self.batch_size)
        return self._loader(rows, EvalBatches(len(rows), size, *process()))

    def check(self, world: int) -> None:
        """Whether `world` processes can share every batch, before any of them starts.

        Raises:
            SplitError: Some process would get too few images.
        """
        counts = self.data.splits.counts()
        TrainBatches(
            counts["train"], self.batch_size, world=world, device_batch_size=self.device_batch_size, least=self.least
        )
        for role in ("validation", "test"):
            EvalBatches(counts[role], self.batch_size, world=world)

    @property
    def inputs(self) -> Inputs:
        """How an image and its target become a sample."""
        return self.own_inputs or transforms.ImageAlone(self.train_transform, self.eval_transform)

    def _rows(self, role: str, training: bool = False) -> ImageRows:
        part, column = self.data.splits.parts[role], self.data.schema.image_column
        encoded, limit = self.data.encoded(role), self.data.max_image_pixels
        read = jpeg.open_jpeg if training else images.decode
        return ImageRows(encoded, column, part.rows, part.targets, self.inputs, training, self.seed, limit, read)

    def _loader(
        self, rows: ImageRows, batches: TrainBatches | EvalBatches, kind: type[DataLoader[Batch]] = DataLoader
    ) -> DataLoader[Batch]:
        workers = default_workers(len(rows)) if self.workers is None else self.workers
        # batch_size=None: the sampler hands over whole batches, see finetune.loading.sampler.
        return kind(
            rows,
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=prepare_worker,
        )


def _is_raw(pixels: Any) -> TypeGuard[Tensor]:
    return isinstance(pixels, Tensor) and pixels.dtype == torch.uint8


def prepare_worker(_worker: int) -> None:
    """In each process of a loader, before it decodes."""
    ignore_signals()
    torch.set_num_threads(1)
    allocator.give_back()
    # Pillow would return each image's memory to the system, and each page of the next one would be cleared anew.
    PILImage.core.set_blocks_max(16)  # type: ignore[attr-defined]  # documented, but not exported by name


def _imagenet_config(image_size: int) -> dict[str, Any]:
    from timm.data import resolve_data_config

    config: dict[str, Any] = resolve_data_config({"input_size": (3, image_size, image_size)})
    return config
