"""One and two processes learn and count the same, also where one of them has no object."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from finetune.tasks.detection.collector import CollectDetections
from finetune.tasks.detection.judging.detected import Detected
from finetune.tasks.detection.module import DetectionTask
from finetune.tasks.detection.networks import build
from finetune.training.callbacks.batch_norm import HoldBatchNorm
from finetune.training.session import quiet
from tests.finetune.ranks import ranks
from tests.finetune.tasks.detection.small import small

KINDS = ("mask-rcnn", "cascade-rcnn", "fcos", "retinanet")
SIDE, IMAGES = 64, 4


def samples():
    """Four images; objects in the first two alone, which the first of two processes has."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(IMAGES):
        boxes = torch.tensor([[4.0, 6, 40, 50], [20, 10, 60, 30]])[: 2 - number] if number < 2 else torch.zeros(0, 4)
        masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        target = {"boxes": boxes, "labels": torch.arange(len(boxes)), "masks": masks, "size": (SIDE, SIDE)}
        target |= {"iscrowd": torch.zeros(len(boxes), dtype=torch.bool), "area": torch.full((len(boxes),), 900.0)}
        made.append((torch.randn(3, SIDE, SIDE, generator=generator), target))
    return made


def loader(world):
    """One batch; each process has as many consecutive images of it."""
    rank = torch.distributed.get_rank() if world > 1 else 0
    share = samples()[rank * IMAGES // world : (rank + 1) * IMAGES // world]
    batch = [image for image, _ in share], [target for _, target in share]
    return DataLoader([0], batch_size=None, collate_fn=lambda _: batch)


class Data(L.LightningDataModule):
    def __init__(self, world):
        super().__init__()
        self.world = world

    def train_dataloader(self):
        return loader(self.world)

    def test_dataloader(self):
        return loader(self.world)


class Gradients(L.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.found = {name: p.grad.clone() for name, p in module.model.named_parameters()}


def task(kind):
    torch.manual_seed(0)
    model = small(build.build("resnest14d", kind, 2, pretrained=False, image_size=SIDE))
    return DetectionTask(model, optimizer="sgd", lr=1e-30, weight_decay=0)


def trainer(world, *callbacks, **options):
    quieter = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quieter |= {"enable_model_summary": False, "use_distributed_sampler": False}
    strategy = "auto" if world == 1 else "ddp"
    return L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, callbacks=list(callbacks), **quieter, **options
    )


def train(world, kinds):
    found = {}
    for kind in kinds:
        recorder = Gradients()
        with quiet():
            trainer(world, recorder, HoldBatchNorm(), max_epochs=1).fit(task(kind), Data(world))
        found[kind] = recorder.found
    return found


@pytest.mark.slow(seconds=120)
def test_the_gradient_is_that_of_the_whole_batch(tmp_path):
    alone = ranks(1, train, 1, KINDS, folder=tmp_path / "1")[0]
    together = ranks(2, train, 2, KINDS, folder=tmp_path / "2")
    for kind in KINDS:
        largest = max(float(gradient.abs().max()) for gradient in alone[kind].values())
        assert largest > 1e-3  # or nothing is compared
        for of_rank in together:
            for name, gradient in of_rank[kind].items():
                difference = float((gradient - alone[kind][name]).abs().max())
                assert difference <= 1e-5 * largest, (kind, name, difference, largest)


def evaluate(world):
    collector, module = CollectDetections(), task("fcos")
    with quiet():
        trainer(world, collector).test(module, Data(world), verbose=False)
    return module.exact, collector.last


@pytest.mark.slow(seconds=60)
def test_every_image_counts_once_and_the_numbers_are_the_same(tmp_path):
    ((alone, kept),) = ranks(1, evaluate, 1, folder=tmp_path / "1")
    first, second = ranks(2, evaluate, 2, folder=tmp_path / "2")
    assert first[0] == second[0] == alone
    assert second[1] is None
    assert isinstance(kept, Detected)
    assert kept.true_counts.tolist() == [2, 1, 0, 0]
    for name, value in vars(kept).items():
        np.testing.assert_allclose(vars(first[1])[name].numpy(), value.numpy(), atol=1e-5)
