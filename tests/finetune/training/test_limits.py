"""Trainings that end early, and what an epoch cost: the decision, the clock, the waiting for data, a real run."""

import csv
import json
import math
import shutil
import time
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from finetune import RunConfig, run
from finetune.loading import sampler
from finetune.settings import durations
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.limits import Limits
from finetune.training.callbacks.signals import StopOnSignal
from finetune.training.data_wait import DataWait, short_side, suggestion

# --- durations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("1h30m", 5400),
        ("2d12h", 216000),
        ("1d1h1m1s", 90061),
        ("00:01:30:00", 5400),
        ("1:02:03:04", 93784),
    ],
)
def test_durations(text, seconds):
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "1.5h", "30m1h", "01:30:00", "0s", "00:00:00:00", "-1h", "1h 30m"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a duration such as 1h30m, 45m, 90s or 00:01:30:00 .*, got"):
        durations.seconds(text)
    with pytest.raises(ValueError, match=r"^--max-time: expected a duration such as 1h30m"):
        RunConfig(model="resnest14d", dataset="digits", max_time=text).resolved()


# --- the decision ----------------------------------------------------------------------------------------------------


def epochs_until_stopped(folder, results, limits, max_epochs=9):
    """Number of epochs that (accuracy, loss) of each lead to, and why it ended there."""
    checkpoints = Checkpoints(folder, StopOnSignal(), limits=limits)
    checkpoints._save_last = lambda *args: None
    trainer = SimpleNamespace(world_size=1, max_epochs=max_epochs, should_stop=False)
    for epoch, (accuracy, loss) in enumerate(results):
        trainer.current_epoch = epoch
        trainer.callback_metrics = {"val_accuracy": torch.tensor(accuracy), "val_loss": torch.tensor(loss)}
        checkpoints.on_train_epoch_end(trainer, None)
        if trainer.should_stop:
            return epoch + 1, limits.stopped_by
    return len(results), limits.stopped_by


def test_patience_counts_from_the_best_epoch_ties_by_loss(tmp_path):
    better, tie, worse = (0.9, 1.0), (0.9, 0.5), (0.8, 0.1)
    for results, expected in [
        ([better, worse, worse, worse], (3, "patience")),
        ([better, worse, tie, worse, worse], (5, "patience")),  # the tie with the lower loss is a better one
        ([better, tie, tie, tie], (4, "patience")),  # an equal one is not
        ([better, worse, tie, worse], (4, None)),
    ]:
        assert epochs_until_stopped(tmp_path, results, Limits(patience=2)) == expected
    assert epochs_until_stopped(tmp_path, [better] * 5, Limits()) == (5, None)


def test_the_planned_end_is_no_early_one(tmp_path):
    assert epochs_until_stopped(tmp_path, [(0.9, 1.0)] * 3, Limits(patience=2), max_epochs=3) == (3, None)
    assert epochs_until_stopped(tmp_path, [(0.9, 1.0)] * 3, Limits(seconds=0), max_epochs=3) == (1, "max-time")
    assert epochs_until_stopped(tmp_path, [(0.9, 1.0)], Limits(seconds=0), max_epochs=1) == (1, None)
    within = Limits(patience=1)
    within.stopped_by = "max-time"  # in a step of the second epoch, which is no better
    assert epochs_until_stopped(tmp_path, [(0.9, 1.0)] * 2, within) == (2, "max-time")


def test_the_clock_counts_what_went_before_a_resume_and_stops_after_an_optimizer_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("finetune.training.callbacks.limits.time", SimpleNamespace(monotonic=lambda: now[0]))
    first = Limits(seconds=60)
    first.on_train_start(None, None)
    now[0] += 40
    state = first.state_dict()
    now[0] += 1000  # until it is resumed
    limits = Limits(seconds=60)
    limits.load_state_dict(state)
    trainer = SimpleNamespace(world_size=1, is_last_batch=False, should_stop=False, accumulate_grad_batches=2)
    limits.on_fit_start(trainer, None)
    limits.on_train_start(trainer, None)
    for seconds, batch, last, stopped in [
        (19, 1, False, False),
        (1, 2, False, False),  # within a step
        (0, 3, True, False),  # decided after the validation
        (0, 3, False, True),
    ]:
        now[0] += seconds
        trainer.is_last_batch = last
        limits.on_train_batch_end(trainer, None, None, None, batch)
        assert trainer.should_stop == stopped
    again = Limits(seconds=9999)
    again.load_state_dict(limits.state_dict())
    trainer.should_stop = False
    again.on_fit_start(trainer, None)
    assert (trainer.should_stop, again.stopped_by) == (True, "max-time")


# --- waiting for data ------------------------------------------------------------------------------------------------


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        time.sleep(0.1)
        return torch.ones(2)


class SlowModule(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_index):
        time.sleep(0.3)
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_only_the_time_until_the_next_batch_is_waiting(tmp_path):
    wait = DataWait()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, profiler=wait, enable_model_summary=False, default_root_dir=tmp_path, **options)
    trainer.fit(SlowModule(), DataLoader(Slow()))
    assert 0.5 <= wait.seconds < 1.4  # five batches; the steps took 1.5 s


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        ({"share": 0.15}, None),
        ({"workers": 0}, r"^40% of .* waiting for images, with 0 decoding processes on 8 cores .*: try --workers 2$"),
        ({"workers": 1}, r"with 1 decoding process on 8 cores per device: try --workers 2$"),
        ({"workers": 5}, r"try --workers 8$"),
        ({"side": 900}, r"images are 900 px on their shorter side, the model sees 224 px: store them at about 448 px$"),
        ({"policy": True}, r"try it without --auto-augment"),
        ({}, r"all 8 cores in use: take a machine with more cores per device$"),
    ],
)
def test_what_is_suggested_follows_from_what_was_measured(facts, advice):
    measured = {"share": 0.4, "workers": 8, "cores": 8, "side": 300, "image_size": 224, "policy": False} | facts
    line = suggestion(**measured)
    if advice is None:
        assert line is None
    else:
        with pytest.raises(AssertionError, match=advice):
            raise AssertionError(line)


