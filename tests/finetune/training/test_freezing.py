"""A backbone that stays as it is, or thaws stage by stage: what trains, what does not change, and what is refused."""

import os
import signal

import lightning as L
import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from safetensors.torch import load_file
from torch import nn

import resnest_timm  # noqa: F401
from finetune import ImageClassificationTask, ImageDataModule, RunConfig, run
from finetune.errors import ModelError, Stopped
from finetune.networks import freezing
from finetune.training.callbacks.freezing import FreezeBackbone
from finetune.training.session import quiet

# --- what a model consists of ----------------------------------------------------------------------------------------


def prefixes(stage):
    return {name.split(".")[0] for name in stage}


def test_stages_go_from_the_classifier_down_to_the_stem():
    model = timm.create_model("resnest14d")
    found = freezing.stages(model)
    assert [prefixes(stage) for stage in found] == [
        {"fc"},
        {"layer4"},
        {"layer3"},
        {"layer2"},
        {"layer1"},
        {"conv1", "bn1"},
    ]
    assert sorted(name for stage in found for name in stage) == sorted(name for name, _ in model.named_parameters())


def test_a_norm_before_the_classifier_goes_with_the_last_stage():
    found = freezing.stages(timm.create_model("test_convnext"))
    assert found[0] == {"head.fc.weight", "head.fc.bias"}
    assert {"head.norm.weight", "head.norm.bias"} < found[1]
    assert {name.rsplit(".blocks")[0] for name in found[1] if ".blocks" in name} == {"stages.3"}


def test_models_without_one_classifier_or_known_stages_are_refused():
    with pytest.raises(ModelError, match=r"needs a model with one classifier.*VisionTransformerDistilled has tuple"):
        freezing.classifier_of(timm.create_model("deit_tiny_distilled_patch16_224"))
    with pytest.raises(ModelError, match="ResNet has Identity"):
        freezing.classifier_of(timm.create_model("resnet10t", num_classes=0))
    with pytest.raises(ModelError, match="Linear has none: leave the flag out"):
        freezing.classifier_of(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="--unfreeze-every: timm does not say what the stages of Linear are"):
        freezing.stages(nn.Linear(2, 2))


def test_only_what_trains_wholly_is_in_train_mode():
    model = timm.create_model("resnest14d", drop_path_rate=0.1)
    stages = freezing.stages(model)
    freezing.train_only(model, stages[0] | stages[1])
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {
        name for name, _ in model.named_modules() if name.split(".")[0] == "fc" or name.startswith("layer4")
    }
    assert {name for name, p in model.named_parameters() if p.requires_grad} == stages[0] | stages[1]
    freezing.train_only(model, set().union(*stages))
    assert all(module.training for module in model.modules())


# --- in anybody's Trainer --------------------------------------------------------------------------------------------


class Watch(L.Callback):
    """Which top-level parts change in each epoch; what the optimizer keeps state for."""

    def __init__(self):
        self.changed, self.states = [], []

    def on_train_epoch_start(self, trainer, task):
        self.before = {name: value.clone() for name, value in task.model.state_dict().items()}

    def on_train_epoch_end(self, trainer, task):
        now = task.model.state_dict()
        self.changed.append(prefixes(name for name in now if not torch.equal(now[name], self.before[name])))
        names = {id(p): name for name, p in task.model.named_parameters()}
        self.states.append(prefixes(names[id(p)] for p in trainer.optimizers[0].state))


def fit(freeze, epochs, **model):
    data = ImageDataModule("digits", image_size=32, batch_size=16, max_samples=40, workers=0)
    task = ImageClassificationTask(
        timm.create_model("resnest14d", num_classes=10, drop_path_rate=0.5, **model), 10, lr=1e-3, mixup=0.2
    )
    watch = Watch()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[freeze, watch], enable_model_summary=False, **options
    )
    with quiet():
        trainer.fit(task, data)
    return trainer, task, watch


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_a_frozen_backbone_does_not_change_by_one_bit(dropout, monkeypatch):
    seen = []
    original = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (seen.append((self.training, x)), original(self, x))[1])
    trainer, task, watch = fit(FreezeBackbone(), 2, drop_rate=dropout)
    assert watch.changed == [{"fc"}, {"fc"}]
    groups = trainer.optimizers[0].param_groups
    assert [list(group["params"]) for group in groups] == [[task.model.fc.bias], [task.model.fc.weight]]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
    zeros = np.mean([float((x == 0).float().mean()) for training, x in seen if training])
    assert (zeros > 0.85) == (dropout > 0)
    assert not task.model.fc._forward_pre_hooks


