"""One, two and three processes train and evaluate the same: the same images, the same gradient, the same numbers."""

import itertools
import re

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from torch import nn

from finetune import ImageClassificationTask, ImageDataModule
from finetune.loading.sampler import cut
from finetune.networks import models
from finetune.training.session import quiet
from tests.finetune.ranks import ranks

WORLDS = [1, 2, 3]
COUNTS = {"train": 41, "validation": 5, "test": 17}
BATCH = 14  # 41 images in batches of 13, 14 and 14, so that the shares of 2 and of 3 processes differ
CLASSES = 7
SIZE = 32


def split(count, seed):
    """Images of one random colour pattern each, so that their pixels tell which one it is."""
    rng = np.random.default_rng(seed)
    images = [PILImage.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)) for _ in range(count)]
    features = Features(image=Image(), label=ClassLabel(names=[f"c{i}" for i in range(CLASSES)]))
    return Dataset.from_dict({"image": images, "label": [(i + 3) % CLASSES for i in range(count)]}, features=features)


@pytest.fixture(scope="module")
def dataset():
    return DatasetDict({name: split(count, seed) for seed, (name, count) in enumerate(COUNTS.items())})


def data_module(dataset, **options):
    """Training images are random crops; the same draw for the same image, on whichever process."""
    return ImageDataModule(dataset, image_size=SIZE, batch_size=BATCH, workers=0, **options)


class Smooth(nn.Module):
    """Neither BatchNorm nor anything random: the gradient of a batch is the mean of its images' gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, CLASSES))

    def forward(self, pixels):
        return self.layers(pixels)


class Recorder(L.Callback):
    """The targets of every step on this process, the sum of each of its images, and the gradient after averaging."""

    def __init__(self):
        self.images, self.gradients = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.images.append([(label, value) for label, value in zip(batch[1].tolist(), identities(batch), strict=True)])

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({name: p.grad.clone() for name, p in module.model.named_parameters()})


def identities(batch):
    """One number for each image's pixels: equal to the last bit for equal pixels."""
    return batch[0].double().flatten(1).sum(1).tolist()


def trainer(world, *callbacks, **options):
    """Lightning's own, as the launcher's environment has it."""
    quieter = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quieter |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    strategy = "auto" if world == 1 else "ddp"
    return L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, callbacks=list(callbacks), **quieter, **options
    )


def train(world, dataset):
    """Two epochs in float64, without BatchNorm, at a learning rate that changes nothing."""
    recorder = Recorder()
    task = ImageClassificationTask(Smooth(), CLASSES, optimizer="sgd", lr=1e-300, weight_decay=0, label_smoothing=0.1)
    with quiet():
        trainer(world, recorder, max_epochs=2, precision="64-true", limit_val_batches=0).fit(task, data_module(dataset))
    return recorder.images, recorder.gradients


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """By number of processes: by rank, what `train` returns."""
    return {world: ranks(world, train, world, dataset, folder=tmp_path_factory.mktemp("train")) for world in WORLDS}


def test_the_same_images_in_the_same_order_in_every_step(trained):
    """Of two epochs of three steps: labels and pixels, augmented."""
    alone = trained[1][0][0]
    assert [len(step) for step in alone] == [13, 14, 14] * 2
    first, second = (list(itertools.chain(*alone[steps])) for steps in (slice(3), slice(3, 6)))
    assert len(set(first)) == len(set(second)) == COUNTS["train"]
    assert [label for label, _ in first] != [label for label, _ in second]
    for world in (2, 3):
        together = [
            list(itertools.chain(*step)) for step in zip(*(images for images, _ in trained[world]), strict=True)
        ]
        assert together == alone


def test_shares_differ_by_one_image_and_none_is_below_two(trained):
    for world in WORLDS:
        for step in zip(*(images for images, _ in trained[world]), strict=True):
            sizes = [len(share) for share in step]
            assert sizes == np.diff(cut(sum(sizes), world)).tolist()
            assert min(sizes) >= 2
    assert len({len(share) for share in (images[0] for images, _ in trained[3])}) == 2  # uneven, or nothing is tested


