"""Lightning data module of images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from finetune.data.dataset import LabelledImages, prepare
from finetune.errors import SchemaError
from finetune.loading import datamodule
from finetune.loading.datamodule import ImageRows
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.task import Inputs
from finetune.tasks.segmentation import inputs, schema
from finetune.tasks.segmentation.inputs import MaskInputs


class MaskRows(ImageRows):
    """Images and masks, either of which may vanish."""

    def look(self, value: Any, target: Any) -> None:
        """Decode the image, then the mask."""
        made: Any = self.inputs
        made.mask_of(inputs.read(value, self.max_pixels), target)


class WholeImages(MaskRows):
    """Batches of evaluation: images and masks have sizes of their own, so that each is a list of them."""

    def together(self, samples: Sequence[Tensor]) -> Any:
        """Uint8 `[3, h, w]` each."""
        return list(samples)


class _WholeInputs(MaskInputs):
    """Likewise of the masks."""

    def collate(self, targets: Sequence[Tensor]) -> Any:
        """Uint8 `[H, W]` each."""
        return list(targets)


class MaskDataModule(datamodule.ImageDataModule):
    """A dataset of images and masks, ready for Lightning's Trainer.

    After `__init__` the dataset is open: `classes` and `num_classes` are known (so LightningCLI can link them to the
    model's arguments). Training batches are uint8 pixels `[B, 3, S, S]` and class indices uint8 `[B, S, S]`; those of
    evaluation lists of pixels `[3, h, w]` and of masks `[H, W]` at their own size. `VOID` (255) is no class. In
    Lightning's Trainer the data module normalises the pixels on the device, lists too.

    Args:
        dataset: What `finetune.data.source.load` takes, or what `finetune.data.dataset.prepare` returned.
        image_size: Side of the training crops, and short side in evaluation, in pixels, where no `data_config` is
            given.
        batch_size: Images per optimizer step over all devices; in evaluation, per device.
        data_config: timm's data config (`timm.data.resolve_data_config`): input size, interpolation, mean, std.
        scale: Smallest and largest factor by which the short side of a training image is longer than a crop; None:
            the middle of each image.
        hflip: Probability of a horizontal flip in training.
        color_jitter: How far brightness, contrast and saturation may change in training.
        workers: Processes that decode; chosen from the cores at hand when not given.
        seed: Of the splits, the order and the augmentation.
        dataset_config: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        image_column: Column of the images; inferred when not given.
        target_column: Column of the masks; inferred when not given.
        val_fraction: Share of train to hold out where there is no validation split.
        test_fraction: Share of train to hold out where there is no test split.
        max_samples: Use at most so many images of each split.
        device_batch_size: Images at a time on a device at most, see `finetune.ImageDataModule`.
        balance: Train on the rarest class in each image equally often.
        max_image_pixels: Larger images are left out before they are decoded.
    """

    def __init__(
        self,
        dataset: Any,
        image_size: int = 512,
        batch_size: int = 8,
        data_config: dict[str, Any] | None = None,
        scale: tuple[float, float] | None = (0.5, 2.0),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        workers: int | None = None,
        seed: int = 0,
        dataset_config: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        target_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_samples: int | None = None,
        device_batch_size: int | None = None,
        balance: bool = False,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        if not isinstance(dataset, LabelledImages):
            dataset = prepare(
                dataset,
                schema.READING,
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
        super().__init__(
            dataset,
            image_size,
            batch_size,
            data_config,
            crop_scale=None,
            workers=workers,
            seed=seed,
            device_batch_size=device_batch_size,
            balance=balance,
        )
        found = dataset.schema
        if found.meaning is None:
            raise SchemaError("the masks were not looked at: prepare the dataset by finetune.data.dataset.prepare")
        size, mean = self.data_config["input_size"][-1], self.data_config["mean"]
        interpolation = self.data_config["interpolation"]
        shared = (found.target_column, found.meaning, size, mean, interpolation)
        self.own_inputs = MaskInputs(*shared, scale, hflip, color_jitter, dataset.max_image_pixels)
        self.whole_inputs: Inputs = _WholeInputs(*shared, max_pixels=dataset.max_image_pixels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class indices."""
        return self.data.schema.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def _rows(self, role: str, training: bool = False) -> ImageRows:
        part, column = self.data.splits.parts[role], self.data.schema.image_column
        encoded, limit = self.data.encoded(role), self.data.max_image_pixels
        shared = (encoded, column, part.rows, part.targets)
        if training:
            return MaskRows(*shared, self.inputs, True, self.seed, limit, inputs.read_lazily)
        return WholeImages(*shared, self.whole_inputs, False, self.seed, limit, inputs.read)
