"""Small trainings in this process, for tests of what happens within one."""

import lightning as L
import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn

from finetune import ImageClassificationTask, ImageDataModule
from finetune.training import session
from finetune.training.callbacks.accumulation import Accumulation
from tests.finetune.classes import prepare


def images(count=50, size=8):
    """Noise of two classes, in memory."""
    rng = np.random.default_rng(0)
    pixels = [PILImage.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    return prepare(Dataset.from_dict({"image": pixels, "label": [i % 2 for i in range(count)]}, features=features))


def network(norm=False):
    """float32 `[B, 3, 8, 8]` -> `[B, 2]`, with or without BatchNorm."""
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


class Seen(L.Callback):
    """What each optimizer step was: its gradient, clipped, and what it left behind."""

    def __init__(self):
        self.gradients, self.weights, self.buffers, self.batches = [], [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.weights):
            self.gradients.append([p.grad.clone() for p in module.parameters()])
            self.weights.append([p.detach().clone() for p in module.parameters()])
            self.buffers.append([b.clone() for b in module.buffers()])
            self.batches.append(batch_idx)


def fit(module=None, task=None, callbacks=(), data=None, epochs=1, clip_grad=None, precision="64-true", **options):
    """Train; returns (`Seen`, task). In float64 without validation, which is float32 always."""
    seen = Seen()
    data = data or ImageDataModule(images(), image_size=8, workers=0, **options)
    options = {"optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0}
    task = task or ImageClassificationTask(network() if module is None else module, 2, **options)
    hooks = [Accumulation(data), *callbacks, seen]
    trainer = session.make_trainer("cpu", "1", hooks, precision, max_epochs=epochs, clip_grad=clip_grad)
    if precision == "64-true":
        trainer.limit_val_batches = 0
    with session.quiet():
        trainer.fit(task, data)
    return seen, task
