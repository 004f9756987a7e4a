"""Lightning data module of a dataset of one class an image, by its name."""

from __future__ import annotations

from typing import Any

from finetune.data.dataset import LabelledImages, prepare
from finetune.loading import datamodule
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.tasks.classification import reading


class ImageDataModule(datamodule.ImageDataModule):
    """An image dataset, ready for Lightning's Trainer.

    After `__init__` the dataset is open: `classes` and `num_classes` are known (so LightningCLI can link them to the
    model's arguments). Loaders give uint8 `[B, 3, H, W]` and int64 `[B]`. In Lightning's Trainer the data module
    normalises the pixels on the device, so that training and evaluation steps get float32; a loop of your own calls
    `normalize`. Over several devices each image is seen exactly once per epoch, in training and in evaluation.

    Args:
        dataset: What `finetune.data.source.load` takes, or what `finetune.data.dataset.prepare` returned.
        image_size: Side of the square input in pixels, where no `data_config` is given.
        batch_size: Images per optimizer step over all devices; in evaluation, per device.
        data_config: timm's data config (`timm.data.resolve_data_config`): input size, interpolation, crop, mean, std.
        crop_scale: Smallest share of the area that a random training crop keeps; None: no random crops.
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
        device_batch_size: Images at a time on a device at most. Training batches then come in `micro_batches` parts,
            and the Trainer must gather as many gradients: give it
            `finetune.training.callbacks.accumulation.Accumulation(DATA_MODULE)`.
        balance: Train on each class equally often.
        max_image_pixels: Larger images are left out before they are decoded.

    Raises:
        FinetuneError: The dataset cannot be opened, understood or split; see `finetune.data.dataset.prepare`.

    Attributes:
        normalize: Module that makes of a loader's pixels what the model takes (`loading.transforms.Normalize`).
    """

    def __init__(
        self,
        dataset: Any,
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
                reading.READING,
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
            crop_scale,
            hflip,
            auto_augment,
            color_jitter,
            random_erasing,
            workers,
            seed,
            device_batch_size,
            balance,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class indices."""
        return self.data.schema.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)
