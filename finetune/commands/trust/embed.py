"""A dataset's images as a model's frozen features: computed once, remembered as those of a frozen backbone are."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from finetune.console import log
from finetune.data import dataset
from finetune.data.dataset import LabelledImages
from finetune.errors import ModelError
from finetune.loading import choose
from finetune.loading.allocator import freed_memory_kept
from finetune.networks import freezing, model_names, models
from finetune.networks.feature_data import FeatureDataModule
from finetune.settings.data_verbs import DatasetFlags, FeatureFlags
from finetune.tasks import registry
from finetune.training.session import make_trainer, quiet


def opened(options: DatasetFlags) -> LabelledImages:
    """The dataset, read and split as `train` does.

    Raises:
        FinetuneError: It cannot be opened, understood or split.
    """
    return dataset.prepare(options.dataset, registry.reader(options.task), **options.prepared_by())


def features(data: LabelledImages, name: str, options: FeatureFlags) -> dict[str, np.ndarray]:
    """float32 `[N, D]` by role.

    Args:
        data: The dataset.
        name: A run's or a model's folder, or a name that `finetune.networks.models.build` takes.
        options: How they are computed.

    Raises:
        ModelError: The model cannot be built, or has no one vector of features an image.
    """
    model = models.build(model_names.locate(name), None, pretrained=True, image_size=options.image_size)
    module = _module(data, model, options)
    with quiet(), freed_memory_kept():
        module.trainer = make_trainer(options.accelerator, "1", [])
        module.setup("fit")
    if module.values["train"].ndim != 2:
        raise ModelError(f"{name} has several vectors of features an image, and one is needed: take another model")
    log.info(f"{name}: features in {module.seconds:.1f} s")
    return module.values


def _module(data: LabelledImages, model: nn.Module, options: FeatureFlags) -> FeatureDataModule:
    data_config: dict[str, Any] = models.data_config(model, options.image_size)
    images = choose.module(data, data_config=data_config, workers=options.workers)
    return FeatureDataModule(images, model, freezing.classifier_of(model), model)
