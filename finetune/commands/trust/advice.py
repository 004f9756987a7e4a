"""What a training of a model on a dataset would take: time, memory, and a batch that fits."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn

from finetune.data.checks.findings import Finding
from finetune.data.dataset import LabelledImages
from finetune.networks import model_names, models
from finetune.settings.data_verbs import FeatureFlags
from finetune.settings.presets import PRETRAINED_PRESET, epochs_for
from finetune.training.session import make_trainer, quiet

_BATCH = 8


def of(name: str, data: LabelledImages, options: FeatureFlags) -> Iterator[Finding]:
    """Steps of a few images, forward and back, on the device that a training would take."""
    model = models.build(model_names.locate(name), None, pretrained=False, image_size=options.image_size).train()
    size = models.data_config(model, options.image_size)["input_size"]
    with quiet():
        device = make_trainer(options.accelerator, "1", []).strategy.root_device
    seconds, memory = _step(model.to(device), size, device)
    images = data.splits.counts()["train"]
    epochs = epochs_for(images, PRETRAINED_PRESET["batch_size"])
    speed = _BATCH / seconds
    minutes = images * epochs / speed / 60
    parameters = sum(parameter.numel() for parameter in model.parameters())
    title = (
        f"{name}, {parameters / 1e6:.1f} million parameters, at {size[-1]} pixels: about {speed:.0f} images/s in "
        f"training on {device.type}, {minutes:.0f} minutes for the preset's {epochs} epochs"
    )
    lines = []
    if memory:
        free, _ = torch.cuda.mem_get_info(device)
        fits = int(0.8 * free / memory)
        lines.append(f"about {memory / 2**20:.0f} MiB an image: {fits} fit at a time (--device-batch-size)")
    elif minutes > 60:
        lines.append("--freeze backbone gives a classifier on frozen features in minutes")
    yield Finding("advice", "note", title, tuple(lines))


def _step(model: nn.Module, size: tuple[int, ...], device: torch.device) -> tuple[float, float]:
    """Seconds of a step of `_BATCH` images, the faster of two; bytes an image on a GPU, else 0."""
    pixels = torch.randn(_BATCH, *size, device=device)
    times = []
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        model(pixels).float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(device) / _BATCH if device.type == "cuda" else 0.0
    return min(times), memory