def test_stages_thaw_one_after_another_and_keep_their_decay(caplog):
    with caplog.at_level("INFO", logger="finetune"):
        trainer, task, watch = fit(FreezeBackbone(unfreeze_every=1), 7)
    parts = [{"fc"}, {"layer4"}, {"layer3"}, {"layer2"}, {"layer1"}, {"conv1", "bn1"}]
    expected = [set().union(*parts[: epoch + 1]) for epoch in range(6)]
    assert watch.changed == watch.states == [*expected, expected[-1]]
    said = [message for message in caplog.messages if "stages train" in message]
    assert [line.split(" of 5")[0] for line in said] == [f"epoch {level + 1}: {level}" for level in range(6)]
    matrices = {id(p) for p in task.model.parameters() if p.ndim > 1}
    decayed = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"] if group["weight_decay"]}
    assert decayed == matrices
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {0.0}  # one schedule, at its end


def test_lightnings_own_freezing_would_normalise_by_the_batch():
    """Why it is not used."""
    norm = nn.BatchNorm2d(3)
    pixels = torch.randn(4, 3, 2, 2) + 5
    expected = norm.eval()(pixels)
    BaseFinetuning.freeze(norm.train(), train_bn=False)
    assert (norm(pixels) - expected).abs().max() > 1


# --- runs ------------------------------------------------------------------------------------------------------------

TINY = {"model": "resnest14d", "dataset": "digits", "pretrained": False, "image_size": 32, "max_samples": 64}
TINY |= {"accelerator": "cpu", "devices": "1", "workers": 0, "freeze": "backbone", "precision": "32"}


def interrupted_at(step, monkeypatch):
    """SIGTERM arrives within that optimizer step, once."""
    original = ImageClassificationTask.training_step

    def training_step(self, batch, index):
        if self.global_step == step:
            monkeypatch.setattr(ImageClassificationTask, "training_step", original)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    monkeypatch.setattr(ImageClassificationTask, "training_step", training_step)


@pytest.mark.parametrize(
    "settings",
    [
        {"unfreeze_every": 1, "hflip": 0.5, "drop_path": 0.2},  # a stage has just joined
        {"hflip": 0.5, "mixup": 0.2},  # the backbone runs
        {},  # on features
    ],
    ids=["unfreezing", "augmented", "features"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch, settings):
    settings = {**TINY, **settings, "epochs": 3, "batch_size": 16, "dropout": 0.3}
    whole = run(RunConfig(**settings, output=tmp_path / "whole"))
    interrupted_at(4, monkeypatch)  # an epoch has 3
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run(RunConfig(**settings, output=tmp_path / "stopped"))
    assert not (tmp_path / "stopped/result.json").exists()
    resumed = run(RunConfig(**settings, resume=tmp_path / "stopped"))
    assert resumed.metrics == whole.metrics
    files = [tmp_path / name / "model/model.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_which_of_the_two_happens_is_said(tmp_path, caplog):
    config = RunConfig(**TINY, epochs=1, hflip=0.5, crop_scale=0.5, output=tmp_path / "run")
    with caplog.at_level("INFO", logger="finetune"):
        result = run(config)
    assert "frozen backbone: images are augmented (--crop-scale, --hflip), so that it runs in every step" in caplog.text
    assert "warning: --freeze backbone with --no-pretrained keeps random weights" in caplog.text
    assert "features of" not in caplog.text
    assert (result.training["freeze"], result.training["unfreeze_every"]) == ("backbone", None)


@pytest.mark.slow(seconds=30)
def test_two_processes_thaw_as_one_does(cli, tmp_path):
    """DDP learns of the stages that join. Without BatchNorm, gradients do not depend on the number of processes."""
    flags = "--model test_vit --dataset digits --no-pretrained --image-size 32 --accelerator cpu --workers 0 --hflip 0"
    flags += " --max-samples 64 --freeze backbone --unfreeze-every 1 --epochs 3 --batch-size 16 --precision 32"
    flags += " --optimizer sgd --lr 0.05 --crop-scale 1"
    for devices in (1, 2):
        done = cli("finetune", *flags.split(), "--devices", devices, "--output", tmp_path / str(devices))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 3: 2 of ") == 1
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
