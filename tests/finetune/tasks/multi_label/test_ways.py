"""Several classes an image on other ways than from end to end on one device: two processes, a kill, parts, a stream."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from datasets import DatasetDict

from finetune.data.dataset import prepare
from finetune.loading import choose, stream_source
from finetune.loading.datamodule import ImageDataModule
from finetune.tasks import registry
from tests.finetune.commands.test_resume import after_checkpoints, assert_same, start, step_of
from tests.finetune.tasks.multi_label.colours import SETTINGS, rows

COUNTS = {"train": 84, "validation": 40, "test": 40}
NAMED = {"train_split": "train", "val_split": "validation", "test_split": "test"}
TINY = [*SETTINGS.split(), "--precision", "32"]


@pytest.fixture(scope="module")
def held():
    return DatasetDict({name: rows(count, seed) for seed, (name, count) in enumerate(COUNTS.items())})


@pytest.fixture(scope="module")
def shards(held, tmp_path_factory):
    """The same rows in parquet files, two of each split."""
    folder = tmp_path_factory.mktemp("shards")
    for name, split in held.items():
        for number in range(2):
            part = split.shard(2, number, contiguous=True)
            part.to_parquet(folder / f"{name}-{number:05}-of-00002.parquet")
    return folder


def result_of(run):
    return json.loads((run / "result.json").read_text())


@pytest.mark.slow(seconds=40)
def test_two_processes_train_what_one_does(cli, shards, tmp_path):
    """Without batch statistics there is nothing that a process knows alone: the classifier, on features."""
    words = ["--dataset", shards, *TINY, "--freeze", "backbone", "--lr", "1e-2", "--epochs", 3]
    found = []
    for devices in (1, 2):
        done = cli("finetune", *words, "--devices", devices, "--output", tmp_path / str(devices))
        assert done.returncode == 0, done.stderr
        found.append(result_of(tmp_path / str(devices)))
    for role in ("validation", "test"):
        assert found[1]["metrics"][role] == pytest.approx(found[0]["metrics"][role], rel=1e-3)
    assert found[1]["evaluation"]["thresholds"]["values"] == pytest.approx(
        found[0]["evaluation"]["thresholds"]["values"], rel=1e-3
    )


@pytest.mark.slow(seconds=40)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(cli, shards, tmp_path):
    """In parts of a batch, with what is drawn at random in a step, and an average of the weights."""
    words = ["--dataset", shards, *TINY, "--epochs", 2, "--device-batch-size", 6, "--ema", 0.9, "--mixup", 0.4]
    words += ["--dropout", 0.2]
    whole, run = tmp_path / "whole", tmp_path / "killed"
    done = cli("finetune", *words, "--output", whole)
    assert done.returncode == 0, done.stderr
    process = start(*words, "--output", run, "--save-every", 1)
    after_checkpoints(process, run, random.Random(1).randrange(2, 7))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert step_of(run / "checkpoints/last.ckpt") < 10
    done = cli("finetune", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert_same(run, whole)
    assert result_of(run)["evaluation"]["thresholds"] == result_of(whole)["evaluation"]["thresholds"]


@pytest.mark.slow(seconds=5)
def test_a_stream_has_the_targets_of_the_dataset_in_memory(shards, held):
    streamed = stream_source.prepare(str(shards), registry.READING, **NAMED)
    memory = prepare(held, registry.READING)
    assert streamed.schema.task == memory.schema.task == "multi-label-classification"
    assert streamed.schema.classes == memory.schema.classes
    assert (memory.targets("train") > 0).sum(axis=1).max() > 1
    options = {"batch_size": 16, "image_size": 32, "workers": 0}
    for role in ("validation", "test"):
        both = [choose.module(streamed, steps_per_epoch=3, **options), ImageDataModule(memory, **options)]
        pixels, targets = zip(
            *([torch.cat(parts) for parts in zip(*of.eval_dataloader(role), strict=True)] for of in both), strict=True
        )
        assert torch.equal(*targets)
        assert torch.equal(*pixels)
    trained = choose.module(streamed, steps_per_epoch=5, **options)
    batches = [targets for _, targets in trained.train_dataloader()]
    trained.teardown("fit")
    assert sorted(torch.cat(batches).tolist()) == sorted(memory.targets("train").tolist())


@pytest.mark.slow(seconds=40)
def test_a_stream_is_trained_on(cli, shards, tmp_path):
    words = ["--dataset", shards, "--streaming", "--steps-per-epoch", 5, *TINY, "--epochs", 2]
    words += ["--train-split", "train", "--val-split", "validation", "--test-split", "test"]
    found = []
    for devices in (1, 2):
        run = tmp_path / str(devices)
        done = cli("finetune", *words, "--devices", devices, "--output", run)
        assert done.returncode == 0, done.stderr
        found.append(result_of(run))
        assert found[-1]["dataset"]["splits"] == {"train": 80, "validation": 38, "test": 38}
        assert found[-1]["dataset"]["class_counts"]["test"] == found[0]["dataset"]["class_counts"]["test"]
    words = ["evaluate", tmp_path / "1", "--accelerator", "cpu", "--json"]
    again = json.loads(cli("finetune", *words).stdout.splitlines()[-1])
    assert again["metrics"] == pytest.approx(found[0]["metrics"]["test"], abs=1e-6)
    assert np.isfinite(found[1]["metrics"]["test"]["mean_average_precision"])
