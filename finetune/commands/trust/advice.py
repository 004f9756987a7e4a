"""What a training of a model on a dataset would take: time, memory, and a batch that fits; by its own first steps."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from finetune.data import splits
from finetune.data.checks.findings import Finding
from finetune.data.dataset import LabelledImages
from finetune.errors import FinetuneError
from finetune.networks import model_names, models
from finetune.settings import of_tasks
from finetune.settings.config import RunConfig
from finetune.settings.data_verbs import DoctorOptions
from finetune.settings.options import LOADER, fields
from finetune.task import Task
from finetune.tasks import registry
from finetune.training import hardware
from finetune.training.session import make_trainer, quiet

_IMAGES, _STEPS = 8, 3
LONG = 60
"""Minutes from which on something quicker is named."""


def of(name: str, data: LabelledImages, options: DoctorOptions) -> Iterator[Finding]:
    """A few steps of the training that `train` would do, on the device that it would take; or why there are none."""
    task = registry.get(data.schema.task)
    try:
        config = _config(name, data, options, task)
        parameters, size, steps = _trained(config, data, task)
    except (FinetuneError, RuntimeError) as error:  # of a model that the task cannot have, or out of memory
        yield Finding("advice", "note", f"no advice on {name}: {' '.join(str(error).split())[:300]}")
        return
    images = data.splits.counts()["train"]
    speed = _IMAGES / steps.seconds
    minutes = images * (config.epochs or 1) / speed / 60
    title = (
        f"{name}, {parameters / 1e6:.1f} million parameters, at {size} pixels: about {speed:.3g} images/s in training "
        f"on {steps.device}, {_duration(minutes)} for the preset's {config.epochs} epochs"
    )
    yield Finding("advice", "note", title, tuple(_lines(steps, minutes, task)))


def _lines(steps: _Steps, minutes: float, task: Task) -> Iterator[str]:
    if steps.bytes_an_image:
        free, _ = torch.cuda.mem_get_info()
        fits = int(0.8 * free / steps.bytes_an_image)
        yield f"about {steps.bytes_an_image / 2**20:.0f} MiB an image: {fits} fit at a time (--device-batch-size)"
    if minutes > LONG and "freeze" not in task.refused:
        yield "--freeze backbone trains the last layers alone, in much less time"


def _duration(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if minutes < 2 * LONG else f"{minutes / 60:.0f} hours"


def _config(name: str, data: LabelledImages, options: DoctorOptions, task: Task) -> RunConfig:
    """What `train` would do by itself."""
    config = RunConfig(
        dataset=options.dataset,
        model=model_names.locate(name),
        image_size=options.image_size,
        accelerator=options.accelerator,
        workers=options.workers,
        probe_images=0,
    ).resolved()
    config = of_tasks.settle(config, task.name, task.preset(config), task.refused)
    found: RunConfig = config.for_images(data.splits.counts()["train"])
    return found


def _trained(config: RunConfig, data: LabelledImages, task: Task) -> tuple[int, int, _Steps]:
    """Parameters, pixels of a side, and the steps, on a few of the images and weights of no value."""
    few = splits.sampled(data.splits, data.schema, "train", _IMAGES * (_STEPS + 1), config.seed)
    some = dataclasses.replace(data, splits=few)
    network = task.network(config, data.schema, False)
    data_config = models.data_config(network, config.image_size, config.interpolation)
    loading = fields(config, LOADER) | of_tasks.loading(config, task.name)
    images = task.data_module(some, data_config, balance=False, **loading | {"batch_size": _IMAGES})
    learner = task.learner(config, images, network, task.baseline(config))
    steps = _Steps()
    depthwise = functools.partial(models.is_depthwise, config.model)
    precision = hardware.precision(config.precision, config.accelerator, depthwise)
    with quiet():
        trainer = make_trainer(config.accelerator, "1", [steps], precision, max_epochs=1)
        trainer.limit_val_batches = 0
        trainer.fit(learner.module, learner.loader)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, int(data_config["input_size"][-1]), steps


class _Steps(L.Callback):
    """Times steps with what they wait for, and ends the training after a few.

    Attributes:
        device: Where they were done.
        seconds: Of the fastest but the first.
        bytes_an_image: On a GPU, besides weights and what the optimizer keeps; else 0.
    """

    def __init__(self) -> None:
        self.device, self.seconds, self.bytes_an_image = "", float("inf"), 0.0
        self.ended: float | None = None
        self.kept = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """One more step."""
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device)
            self.bytes_an_image = (peak - self.kept) / _IMAGES if self.ended is not None else 0.0
            torch.cuda.reset_peak_memory_stats(device)
            self.kept = torch.cuda.memory_allocated(device)
        now = time.perf_counter()
        self.seconds = min(self.seconds, float("inf") if self.ended is None else now - self.ended)
        self.device, self.ended = device.type, now
        trainer.should_stop = trainer.global_step > _STEPS
