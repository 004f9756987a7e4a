"""The command on a card is read by the command line as the settings of its run."""

import dataclasses
import json

import pytest
from datasets import Dataset

from finetune.cli import parse_train
from finetune.settings import command
from finetune.settings.config import RunConfig

HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "workers", "save_every", "logger", "output", "resume")


def same(config):
    """What has to be the same: all but where it runs."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in HARDWARE}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"pretrained": False},
        {"freeze": "backbone"},
        {"freeze": "backbone", "hflip": 0.5, "crop_scale": 0.5},
        {"freeze": "backbone", "unfreeze_every": 2, "epochs": 9},
        {
            "pretrained": False,
            "lr": 1e-7,
            "hflip": 0.0,
            "random_erasing": 0.25,
            "mixup": 0.2,
            "imbalance": "class-weights",
        },
        {"revision": "0" * 40, "image_column": "picture of it", "target_column": "-x", "max_samples": 7, "seed": 3},
        {
            "precision": "bf16-mixed",
            "grad_checkpointing": True,
            "compile": True,
            "device_batch_size": 8,
            "max_time": "2m",
        },
        {"accelerator": "cpu", "devices": "2", "workers": 0, "logger": "tensorboard", "save_every": 5, "ema": 0.99},
        {"image_size": 64, "interpolation": "bicubic", "epochs": 10, "batch_size": 64},
    ],
    ids=str,
)
def test_the_command_is_read_as_the_run_s_settings(values):
    config = RunConfig(model="resnest14d", dataset="owner/name:config", **values).resolved()
    words = command.words(config)
    assert same(parse_train(words)) == same(config)
    assert not {f"--{name.replace('_', '-')}" for name in HARDWARE} & set(words)


def test_what_the_command_takes_by_itself_is_not_said():
    config = RunConfig(model="resnest14d", dataset="food101", epochs=10).resolved()
    assert command.words(config) == ["--model", "resnest14d", "--dataset", "food101", "--epochs", "10"]
    short = RunConfig(model="resnest14d", dataset="food101", epochs=3).resolved()
    assert command.words(short)[4:] == ["--epochs", "3"]
    frozen = RunConfig(model="resnest14d", dataset="food101", freeze="backbone").resolved()
    assert command.words(frozen)[4:] == ["--freeze", "backbone"]
    trained = RunConfig(model="resnest14d", dataset="food101", freeze="backbone", lr=0.01).resolved()
    assert sorted(command.words(trained)[4:]) == ["--epochs", "--freeze", "--lr", "0.01", "50", "backbone"]


def test_where_something_lies_here_is_not_told(tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    for dataset in ("pets", tmp_path / "pets", str(tmp_path / "pets")):
        config = RunConfig(model=f"local-dir:{tmp_path}", dataset=dataset).resolved()
        assert command.words(config) == [
            "--model",
            f"local-dir:PATH/TO/{tmp_path.name}",
            "--dataset",
            "PATH/TO/pets",
        ]


def test_a_dataset_in_memory_has_no_command():
    config = RunConfig(model="resnest14d", dataset=Dataset.from_dict({"x": [1]})).resolved()
    assert command.words(config) == []


def test_a_run_says_its_command_and_its_splits(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    assert result["command"][:4] == ["--model", "resnest14d", "--dataset", "digits"]
    assert {"--no-pretrained", "--max-samples", "--epochs"} <= set(result["command"])
    assert "--accelerator" not in result["command"]
    assert result["dataset"]["sources"] == {"train": "train", "validation": "train", "test": "train"}
