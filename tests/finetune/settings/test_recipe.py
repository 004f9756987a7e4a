"""`--recipe`: what imagenet and coco set, and what a training under the first really does."""

import re
from importlib import resources

import lightning as L
import numpy as np
import pytest
import timm
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from PIL import Image as PILImage
from timm.layers import DropBlock2d
from torch import nn

import resnest_timm
from finetune import ImageClassificationTask, RunConfig, run
from finetune.cli import main, parse_train
from finetune.errors import ConfigError
from finetune.loading.randomness import seeded
from finetune.settings import recipe
from finetune.training import hardware, session
from resnest_timm.resnest import ALIASES, VARIANTS

# facts of the paper and the authors' scripts: batch size, learning rate, image size, dropout, interpolation
PUBLISHED = {
    "resnest50": (8192, 3.2, 224, None, "bilinear"),
    "resnest50_fast_2s2x40d": (8192, 3.2, 224, None, "bilinear"),
    "resnest101": (4096, 1.6, 256, None, "bilinear"),
    "resnest200": (2048, 0.8, 320, 0.2, "bicubic"),
    "resnest269": (2048, 0.8, 416, 0.2, "bicubic"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    config = parse_train(["--recipe", "imagenet", "--model", name, "--dataset", "imagenet-1k"])
    found = (config.batch_size, config.lr, config.image_size, config.dropout, config.interpolation)
    assert found == pytest.approx(PUBLISHED[name])
    assert (config.epochs, config.warmup_epochs, config.weight_decay) == (270, 5, 1e-4)
    assert (config.label_smoothing, config.mixup, config.drop_block) == (0.1, 0.2, 0.1)
    assert (config.optimizer, config.auto_augment) == ("nesterov", "original")
    assert config.sync_bn
    assert config.zero_init_last
    assert not config.pretrained
    assert config == RunConfig.from_recipe("imagenet", model=name, dataset="imagenet-1k").resolved()


COCO = ["--recipe", "coco", "--dataset", "x", "--task", "object-detection"]


@pytest.mark.parametrize("name", ["resnest50", "resnest50d", "resnest101", "resnest200e"])
def test_of_coco_the_settings_are_the_known_ones(name):
    config = parse_train([*COCO, "--model", name, "--detector", "cascade-rcnn"])
    assert (config.epochs, config.batch_size, config.optimizer, config.weight_decay) == (12, 16, "momentum", 1e-4)
    assert (config.image_size, config.max_size, config.crop_scale) == (800, 1333, 1.0)
    assert (config.batch_norm, config.sync_bn, config.pretrained) == ("trained", True, True)
    assert config.schedule == "steps"
    assert config.lr == pytest.approx(0.02)
    assert parse_train([*COCO, "--model", name, "--batch-size", "8"]).lr == pytest.approx(0.01)
    made = timm.optim.create_optimizer_v2([nn.Parameter(torch.zeros(2))], opt=config.optimizer, lr=0.02)
    assert isinstance(made, torch.optim.SGD)
    assert (made.defaults["momentum"], made.defaults["nesterov"]) == (0.9, False)


def test_what_flags_cannot_say_of_coco_is_said():
    text = (resources.files("finetune.settings.recipes") / "coco.yaml").read_text()
    for words in ("pyramid and heads have norms", "from 640 to 800", "Nobody has trained it"):
        assert words in text
    with pytest.raises(ConfigError, match=r"--recipe coco is for resnest50d, .*got --model 'resnest269'"):
        parse_train([*COCO, "--model", "resnest269"])


def test_every_variant_has_settings_under_all_its_names():
    for name in [*VARIANTS, *ALIASES]:
        assert recipe.settings("imagenet", name) == recipe.settings("imagenet", ALIASES.get(name, name))


@pytest.mark.parametrize(("name", "least"), [("imagenet", 10), ("coco", 7)])
def test_every_setting_is_a_flag_and_says_where_it_comes_from(name, least):
    text = (resources.files("finetune.settings.recipes") / f"{name}.yaml").read_text()
    lines = re.search(r"^settings:\n((?:  .*\n)+)", text, re.MULTILINE)[1].splitlines()
    settings = [line for line in lines if not line.strip().startswith("#")]
    assert len(settings) == len(yaml.safe_load(text)["settings"]) > least
    assert all("#" in line for line in settings)
    RunConfig(**recipe.settings(name, "resnest50"))  # every key is a field


def test_flags_win_and_the_learning_rate_follows_the_batch():
    given = ["--recipe", "imagenet", "--model", "resnest50", "--dataset", "x", "--batch-size", "1024"]
    assert parse_train(given).lr == pytest.approx(0.4)
    assert parse_train([*given, "--lr", "1.5", "--epochs", "90", "--no-sync-bn"]).lr == 1.5
    assert parse_train([*given, "--pretrained"]).pretrained
    assert RunConfig.from_recipe("imagenet", model="resnest50", batch_size=512, epochs=3).lr == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "imagenett", "--model", "resnest50"], "--recipe: unknown 'imagenett'; did you mean imagenet"),
        (
            ["--recipe", "imagenet", "--model", "resnet50"],
            "--recipe imagenet is for resnest50d, .*got --model 'resnet50'",
        ),
        (["--recipe", "imagenet", "--config", "x.yaml"], "--config, --recipe and --resume exclude each other"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_train([*arguments, "--dataset", "digits"])


def test_unknown_policy_is_explained(capsys, tmp_path):
    arguments = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", "32"]
    assert main([*arguments, "--auto-augment", "random", "--output", str(tmp_path / "run")]) == 2
    assert "--auto-augment random: not a policy that timm knows" in capsys.readouterr().err


def test_drop_block_is_for_resnests(capsys, tmp_path):
    arguments = ["--model", "resnet18", "--dataset", "digits", "--no-pretrained", "--image-size", "32"]
    assert main([*arguments, "--drop-block", "0.1", "--output", str(tmp_path / "run")]) == 2
    assert "--drop-block is for ResNeSts only, got --model resnet18" in capsys.readouterr().err


class Recorder(L.Callback):
    """What optimizer, schedule and regularisers are, step by step."""

    def __init__(self):
        self.lr, self.drop_rates, self.targets = [], [], []

    def on_fit_start(self, trainer, pl_module):
        self.task, self.model = pl_module, pl_module.model
        self.last_gammas = [b.bn3.weight.abs().max().item() for b in self.model.modules() if hasattr(b, "bn3")]
        self.transform = trainer.datamodule.train_transform

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.optimizer = trainer.optimizers[0]
        self.lr.append([group["lr"] for group in self.optimizer.param_groups])
        self.drop_rates.append({m.drop_prob for m in self.model.modules() if isinstance(m, DropBlock2d)})


@pytest.fixture(scope="module")
def noise():
    """Four images to train on, two for each of the other splits."""
    rng = np.random.default_rng(0)
    features = Features(image=Image(), label=ClassLabel(names=["a", "b"]))

    def split(count):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        rows = {"image": [PILImage.fromarray(p) for p in pixels], "label": [i % 2 for i in range(count)]}
        return Dataset.from_dict(rows, features=features)

    return DatasetDict(train=split(4), validation=split(2), test=split(2))


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("name", PUBLISHED)
def test_two_steps_of_the_recipe(name, noise, monkeypatch, tmp_path):
    """One step an epoch, two epochs: so the first and the last of everything that changes."""
    seen, make = Recorder(), session.make_trainer
    monkeypatch.setattr(session, "make_trainer", lambda a, d, callbacks, *r: make(a, d, [*callbacks, seen], *r))
    small = {"image_size": 32, "batch_size": 4, "epochs": 2, "accelerator": "cpu", "precision": "32-true"}
    config = RunConfig.from_recipe("imagenet", model=name, dataset=noise, output=tmp_path / "run", **small)
    result = run(config)
    assert np.isfinite(result.metrics["test"]["loss"])

    optimizer, model = seen.optimizer, seen.model
    assert type(optimizer) is torch.optim.SGD
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    without = {f"{n}.{p}" for n in norms for p in ("weight", "bias")}
    without |= {n for n, _ in model.named_parameters() if n.endswith("bias")}
    assert groups == {0.0: without, 1e-4: set(names.values()) - without}

    peak = 0.1 * 4 / 256
    assert seen.lr == [[pytest.approx(peak / 2)] * 2, [pytest.approx(peak)] * 2]  # one step of warm-up, then the top
    assert seen.drop_rates == [{0.05}, {0.1}]
    blocks = [m for m in model.modules() if isinstance(m, DropBlock2d)]
    layers = VARIANTS[ALIASES.get(name, name)]["layers"]
    assert len(blocks) == 3 * (layers[2] + layers[3])
    assert {b.block_size for b in blocks} == {3}
    assert not any(isinstance(m, DropBlock2d) for s in (model.layer1, model.layer2) for m in s.modules())
    assert len(seen.last_gammas) == sum(layers)
    assert set(seen.last_gammas) == {0.0}
    assert model.drop_rate == (PUBLISHED[name][3] or 0.0)
    assert [(type(m).__name__, m.alpha) for m in seen.task.mix.transforms] == [("MixUp", 0.2)]
    assert seen.task.hparams["label_smoothing"] == 0.1
    steps = str(seen.transform)
    assert "scale=(0.08, 1.0)" in steps
    assert f"interpolation={PUBLISHED[name][4]}" in steps
    assert "AutoAugment(" in steps
    assert "PosterizeOriginal" in steps  # AutoAugment as published, not its later forms
    assert "ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4))" in steps


def test_learning_rate_over_the_whole_training():
    """270 epochs of 157 steps: from 0 up a line for 5 epochs, then down a cosine to 0."""
    settings = recipe.settings("imagenet", "resnest50")
    task = ImageClassificationTask(
        timm.create_model("resnest14d", num_classes=10),
        num_classes=10,
        **{name: settings[name] for name in ("optimizer", "lr", "weight_decay", "warmup_epochs", "label_smoothing")},
    )
    steps = 270 * 157

    class Planned:
        estimated_stepping_batches, max_epochs = steps, 270

    task._trainer = Planned()
    configured = task.configure_optimizers()
    factor = configured["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert configured["lr_scheduler"]["interval"] == "step"
    warmup = 5 * 157
    assert 3.2 * factor(0) == pytest.approx(3.2 / (warmup + 1))
    assert 3.2 * factor(warmup // 2) == pytest.approx(1.6, abs=0.01)
    assert 3.2 * factor(warmup) == pytest.approx(3.2)
    assert 3.2 * factor((steps + warmup) // 2) == pytest.approx(1.6, abs=1e-3)
    assert 3.2 * factor(steps) == pytest.approx(0, abs=1e-9)


def test_soft_targets_give_the_smoothed_mixed_loss():
    """Against the formula, in float64."""
    torch.manual_seed(0)
    task = ImageClassificationTask(nn.Flatten(), num_classes=12, mixup=0.2, label_smoothing=0.1, seed=1)
    images = torch.rand(5, 3, 2, 2)
    targets = torch.tensor([0, 3, 11, 5, 3])
    task._share = lambda loss, size: 1.0
    loss = task.training_step((images, targets), 3)
    with seeded(torch.device("cpu"), 1, 0, 3, 0):  # seed, epoch, batch, process
        pixels, mixed = task.mix(images, targets)
    hot = torch.nn.functional.one_hot(targets, 12).double()
    weight = (mixed[0, targets[0]]).item()
    expected_targets = weight * hot + (1 - weight) * hot.roll(1, 0)
    torch.testing.assert_close(mixed.double(), expected_targets)
    torch.testing.assert_close(pixels, weight * images + (1 - weight) * images.roll(1, 0))
    smooth = 0.9 * expected_targets + 0.1 / 12
    log_p = torch.log_softmax(pixels.flatten(1).double(), 1)
    assert loss.item() == pytest.approx(-(smooth * log_p).sum(1).mean().item(), rel=1e-5)


def test_sync_bn_is_asked_of_lightning_only_for_gpus(monkeypatch):
    seen = {}
    monkeypatch.setattr(L, "Trainer", lambda **arguments: seen.update(arguments))
    session.make_trainer("cpu", "2", [], sync_bn=True)
    assert seen["sync_batchnorm"] is False
    monkeypatch.setattr(hardware, "has_cuda", lambda accelerator: True)
    session.make_trainer("gpu", "2", [], sync_bn=True)
    assert seen["sync_batchnorm"] is True
    session.make_trainer("gpu", "2", [])
    assert seen["sync_batchnorm"] is False


@pytest.mark.parametrize("name", ["resnest14d", "resnest50_fast_1s4x24d"])
def test_conversion_to_sync_bn_keeps_the_model(name):
    """SyncBatchNorm itself trains on GPUs alone; converted, every norm is one, and in eval mode nothing changes."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    resnest_timm.add_drop_block(model, 0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    x = torch.randn(2, 3, 64, 64)
    expected, keys = model.eval()(x), list(model.state_dict())
    converted = TorchSyncBatchNorm().apply(model.train())
    norms = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 10
    assert all(type(norm) is nn.SyncBatchNorm for norm in norms)
    assert list(converted.state_dict()) == keys
    torch.testing.assert_close(converted.eval()(x), expected, rtol=1e-5, atol=1e-6)
