"""Where the images come from: a dataset that is at hand, or a stream. The one place that chooses between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data import dataset
from finetune.data.dataset import LabelledImages
from finetune.data.places import Place
from finetune.loading import stream_source
from finetune.loading.datamodule import ImageDataModule
from finetune.loading.stream_module import StreamDataModule
from finetune.loading.stream_source import StreamedImages
from finetune.settings.config import RunConfig
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.task import Reading

_DATA = (
    "dataset_config",
    "revision",
    "image_column",
    "target_column",
    "train_split",
    "val_split",
    "test_split",
    "val_fraction",
    "test_fraction",
    "max_samples",
    "max_image_pixels",
    "group_column",
    "exclude",
    "seed",
)


def load(config: RunConfig, task: Reading, place: Place | None = None) -> LabelledImages:
    """The dataset of a run.

    Args:
        config: Resolved.
        task: Recognises what there is to learn.
        place: Where the dataset is, if that is known already.

    Raises:
        FinetuneError: It cannot be opened, understood or split.
    """
    found = config.dataset if place is None else place
    if config.streaming:
        return stream_source.prepare(found, task, **{name: getattr(config, name) for name in stream_source.OPTIONS})
    return dataset.prepare(found, task, **{name: getattr(config, name) for name in _DATA})


def reopen_stream(settings: Mapping[str, Any], task: Reading, role: str) -> LabelledImages | None:
    """The stream of a run with the images of `role` as its test split; None for a run that did not stream.

    Args:
        settings: The run's config.yaml.
        task: The run's.
        role: See `finetune.data.splits.ROLES`.

    Raises:
        FinetuneError: It cannot be opened, or has changed.
    """
    if not settings.get("streaming"):
        return None
    options: dict[str, Any] = {name: settings.get(name) for name in stream_source.OPTIONS if name != "max_image_pixels"}
    limit = settings.get("max_image_pixels", MAX_IMAGE_PIXELS)
    data = stream_source.prepare(settings["dataset"], task, max_image_pixels=limit, **options)
    data.splits.parts["test"], data.streams["test"] = data.splits.parts[role], data.streams[role]
    return data


def module(data: LabelledImages, steps_per_epoch: int | None = None, **options: Any) -> ImageDataModule:
    """The data module of a dataset.

    Args:
        data: As `load` gives it.
        steps_per_epoch: Of a stream, in training.
        options: Of `ImageDataModule`.
    """
    if isinstance(data, StreamedImages):
        return StreamDataModule(data, steps_per_epoch=steps_per_epoch or 1, **options)
    return ImageDataModule(data, **options)
