"""FSDP: two processes, each with half of the weights, train what one would, and write the files that DDP writes."""

import os
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import timm
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from torch.utils.data import DataLoader

from finetune import ImageClassificationTask
from finetune.errors import ModelError
from finetune.training import sharding
from finetune.training.checkpoint_io import AtomicCheckpointIO, load
from finetune.training.session import quiet
from tests.finetune.ranks import ranks
from tests.finetune.training.test_processes import CLASSES, COUNTS, SIZE, data_module, split

NETWORKS = {"test_vit": {"img_size": SIZE}, "test_resnet": {}}  # the second has running statistics


@pytest.fixture(scope="module")
def dataset():
    return DatasetDict({name: split(count, seed) for seed, (name, count) in enumerate(COUNTS.items())})


def build(name, seed=0):
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=CLASSES, **NETWORKS[name])


def trainer(strategy, *callbacks, **options):
    quieter = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quieter |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "plugins": [AtomicCheckpointIO()]}
    chosen = sharding.FSDP() if strategy == "fsdp" else strategy
    return L.Trainer(accelerator="cpu", devices=2, strategy=chosen, callbacks=list(callbacks), **quieter, **options)


class Recorder(L.Callback):
    """The whole gradients of every step, and how many values of the weights and of the gradients are here."""

    def __init__(self):
        self.gradients, self.held = [], set()

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parameters = dict(module.model.named_parameters())
        self.held.add(sum(sharding.here(p).numel() for p in parameters.values()))
        self.held.add(sum(sharding.here(p.grad).numel() for p in parameters.values()))
        self.gradients.append({name: p.grad.full_tensor() for name, p in parameters.items()})


def gradients(dataset):
    """One epoch at a learning rate that changes nothing; the processes begin with different weights."""
    recorder, model = Recorder(), build("test_vit", seed=int(os.environ["RANK"]))
    task = ImageClassificationTask(model, CLASSES, optimizer="sgd", lr=1e-30, weight_decay=0, label_smoothing=0.1)
    with quiet():
        warnings.filterwarnings("error", message=".*returned a view tensor.*")  # whose gradient might be wrong
        trainer("fsdp", recorder, max_epochs=1, limit_val_batches=0).fit(task, data_module(dataset))
    assert not sharding.is_split(model)  # what was given stays whole
    return recorder.gradients, recorder.held, sum(p.numel() for p in model.parameters())


def test_gradients_are_those_of_the_whole_batch_and_each_process_holds_half(dataset, tmp_path):
    found = ranks(2, gradients, dataset, folder=tmp_path)
    model, data = build("test_vit").double(), data_module(dataset)
    for step, (pixels, targets) in enumerate(data.train_dataloader()):
        loss = F.cross_entropy(model(data.normalize(pixels).double()), targets, label_smoothing=0.1)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        scale = max(float(gradient.abs().max()) for gradient in expected)
        for steps, _, _ in found:
            for got, wanted in zip(steps[step].values(), expected, strict=True):
                torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-6 * scale)
    (here,), (there,) = (held for _, held, _ in found)  # as many gradients as weights
    assert here + there == found[0][2]
    assert 0.45 < here / there < 2.2


class Saved(L.Callback):
    """A checkpoint of each epoch, and the running statistics that this process validates with."""

    def __init__(self, folder):
        self.folder, self.statistics = folder, []

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")

    def on_validation_epoch_end(self, trainer, module):
        self.statistics.append([float(buffer.double().sum()) for buffer in module.model.buffers()])


def train(dataset, name, folder):
    """Two epochs by either strategy, and the second by either again from either's checkpoint of the first."""
    found = {}
    pairs = [(None, "ddp"), (None, "fsdp"), ("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", "fsdp")]
    for before, strategy in pairs:
        label = f"{before}-{strategy}" if before else strategy
        saved = Saved(folder / label)
        saved.folder.mkdir(exist_ok=True)
        options = {"optimizer": "sgd", "lr": 0.01, "layer_decay": 0.5, "warmup_epochs": 0}
        task = ImageClassificationTask(build(name), CLASSES, **options)
        with quiet():
            start = folder / before / "0.ckpt" if before else None
            runner = trainer(strategy, saved, max_epochs=2, gradient_clip_val=1.0)
            runner.fit(task, data_module(dataset), ckpt_path=start, weights_only=True)
        found[label] = saved.statistics, task.exact["loss"]
    return found


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, dataset, tmp_path_factory):
    """Name of the network, folder with the checkpoints by training and epoch, and by rank what `train` returns."""
    folder = tmp_path_factory.mktemp(request.param)
    found = ranks(2, train, dataset, request.param, folder, folder=tmp_path_factory.mktemp("ranks"))
    return SimpleNamespace(name=request.param, folder=folder, found=found)


