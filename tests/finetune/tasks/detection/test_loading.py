"""The data module of objects: lists of images and targets, batches of like shape, an order that can be resumed."""

import lightning as L
import numpy as np
import pytest
import torch

from finetune.errors import ConfigError
from finetune.loading.sampler import TrainBatches
from finetune.tasks.detection import schema
from finetune.tasks.detection.loading.aspects import WINDOW, AspectBatches
from finetune.tasks.detection.loading.datamodule import DetectionDataModule
from tests.conftest import SHARED
from tests.finetune.tasks.detection import drawn


@pytest.fixture(scope="module")
def data():
    return drawn.prepared(drawn.MASKED["polygons"](), schema.INSTANCES)


def module(data, **options):
    return DetectionDataModule(data, drawn.CONFIG, **({"batch_size": 4, "workers": 0} | options))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_lists_and_normalised_on_the_device(data, workers):
    made = module(data, workers=workers)
    seen = 0
    for batch in made.train_dataloader():
        assert all(one.dtype == torch.uint8 for one in batch[0])
        pixels, targets = made.on_after_batch_transfer(batch, 0)
        assert isinstance(pixels, list)
        assert isinstance(targets, list)
        for one, target in zip(pixels, targets, strict=True):
            assert one.dtype == torch.float32
            assert one.shape[0] == 3
            assert -1.0 <= one.min() <= one.max() <= 1.0
            assert target["masks"].shape[1:] == one.shape[1:]
        seen += len(pixels)
    assert seen == drawn.SIZES["train"]
    assert sum(len(pixels) for pixels, _ in made.val_dataloader()) == drawn.SIZES["validation"]


def test_what_is_drawn_at_random_does_not_depend_on_workers(data):
    first, second = (list(module(data, workers=workers).train_dataloader()) for workers in (0, 2))
    for (pixels, targets), (others, other_targets) in zip(first, second, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(pixels, others, strict=True))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, other_targets, strict=True))


class Sees(L.LightningModule):
    """Counts what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.images = self.objects = 0

    def training_step(self, batch, _):
        pixels, targets = batch
        self.images += len(pixels)
        self.objects += sum(len(target["labels"]) for target in targets)
        return self.weight * torch.stack([one.mean() for one in pixels]).mean()

    def validation_step(self, batch, _):
        assert batch[0][0].dtype == torch.float32
        assert len(batch[1][0]["rles"]) == len(batch[1][0]["labels"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_moves_the_lists(data, tmp_path):
    seen = Sees()
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **options)
    trainer.fit(seen, datamodule=module(data))
    assert seen.images == drawn.SIZES["train"]
    assert seen.objects > 0


def test_what_would_not_change_boxes_with_the_image_is_refused(data):
    with pytest.raises(ConfigError, match="--auto-augment does not change boxes with the image"):
        module(data, auto_augment="rand-m6-n2")


# --- batches of like shape -------------------------------------------------------------------------------------------


def batches(count=203, size=8, epoch=0, **options):
    aspects = np.random.default_rng(0).choice([-0.6, 0.0, 0.6], count) + np.arange(count) * 1e-6
    made = AspectBatches(aspects, count, size, 0, **options)
    made.set_epoch(epoch)
    return aspects, [[index for _, index in batch] for batch in made]


def test_every_image_comes_once_and_batches_keep_their_sizes():
    _, found = batches()
    assert sorted(index for batch in found for index in batch) == list(range(203))
    plain = [len(batch) for batch in TrainBatches(203, 8, 0)]
    assert [len(batch) for batch in found] == plain


def test_images_of_a_batch_are_alike():
    aspects, found = batches(800, 10)
    spread = np.mean([np.ptp(aspects[batch]) for batch in found])
    plain = np.mean([np.ptp(aspects[[i for _, i in batch]]) for batch in TrainBatches(800, 10, 0)])
    assert spread < 0.4 * plain


def test_the_sequence_of_shapes_is_random_and_another_in_each_epoch():
    aspects, first = batches(800, 10)
    _, second = batches(800, 10, epoch=1)
    assert first != second
    assert first == batches(800, 10)[1]
    means = [aspects[batch].mean() for batch in first[:WINDOW]]
    assert means != sorted(means)


def test_a_resumed_epoch_goes_on_where_it_stood():
    _, whole = batches(203, 8)
    assert batches(203, 8, start=5)[1] == whole[5:]


def test_processes_share_each_batch():
    _, whole = batches(203, 8)
    _, first = batches(203, 8, rank=0, world=2)
    _, second = batches(203, 8, rank=1, world=2)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]


# --- real images -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="needs the real images of bccd beside the checkout")
def test_blood_cells():
    data = drawn.prepared(str(SHARED / "bccd"))
    assert data.schema.form == "xywh"
    assert data.schema.classes == ("Platelets", "RBC", "WBC")
    assert data.splits.counts() == {"train": 205, "validation": 87, "test": 72}
    facts = data.schema.facts({role: data.targets(role) for role in data.splits.parts})
    assert facts["object_counts"]["train"] == [209, 2381, 214]
    made = module(data, batch_size=8)
    pixels, targets = next(iter(made.val_dataloader()))
    assert all(one.shape == (3, 64, 85) for one in pixels)
    for target in targets:
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert target["boxes"].max() <= 640
