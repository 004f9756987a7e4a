"""Activations computed again in the backward pass: the same training, and a clear word where a model cannot."""

import pytest
import timm
import torch
from torch import nn

from finetune import ImageClassificationTask, ImageDataModule
from finetune.errors import ModelError
from finetune.networks.grad_checkpointing import enable
from tests.finetune.fits import fit, images


def train(checkpointed, data, count):
    torch.manual_seed(0)
    model = timm.create_model("resnest14d", num_classes=2, drop_path_rate=0.3, drop_rate=0.2)
    model.layer4[0].conv1.register_forward_hook(lambda *_: count.append(checkpointed))
    options = {"optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0, "grad_checkpointing": checkpointed}
    return fit(task=ImageClassificationTask(model, 2, **options), data=data)


def test_gradients_weights_and_running_statistics_are_the_same():
    data = ImageDataModule(images(10, size=32), image_size=32, batch_size=4, workers=0)
    count = []
    (kept, _), (again, task) = (train(checkpointed, data, count) for checkpointed in (False, True))
    assert len(kept.gradients) == len(again.gradients) == 2
    assert count.count(True) == count.count(False) + 2  # once more per step
    for name in ("gradients", "weights", "buffers"):
        for before, after in zip(getattr(kept, name), getattr(again, name), strict=True):
            torch.testing.assert_close(after, before, rtol=0, atol=0)
    norm = task.model.bn1
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 2)


def test_a_model_without_it_is_refused():
    for model, name in ((nn.Linear(2, 2), "Linear"), (timm.create_model("convit_tiny", num_classes=2), "convit_tiny")):
        with pytest.raises(
            ModelError, match=f"--grad-checkpointing: {name} has no gradient checkpointing in timm: lea"
        ):
            enable(model)