def assert_close(actual, expected, tolerance):
    """Checkpoints: the same names, numbers and shapes; values within a tolerance, or equal where it is 0."""
    close = {"rtol": tolerance, "atol": tolerance / 10}
    torch.testing.assert_close(dict(actual["state_dict"]), dict(expected["state_dict"]), **close)
    (got,), (wanted,) = actual["optimizer_states"], expected["optimizer_states"]
    assert got["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(got["state"], wanted["state"], **close)


@pytest.mark.parametrize("epoch", [0, 1])
def test_checkpoints_are_those_of_ddp(trained, epoch):
    split, whole = (load(trained.folder / strategy / f"{epoch}.ckpt") for strategy in ("fsdp", "ddp"))
    assert len(whole["optimizer_states"][0]["param_groups"]) > 4  # numbered by group, which is not the model's order
    assert_close(split, whole, 1e-3)


@pytest.mark.parametrize("label", ["ddp-fsdp", "fsdp-ddp", "fsdp-fsdp"])
def test_either_goes_on_from_the_others_checkpoints(trained, label):
    again = load(trained.folder / label / "1.ckpt")
    expected = load(trained.folder / label.split("-")[0] / "1.ckpt")
    assert_close(again, expected, 0 if label == "fsdp-fsdp" else 1e-3)


def test_all_processes_validate_one_model(trained):
    first, second = trained.found
    assert first["fsdp"] == second["fsdp"]
    statistics, loss = first["fsdp"]
    assert bool(statistics[-1]) == (trained.name == "test_resnet")
    assert loss == pytest.approx(first["ddp"][1], rel=1e-3)


def stream(rank):
    """Two batches on the first process; the second has come to its end after one (`loading.stream_module`)."""
    torch.manual_seed(rank)
    full, empty = torch.randn(3, 3, SIZE, SIZE), torch.empty(0, 3, SIZE, SIZE)
    return [(full, torch.arange(3)), (empty, torch.empty(0, dtype=torch.int64)) if rank else (full, torch.arange(3))]


def validate_uneven():
    task = ImageClassificationTask(build("test_vit"), CLASSES)
    images = stream(int(os.environ["RANK"]))
    with quiet():
        runner = trainer("fsdp", max_epochs=1, use_distributed_sampler=False)
        loaders = [DataLoader(batches, batch_size=None) for batches in (images[:1], images)]
        scores = task.scores["val"]
        counts, reset = [], scores.reset
        scores.reset = lambda: (counts.append(int(scores.support.sum())), reset())  # of this process alone
        runner.fit(task, loaders[0], loaders[1])
    return counts


def test_a_process_without_images_still_gathers_weights_for_the_others(tmp_path):
    assert ranks(2, validate_uneven, folder=tmp_path) == [[6], [3]]


def refused():
    model = build("test_vit")
    model.gain = torch.nn.Parameter(torch.tensor(1.0))
    task = ImageClassificationTask(model, CLASSES)
    with quiet(), pytest.raises(ModelError) as error:
        trainer("fsdp", max_epochs=1).fit(task, DataLoader(stream(0), batch_size=None))
    return str(error.value)


def test_a_model_that_pytorch_cannot_split_is_refused(tmp_path):
    first, second = ranks(2, refused, folder=tmp_path)
    assert first == second
    assert first.startswith("--strategy fsdp: PyTorch cannot split VisionTransformer: ")
    assert "scalar" in first
    assert first.endswith(
        "; take ddp, with --grad-checkpointing or a smaller --device-batch-size where memory is short"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnest14d", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("test_vit", ["patch_embed", *(f"blocks.{index}" for index in range(6))]),
        (
            "regnetx_002",
            ["stem", "s1", "s2", *(f"s3.b{i + 1}" for i in range(4)), *(f"s4.b{i + 1}" for i in range(7)), "head"],
        ),
        (
            "convformer_s18",
            ["stem", *(f"stages.{index}" for index in range(4)), "head.fc"],  # timm does not tell its blocks apart
        ),
    ],
)
def test_blocks_are_the_largest_of_one_layer(name, expected):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert list(sharding.blocks(model)) == expected


def test_blocks_of_a_model_that_timm_knows_nothing_of():
    linear = torch.nn.Linear(2, 2)
    inner = torch.nn.Sequential(linear, torch.nn.ReLU())
    assert list(sharding.blocks(torch.nn.Sequential(inner, torch.nn.TransformerEncoderLayer(2, 1)))) == ["1"]
