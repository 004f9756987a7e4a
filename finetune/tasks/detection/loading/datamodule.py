"""Lightning data module of images with objects: batches are lists of images of their own sizes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image as PILImage
from torch import Tensor

from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.errors import ConfigError
from finetune.loading import jpeg
from finetune.loading.datamodule import ImageDataModule, ImageRows
from finetune.loading.sampler import TrainBatches, process
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.tasks.detection.loading.aspects import AspectBatches
from finetune.tasks.detection.loading.inputs import DetectionInputs
from finetune.tasks.detection.reads.rows import opened
from finetune.tasks.detection.schema import DetectionSchema

LONG = 5 / 3
"""The long side at most, of `image_size`: 1333 of 800, as detectors are commonly trained."""


class DetectionDataModule(ImageDataModule):
    """The rows of a dataset of objects, ready for Lightning's Trainer.

    Loaders give a list of uint8 `[3, h, w]` and a list of the targets of `DetectionInputs`; on the device the pixels
    become float32, normalised. The images of a training batch are about as wide as each other for their height, so that
    little of a padded batch is padding.

    Args:
        data: What `finetune.data.dataset.prepare` returned; its schema is a `DetectionSchema`.
        data_config: timm's; the first side of the input size is that of the short side.
        max_size: Of the long side in pixels at most; 5/3 of the short one when not given.
        crop_scale: Smallest share of the area that a random training crop keeps; None: no random crops.
        hflip: Probability of a horizontal flip in training.
        color_jitter: How far brightness, contrast and saturation may change in training.
        options: Of `finetune.loading.datamodule.ImageDataModule`.

    Raises:
        ConfigError: `auto_augment` or `random_erasing`, which would not change the boxes with the image.
    """

    alone = True

    def __init__(
        self,
        data: LabelledImages,
        data_config: Mapping[str, Any],
        max_size: int | None = None,
        crop_scale: float | None = 0.35,
        hflip: float = 0.5,
        color_jitter: float | None = None,
        **options: Any,
    ) -> None:
        schema: Any = data.schema
        for name in ("auto_augment", "random_erasing"):
            if options.get(name):
                raise ConfigError(f"--{name.replace('_', '-')} does not change boxes with the image: leave it out")
        made = inputs(schema, data_config, max_size, crop_scale, hflip, color_jitter)
        super().__init__(data, data_config=dict(data_config), inputs=made, **options)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalises the pixels of our own loaders, image by image, on the device they have come to."""
        pixels = batch[0] if isinstance(batch, list | tuple) and batch else None
        if not isinstance(pixels, list):
            return super().on_after_batch_transfer(batch, dataloader_idx)
        whole = super().on_after_batch_transfer
        return [whole((one,), dataloader_idx)[0] for one in pixels], *batch[1:]

    def train_batches(self) -> TrainBatches:
        """Which images make up each batch of this process, from where a resumed run stood."""
        plain = super().train_batches()
        return AspectBatches(
            self.aspects,
            plain.count,
            self.batch_size,
            self.seed,
            *process(),
            epoch=self.position["epoch"],
            start=self.position["step"],
            device_batch_size=self.device_batch_size,
            balance=plain.balance,
            least=self.least,
        )

    @cached_property
    def aspects(self) -> np.ndarray:
        """float64 `[N]`, the logarithm of each training image's width over its height, by its header."""
        part, column = self.data.splits.parts["train"], self.data.schema.image_column
        table = self.data.encoded("train").select_columns([column]).with_format("arrow")

        def of_rows(rows: Sequence[int]) -> list[float]:
            frames = [opened(value) for value in table[list(rows)][column].to_pylist()]
            return [np.log(frame.upright[0] / frame.upright[1]) if frame else 0.0 for frame in frames]

        chunks = [part.rows[start : start + 256].tolist() for start in range(0, len(part.rows), 256)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.array([aspect for chunk in pool.map(of_rows, chunks) for aspect in chunk])

    def _rows(self, role: str, training: bool = False) -> ImageRows:
        part, column = self.data.splits.parts[role], self.data.schema.image_column
        encoded, limit = self.data.encoded(role), self.data.max_image_pixels
        own = copy.copy(self.inputs)
        own.columns = tuple(name for name in own.columns if name in encoded.column_names)  # sizes may be absent
        read = jpeg.open_stored if training else stored
        return DetectionRows(encoded, column, part.rows, part.targets, own, training, self.seed, limit, read)


class DetectionRows(ImageRows):
    """`finetune.loading.datamodule.ImageRows` of images of any sizes: a list of uint8 `[3, h, w]`."""

    def together(self, pixels: Sequence[Tensor]) -> Any:
        """The images themselves."""
        return list(pixels)


def stored(value: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> PILImage.Image:
    """An image as it is stored, of any mode and orientation: its EXIF says in which frame the boxes are."""
    with images.opened(value, max_pixels) as image:
        image.load()
        return image


def inputs(
    schema: DetectionSchema,
    data_config: Mapping[str, Any],
    max_size: int | None = None,
    crop_scale: float | None = None,
    hflip: float = 0.0,
    color_jitter: float | None = None,
) -> DetectionInputs:
    """How the images and objects of a dataset become samples, see `DetectionInputs`; its defaults change nothing."""
    size = int(data_config["input_size"][-1])
    longest = max_size or int(data_config.get("max_size") or round(size * LONG))
    return DetectionInputs(
        schema.where,
        schema.form,
        schema.index,
        schema.with_masks,
        size,
        longest,
        data_config.get("interpolation", "bilinear"),
        crop_scale,
        hflip,
        color_jitter,
    )