def images(counts):
    """Noisy grey squares, darker or brighter by class; 40 x 24 pixels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = [PILImage.fromarray(rng.integers(60 * i, 60 * i + 80, (24, 40, 3), dtype=np.uint8)) for i in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=[f"class {i}" for i in range(len(counts))])})
    return Dataset.from_dict({"image": pixels, "label": labels}, features=features)


def test_sizes_come_from_the_headers_of_a_few_images():
    encoded = images([30, 10]).cast_column("image", Image(decode=False))
    assert short_side([row["image"] for row in encoded]) == 24


# --- real runs -------------------------------------------------------------------------------------------------------

OPTIONS = {"model": "resnest14d", "pretrained": False, "image_size": 32, "accelerator": "cpu", "workers": 0}
COUNTS = {"train": [96, 16, 48], "validation": [12, 2, 6], "test": [12, 2, 6]}
STEPS = 10  # an epoch: 160 images in batches of 16


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_time_that_is_over_within_an_epoch_ends_the_run_in_good_order(tmp_path, monkeypatch, caplog):
    """In the third step of the second epoch of a run on balanced classes; killed while it exports, and resumed."""
    folder, steps = tmp_path / "run", []
    monkeypatch.setattr(Limits, "_late", lambda self, trainer: steps.append(0) or trainer.global_step >= STEPS + 3)
    epochs, original = set(), sampler.balanced
    monkeypatch.setattr(sampler, "balanced", lambda *args: epochs.add(args[2]) or original(*args))
    config = {**OPTIONS, "dataset": images([120, 20, 60]), "epochs": 5, "batch_size": 16, "max_time": "1h"}
    config |= {"imbalance": "balanced-sampler"}
    with caplog.at_level("INFO", "finetune"):
        result = run(RunConfig(output=folder, **config))
    training = result.training
    assert (training["epochs"], training["planned_epochs"], training["partial_epoch"]) == (2, 5, 0.3)
    assert training["stopped_by"] == "max-time"
    assert training["best_epoch"] in (1, 2)
    rows = metrics(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        values = {name: float(value) for name, value in row.items()}
        assert all(math.isfinite(value) and value >= 0 for value in values.values())
        assert 0 < values["data_wait"] < 1
        assert 100 < values["memory_mb"] < 20000
    speeds = [float(row["images_per_second"]) for row in rows]
    waits = [float(row["data_wait"]) for row in rows]
    trained = [images / speed for images, speed in zip([160, 48], speeds, strict=True)]
    assert trained[0] < 0.995 * float(rows[0]["seconds"])  # without validation
    assert rows[0]["train_loss"] != rows[1]["train_loss"]  # of the steps that there were
    assert training["images_per_second"] == pytest.approx(208 / sum(trained), abs=0.01)
    assert training["data_wait"] == pytest.approx(np.average(waits, weights=trained), abs=1e-5)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == (STEPS if training["best_epoch"] == 1 else STEPS + 3)

    assert epochs == {0, 1}
    assert result.dataset["class_counts"] == COUNTS
    assert result.dataset["imbalance_ratio"] == 6
    said = caplog.messages
    assert "class ratio 6:1 (96 training images of class 0, 16 of class 1); --imbalance balanced-sampler" in said
    assert [line for line in said if line.startswith("stopped by --max-time 1h after 1.3 of 5 epochs: the learning")]
    assert [line for line in said if line.startswith("epoch 2/5: train loss ") and line.endswith("waiting for data")]
    assert result.metrics["test"] == json.loads((folder / "result.json").read_text())["metrics"]["test"]

    before = (folder / "model/model.safetensors").read_bytes()
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "model")
    steps.clear()
    again = run(RunConfig(resume=folder, **config))
    assert steps == []  # no further one
    assert metrics(folder) == rows
    assert (folder / "model/model.safetensors").read_bytes() == before
    assert again.training == training
    assert again.metrics == result.metrics


def test_a_training_that_has_stopped_improving_ends(cli, tmp_path):
    folder = tmp_path / "run"
    arguments = "--model resnest14d --dataset digits --no-pretrained --image-size 32 --accelerator cpu --workers 0"
    arguments += " --max-samples 60 --epochs 40 --lr 1e-9 --warmup-epochs 0 --patience 1 --imbalance class-weights"
    done = cli("finetune", *arguments.split(), "--output", folder)
    assert done.returncode == 0, done.stderr
    training = json.loads((folder / "result.json").read_text())["training"]
    rows = metrics(folder)
    assert training["stopped_by"] == "patience"
    assert training["epochs"] == len(rows) == training["best_epoch"] + 1 < 40
    ranks = [(float(row["val_accuracy"]), -float(row["val_loss"])) for row in rows]
    assert ranks[:-1] == sorted(ranks[:-1])
    assert ranks[-1] <= ranks[-2]
    assert f"stopped by --patience 1 after {len(rows)} of 40 epochs: none was better than epoch" in done.stdout