def test_the_gradient_is_that_of_the_whole_batch(trained, dataset):
    """In float64, with uneven shares, against autograd on the whole batch without any of our or Lightning's code."""
    model = Smooth().double()
    data = data_module(dataset)
    for step, (pixels, targets) in enumerate(data.train_dataloader()):
        logits = model(data.normalize(pixels).double())
        expected = torch.autograd.grad(F.cross_entropy(logits, targets, label_smoothing=0.1), list(model.parameters()))
        for world in WORLDS:
            for _, gradients in trained[world]:
                for found, wanted in zip(gradients[step].values(), expected, strict=True):
                    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


COUNTED = ("correct", "predicted", "support", "in_top_k")


def evaluate(world, dataset, state):
    """Of the validation split (5 images) and the test split (17): scores, the counts of this process, its images."""
    task = ImageClassificationTask("resnest14d", CLASSES, pretrained=False)
    task.model.load_state_dict(state)
    data, found = data_module(dataset), {}
    seen, counts = [], {}
    task.register_forward_pre_hook(lambda _, inputs: seen.extend(identities(inputs)))
    for scores in task.scores.values():
        scores.reset = lambda s=scores: counts.update({name: getattr(s, name).numpy() for name in COUNTED})
    with quiet():
        runner = trainer(world)
        for stage, loop in (("val", runner.validate), ("test", runner.test)):
            loop(task, data, verbose=False)
            found[stage] = task.exact, dict(counts), list(seen)
            seen.clear()
    return found


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory):
    """By number of processes: by rank, what `evaluate` returns, for the same weights."""
    torch.manual_seed(0)
    model = models.build("resnest14d", CLASSES, False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # a fresh model's blocks are the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    state = model.state_dict()
    return {
        world: ranks(world, evaluate, world, dataset, state, folder=tmp_path_factory.mktemp("evaluate"))
        for world in WORLDS
    }


@pytest.mark.parametrize("stage", ["val", "test"])
def test_every_image_is_counted_exactly_once(evaluated, stage):
    count = COUNTS["validation" if stage == "val" else "test"]
    _, counts, images = evaluated[1][0][stage]
    assert len(images) == len(set(images)) == counts["support"].sum() == count
    for world in (2, 3):
        parts = [process[stage] for process in evaluated[world]]
        assert list(itertools.chain(*(images for _, _, images in parts))) == images
        for name in COUNTED:
            np.testing.assert_array_equal(sum(part[name] for _, part, _ in parts), counts[name])


@pytest.mark.parametrize("stage", ["val", "test"])
def test_scores_are_equal_and_the_loss_is_within_a_millionth(evaluated, stage):
    expected = dict(evaluated[1][0][stage][0])
    loss = expected.pop("loss")
    assert 0 < expected["accuracy"] < expected["top5_accuracy"] < 1  # or too little would be told apart
    for world in (2, 3):
        for process in evaluated[world]:  # all of them know the numbers of the whole
            scores = dict(process[stage][0])
            assert scores.pop("loss") == pytest.approx(loss, abs=1e-6)
            assert scores == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", 3, "--batch-size", 5], r"batches of 5 images cannot be shared by 3 devices with at least 2 ima"),
        (["--devices", 11], r"10 images cannot be evaluated on 11 devices: lower --devices"),
    ],
)
def test_too_few_images_for_the_devices_are_refused_before_anything_is_made(cli, tmp_path, arguments, message):
    run = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", 32, "--max-samples", 100]
    done = cli("finetune", *run, "--accelerator", "cpu", *arguments, "--output", tmp_path / "run")
    assert done.returncode == 2
    assert re.search(f"error: {message}", done.stderr), done.stderr
    assert done.stderr.count("error:") == 1
    assert list(tmp_path.iterdir()) == []
