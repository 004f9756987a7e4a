"""8-bit pixels travel; Lightning's Trainer hands the task what the model takes."""

import lightning as L
import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from timm.data import create_transform
from torch import nn

from finetune import ImageClassificationTask, ImageDataModule
from finetune.training.session import quiet
from tests.finetune.classes import prepare


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    pixels = [PILImage.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(60)]
    features = Features(image=Image(), label=ClassLabel(names=["a", "b"]))
    return prepare(Dataset.from_dict({"image": pixels, "label": [i % 2 for i in range(60)]}, features=features))


class Watcher(L.LightningModule):
    """What a task of anybody's own is given."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(1, 1), {"train": [], "val": []}

    def training_step(self, batch, _index):
        self.seen["train"].append(batch[0].clone())
        return self.linear(torch.ones(1, 1)).sum()

    def validation_step(self, batch, _index):
        self.seen["val"].append(batch[0].clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_hands_over_normalised_images(data):
    module, watcher = ImageDataModule(data, image_size=16, batch_size=12, workers=0), Watcher()
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet():
        L.Trainer(max_epochs=1, num_sanity_val_steps=0, enable_model_summary=False, **options).fit(watcher, module)
    (loaded,) = [pixels for pixels, _ in module.val_dataloader()]
    assert loaded.dtype == torch.uint8
    (given,) = watcher.seen["val"]
    assert torch.equal(given, module.normalize(loaded))
    assert given.dtype == torch.float32
    trained = torch.cat(watcher.seen["train"])
    assert trained.dtype == torch.float32
    assert trained.shape == (48, 3, 16, 16)
    assert -2.2 < trained.min() < 0 < trained.max() < 2.7
    transform = create_transform(**module.data_config, is_training=False)
    part = data.splits.parts["validation"]
    images = [data.source.splits[part.source][int(row)]["image"] for row in part.rows]
    assert torch.equal(given, torch.stack([transform(image) for image in images]))


def test_batches_of_other_loaders_are_left_alone(data):
    module = ImageDataModule(data, image_size=16, batch_size=12, workers=0)
    for batch in ([torch.rand(2, 8), torch.ones(2)], torch.zeros(2, dtype=torch.uint8), {"image": 1}, []):
        assert module.on_after_batch_transfer(batch, 0) is batch


def test_pixels_that_nobody_normalised_are_refused(data):
    loader = ImageDataModule(data, image_size=32, batch_size=12, workers=0).val_dataloader()
    task = ImageClassificationTask(timm.create_model("resnest14d", num_classes=2), num_classes=2)
    batch = next(iter(loader))
    for step in (task.validation_step, task.test_step, task.training_step):
        task._trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        with pytest.raises(TypeError, match=r"expected normalised float32 images, got torch.uint8: give"):
            step(batch, 0)
