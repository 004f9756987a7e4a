"""What a training of a model on a dataset would take: time, memory, and a batch that fits; by its own first steps."""

from __future__ import annotations

import dataclasses
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
from finetune.training.session import make_trainer, precision_of, quiet

_IMAGES, _STEPS = 8, 3
_FORWARD = 1 / 3  # of the time that an image takes in training: no gradients
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
    counts = data.splits.counts()
    if steps.timed < 1:
        yield Finding("advice", "note", f"no advice on {name}: {counts['train']} images are too few to time a step")
        return
    speed = _IMAGES / steps.seconds
    minutes = (counts["train"] + counts["validation"] * _FORWARD) * (config.epochs or 1) / speed / 60
    title = (
        f"{name}, {parameters / 1e6:.1f} million parameters, at {size} pixels: about {speed:.3g} images/s in training "
        f"on {steps.device}, {_duration(minutes)} for the preset's {config.epochs} epochs"
    )
    yield Finding("advice", "note", title, tuple(_lines(steps, minutes, task)))


def _lines(steps: _Steps, minutes: float, task: Task) -> Iterator[str]:
    if steps.bytes_an_image:
        free, _ = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - steps.kept  # what these steps took of it is there for a training again
        fits = int(0.8 * free / steps.bytes_an_image)
        yield f"about {steps.bytes_an_image / 2**20:.0f} MiB an image: {fits} fit at a time (--device-batch-size)"
        yield f"measured in batches of {_IMAGES}; larger ones are faster on a GPU"
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
    with quiet():
        trainer = make_trainer(config.accelerator, "1", [steps], precision_of(config, task.heavy_head), max_epochs=1)
        trainer.limit_val_batches = 0
        trainer.fit(learner.module, learner.loader)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, int(data_config["input_size"][-1]), steps


class _Steps(L.Callback):
    """Times steps with what they wait for, and ends the training after a few.

    Attributes:
        device: Where they were done.
        seconds: Of one of them in the mean, the first left out, which makes ready.
        timed: How many these are.
        bytes_an_image: On a GPU, besides weights and what the optimizer keeps; else 0.
    """

    def __init__(self) -> None:
        self.device, self.bytes_an_image = "", 0.0
        self.began = self.ended = 0.0
        self.timed = -1
        self.kept = 0

    @property
    def seconds(self) -> float:
        """The mean, of at least one."""
        return (self.ended - self.began) / self.timed

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """One more step."""
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device)
            self.bytes_an_image = (peak - self.kept) / _IMAGES if self.ended else 0.0
            torch.cuda.reset_peak_memory_stats(device)
            self.kept = torch.cuda.memory_allocated(device)
        self.device, self.ended = device.type, time.perf_counter()
        self.began = self.began or self.ended
        self.timed += 1
        trainer.should_stop = trainer.global_step > _STEPS
