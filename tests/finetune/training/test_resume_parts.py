"""The parts that let a run go on: checkpoint files, identity, position, per-step random numbers, the epoch log."""

import csv
import dataclasses
import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from timm.layers import DropBlock2d
from torch import nn

from finetune import ImageDataModule, RunConfig
from finetune.errors import CheckpointError, ResumeError
from finetune.loading.randomness import seeded
from finetune.loading.sampler import TrainBatches
from finetune.runs import runfolder
from finetune.runs.runfolder import RunFolder, choose
from finetune.training import checkpoint_io, resume
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.drop_block import DropBlockSchedule
from finetune.training.callbacks.epoch_log import EpochLog
from finetune.training.callbacks.signals import StopOnSignal
from finetune.training.checkpoint_io import AtomicCheckpointIO, damage, same_content
from tests.examples import ROOT
from tests.finetune.classes import prepare

# --- checkpoint files ------------------------------------------------------------------------------------------------


def saved(path, value=1.0):
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.full((1000,), value)}, "step": 3}, path)
    return path


def test_a_checkpoint_is_written_whole_and_read_back(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    content = AtomicCheckpointIO().load_checkpoint(path)
    assert (content["state_dict"]["w"].tolist(), content["step"]) == ([1.0] * 1000, 3)
    assert damage(path) is None
    assert list(tmp_path.iterdir()) == [path]


def test_every_cut_and_every_flipped_bit_of_the_content_is_found(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, *rng.integers(2, len(whole), 30)]:
        path.write_bytes(whole[:size])
        assert "damaged" in damage(path)
    start = whole.index(np.float32(1.0).tobytes() * 4)
    for place in start + rng.integers(0, 4000, 30):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert "does not have its checksum" in damage(path)
    path.unlink()
    assert damage(path) == "missing"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, step):
    path = saved(tmp_path / "a.ckpt")
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 4}, path)
    monkeypatch.undo()
    assert io.error.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    io.save_checkpoint({"step": 4}, path)
    assert io.error is None
    assert io.load_checkpoint(path) == {"step": 4}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_takes_anothers_content(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    same_content(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert os.path.samefile(tmp_path / "a", tmp_path / "b") == links


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    torch.save({"callbacks": Path("x")}, tmp_path / "a.ckpt")  # a class that is not on torch's list
    with pytest.raises(
        CheckpointError,
        match=r"a.ckpt cannot be read: it holds more than tensors, numbers and text; it may run code, and is",
    ):
        checkpoint_io.load(tmp_path / "a.ckpt")


def checkpoints(folder, best=None, epoch=None):
    """The callback, and a `best.ckpt` of its own where `epoch` is given."""
    callback = Checkpoints(folder, StopOnSignal())
    callback.best, callback.best_epoch = best, epoch
    if epoch is not None:
        callback.io.save_checkpoint({"callbacks": {"Checkpoints": callback.state_dict()}}, folder / "best.ckpt")
    return callback


def test_the_best_epoch_is_the_one_in_its_file(tmp_path, caplog):
    """The run was killed after epoch 3 was saved as the best and before the last checkpoint could say so."""
    newer = checkpoints(tmp_path, (0.9, -0.2), 3)
    resumed = checkpoints(tmp_path)
    resumed.load_state_dict({"best": (0.5, -1.0), "best_epoch": 1})
    assert (resumed.best, resumed.best_epoch) == (newer.best, 3)
    (tmp_path / "best.ckpt").write_bytes(b"")
    with caplog.at_level("WARNING", "finetune"):
        resumed.load_state_dict({"best": (0.5, -1.0), "best_epoch": 1})
    assert resumed.best is None
    expected = "best.ckpt is damaged (File is not a zip file): the best epoch is chosen among those that follow"
    assert caplog.messages == [expected]
    (tmp_path / "best.ckpt").unlink()
    resumed.load_state_dict({"best": None, "best_epoch": None})  # within the first epoch
    assert len(caplog.messages) == 1


def test_a_damaged_last_checkpoint_never_takes_the_place_of_the_one_before(tmp_path):
    (tmp_path / "last.ckpt").write_text("damaged")
    (tmp_path / "previous.ckpt").write_text("whole")
    for name in ("fresh.ckpt", "last.ckpt.part"):
        (tmp_path / name).write_text("left over")
    callback = checkpoints(tmp_path)
    callback.start = tmp_path / "previous.ckpt"
    callback.on_train_start(SimpleNamespace(is_global_zero=True), None)
    names = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert names == {"last.ckpt": "whole", "previous.ckpt": "whole"}


# --- identity --------------------------------------------------------------------------------------------------------

CONFIG = RunConfig(model="resnest14d", dataset="digits").resolved().for_images(48)


def images(classes=("cat", "dog"), shade=0, count=60):
    pixels = [PILImage.new("RGB", (8, 8), (i, shade, 0)) for i in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(names=list(classes))})
    return Dataset.from_dict({"image": pixels, "label": [i % 2 for i in range(count)]}, features=features)


def identity(config=CONFIG, model=None, **options):
    return resume.identity(config, prepare(images(**options)), model or nn.Linear(2, 2))


def begun(tmp_path, recorded):
    """A run's folder with a last and a previous checkpoint."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir(exist_ok=True)
    for path in (folder.last_checkpoint, folder.previous_checkpoint):
        content = {"global_step": 3, "state_dict": {}, "optimizer_states": [], "loops": {}}
        AtomicCheckpointIO().save_checkpoint(content | {"callbacks": {"Checkpoints": {"identity": recorded}}}, path)
    return folder


def test_the_same_run_goes_on_also_on_other_hardware(tmp_path):
    folder = begun(tmp_path, identity())
    changed = {
        "devices": "3",
        "workers": 5,
        "precision": "32",
        "accelerator": "cpu",
        "save_every": 7,
        "strategy": "ddp",
        "device_batch_size": 8,
        "grad_checkpointing": True,
    }
    assert resume.checkpoint(folder, identity(dataclasses.replace(CONFIG, **changed))) == folder.last_checkpoint
    assert resume.checkpoint(RunFolder(tmp_path / "none"), identity()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("cat", "wolf")}, r"classes that are not there now: dog; classes other than wolf"),
        ({"classes": ("dog", "cat")}, r"classes in another order: cat, dog, not dog, cat"),
        ({"shade": 1}, r"other images or labels in its test split; other images or labels in its train split"),
        ({"count": 80}, r"test split 6 images, not 8 images; train split 48 images, not 64 images"),
        ({"model": nn.Linear(2, 3)}, r"other shapes of the model's weights"),
        ({"config": dataclasses.replace(CONFIG, seed=1)}, r"--seed 0, not 1"),
        ({"config": dataclasses.replace(CONFIG, epochs=11)}, r"--epochs 40, not 11"),
        ({"config": dataclasses.replace(CONFIG, batch_size=64)}, r"--batch-size 32, not 64"),
        ({"config": dataclasses.replace(CONFIG, layer_decay=0.7)}, r"--layer-decay None, not 0.7"),
        (
            {"config": dataclasses.replace(CONFIG, clip_grad=1.0, ema=0.9)},
            r"--clip-grad None, not 1.0; --ema None, not",
        ),
        ({"config": dataclasses.replace(CONFIG, optimizer="sgd", lr=1.0)}, r"--optimizer adamw, not sgd; --lr 0.0005,"),
    ],
    ids=str,
)
def test_another_run_is_refused_with_the_difference(tmp_path, change, message):
    folder = begun(tmp_path, identity())
    with pytest.raises(ResumeError, match=rf"was begun with {message}.*: give what it was begun with, or start anoth"):
        resume.checkpoint(folder, identity(**change))


def test_a_models_folder_is_the_same_by_another_path(tmp_path, monkeypatch):
    """The run was begun with `local-dir:tiny`; its config.yaml, which --resume reads, has the absolute path."""
    monkeypatch.chdir(tmp_path)
    folder = begun(tmp_path, identity(dataclasses.replace(CONFIG, model="local-dir:tiny")))
    same = identity(dataclasses.replace(CONFIG, model=f"local-dir:{tmp_path / 'tiny'}"))
    assert resume.checkpoint(folder, same) == folder.last_checkpoint
    with pytest.raises(ResumeError, match="was begun with --model local-dir:tiny, not local-dir:other"):
        resume.checkpoint(folder, identity(dataclasses.replace(CONFIG, model="local-dir:other")))


def test_a_torn_checkpoint_falls_back_and_two_are_an_error(tmp_path, caplog):
    folder = begun(tmp_path, identity())
    folder.last_checkpoint.write_bytes(folder.last_checkpoint.read_bytes()[:100])
    with caplog.at_level("WARNING", "finetune"):
        assert resume.checkpoint(folder, identity()) == folder.previous_checkpoint
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.endswith("going on from previous.ckpt, the one before") for message in warned] == [True]
    folder.previous_checkpoint.unlink()
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged .*; previous.ckpt is missing; start again with"):
        resume.checkpoint(folder, identity())


# --- position --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_an_epoch_goes_on_with_the_images_that_are_left(world, start):
    """On every number of processes the images of a step are those of the whole epoch on one."""
    whole = TrainBatches(100, 16, seed=5)
    whole.set_epoch(3)
    expected = [sorted(batch) for batch in whole][start:]
    parts = [TrainBatches(100, 16, 5, rank, world, epoch=3, start=start) for rank in range(world)]
    for part in parts:
        part.set_epoch(3)  # as Lightning does
    assert [sorted(item for share in step for item in share) for step in zip(*parts, strict=True)] == expected
    assert {len(part) for part in parts} == {7}  # Lightning plans with whole epochs
    parts[0].set_epoch(4)
    assert len(list(parts[0])) == 7


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_starts_where_the_checkpoint_says_without_reading_the_rest(workers):
    module = ImageDataModule(prepare(images()), image_size=8, batch_size=8, workers=workers)
    module.load_state_dict({"epoch": 2, "step": 3})
    resumed = module.train_dataloader()
    reference = ImageDataModule(prepare(images()), image_size=8, batch_size=8, workers=0).train_dataloader()
    reference.sampler.set_epoch(2)
    got = list(resumed)
    assert len(got) == 3
    for (pixels, targets), (expected, labels) in zip(got, list(reference)[3:], strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(targets, labels)


# --- per-step state --------------------------------------------------------------------------------------------------


def test_random_numbers_of_a_step_are_its_own():
    cpu = torch.device("cpu")

    def draw(*entropy):
        with seeded(cpu, *entropy):
            return torch.rand(3).tolist()

    torch.manual_seed(7)
    undisturbed = torch.rand(4).tolist()
    torch.manual_seed(7)
    first = torch.rand(2).tolist()
    drawn = {str(draw(0, epoch, batch, rank)) for epoch in range(3) for batch in range(3) for rank in range(3)}
    assert len(drawn) == 27
    assert draw(0, 1, 2, 0) == draw(0, 1, 2, 0)
    assert first + torch.rand(2).tolist() == undisturbed


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start"])
def test_drop_block_has_its_rate_also_where_lightning_does_not_start_the_epoch(hook):
    module = nn.Sequential(DropBlock2d(drop_prob=0.0))
    getattr(DropBlockSchedule(0.1), hook)(SimpleNamespace(current_epoch=2, max_epochs=5), module)
    assert module[0].drop_prob == pytest.approx(0.06)


def test_rows_of_epochs_that_are_run_again_are_replaced(tmp_path):
    def trainer(epoch, loss):
        values = {name: torch.tensor(loss) for name in ("train_loss", "val_loss", "val_accuracy")}
        one = {"world_size": 1, "strategy": SimpleNamespace(root_device=torch.device("cpu"))}
        group = SimpleNamespace(param_groups=[{"lr": 0.1}])
        return SimpleNamespace(
            current_epoch=epoch, callback_metrics=values, is_global_zero=True, optimizers=[group], **one
        )

    log = EpochLog(tmp_path / "metrics.csv", 3)
    log.on_train_epoch_start(None, None)
    log.on_train_epoch_end(trainer(0, 3.0), None)
    state = log.state_dict()
    log.on_train_epoch_start(None, None)
    log.on_train_epoch_end(trainer(1, 2.0), None)  # and killed before the checkpoint
    again = EpochLog(tmp_path / "metrics.csv", 3)
    again.load_state_dict(state)
    again.on_train_epoch_start(None, None)
    again.on_train_epoch_end(trainer(1, 1.0), None)
    written = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [(row["epoch"], row["train_loss"]) for row in written] == [("1", "3.0"), ("2", "1.0")]


def test_by_default_a_checkpoint_is_due_after_a_quarter_of_an_hour(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("finetune.training.callbacks.checkpoints.time.monotonic", lambda: now[0])
    trainer = SimpleNamespace(global_step=6, is_global_zero=True)
    by_clock, by_steps = Checkpoints(tmp_path, StopOnSignal()), Checkpoints(tmp_path, StopOnSignal(), save_every=3)
    for callback in (by_clock, by_steps):
        callback.on_train_start(trainer, None)
    now[0] += 899
    assert (by_clock._due(trainer), by_steps._due(trainer)) == (False, True)
    now[0], trainer.global_step = now[0] + 1, 7
    assert (by_clock._due(trainer), by_steps._due(trainer)) == (True, False)


# --- --resume auto ---------------------------------------------------------------------------------------------------


def test_auto_takes_the_newest_unfinished_run_of_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_RUN_FOLDER", raising=False)

    def run(name, age, complete=False, **options):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.path.mkdir(parents=True)
        config = dataclasses.replace(CONFIG, **{"image_size": 224, "interpolation": "bilinear", **options})
        runfolder.write_text(folder.config, runfolder.yaml.safe_dump(runfolder.settings_of(config)))
        os.utime(folder.config, (age, age))
        if complete:
            shutil.copy(ROOT / "tests/fixtures/interrupted/finished/result.json", folder.result)
        return folder

    auto = dataclasses.replace(CONFIG, resume=Path("auto"))
    assert choose(auto).begun is False  # nothing there: a new one
    run("old", 100)
    newest = run("newest", 200, devices="2", workers=3)
    run("complete", 300, complete=True)
    run("other-seed", 400, seed=1)
    run("other-lr", 500, lr=1.0)
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/config.yaml").write_text(": : :")
    assert choose(auto) == newest
    named = dataclasses.replace(auto, output=tmp_path / "runs/complete")
    assert choose(named).complete
    assert choose(dataclasses.replace(auto, output=Path("new"))).path == tmp_path / "new"
