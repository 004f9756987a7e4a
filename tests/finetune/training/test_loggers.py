"""Runs that are recorded in TensorBoard, Trackio, Weights & Biases and MLflow, killed, and go on there."""

import csv
import importlib.util
import json
import os
import sys
import threading

import pytest
import yaml
from huggingface_hub import constants

from finetune import RunConfig, run
from finetune.errors import ConfigError
from finetune.training import loggers
from finetune.training.callbacks.step_log import StepLog
from finetune.training.trackio import TrackioLogger

EPOCHS, STEPS, KILLED_IN = 2, 5, 8  # 80 images in batches of 16; saved after steps 5 and 7
CONFIG = {"model": "resnest14d", "dataset": "digits", "pretrained": False, "image_size": 32, "accelerator": "cpu"}
CONFIG |= {"workers": 0, "max_samples": 100, "epochs": EPOCHS, "batch_size": 16, "save_every": 7}
PER_EPOCH = {"train_loss", "val_loss", "val_accuracy", "seconds", "images_per_second", "memory_mb", "data_wait"}
ALL_STEPS = list(range(1, EPOCHS * STEPS + 1))


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """A run that is killed after a step that is not saved, every step logged; returns its folder."""

    def begin(name):
        monkeypatch.chdir(tmp_path)  # nothing may be written here
        original = StepLog.on_train_batch_end

        def killed(self, trainer, *args):
            original(self, trainer, *args)
            if trainer.global_step == KILLED_IN:
                raise RuntimeError("killed")

        monkeypatch.setattr(StepLog.__init__, "__defaults__", (1,))
        monkeypatch.setattr(StepLog, "on_train_batch_end", killed)
        folder = tmp_path / "elsewhere" / "run"
        with pytest.raises(RuntimeError, match="killed"):
            run(RunConfig(logger=name, output=folder, **CONFIG))
        monkeypatch.setattr(StepLog, "on_train_batch_end", original)
        assert (folder / "checkpoints/last.ckpt").exists()
        return folder

    return begin


def go_on(folder, name):
    result = run(RunConfig(logger=name, resume=folder, **CONFIG))
    assert [path.name for path in folder.parent.parent.iterdir()] == ["elsewhere"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return result, rows


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_logger_that_is_not_installed_is_said_at_once_with_its_extra(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(
        ConfigError, match=rf"--logger {name}: {name}.* not found; pip install 'resnest-timm\[{name}\]'"
    ):
        run(RunConfig(model="resnest14d", dataset="digits", logger=name))
    loggers.check("none")


def test_tensorboard_has_everything_and_goes_on_after_a_kill(begin):
    pytest.importorskip("tensorboard")
    folder = begin("tensorboard")
    result, rows = go_on(folder, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    steps = [event.step for event in events.Scalars("train_loss_step")]
    assert steps == ALL_STEPS  # what came after the last checkpoint is there once
    assert list(found["lr"]) == ALL_STEPS
    assert found["lr"][STEPS] == pytest.approx(float(rows[0]["lr"]), rel=1e-6)
    losses = list(found["train_loss_step"].values())  # batches of 16 alike, so the epoch's loss is their mean
    for epoch, row in enumerate(rows):
        assert sum(losses[epoch * STEPS : (epoch + 1) * STEPS]) / STEPS == pytest.approx(float(row["train_loss"]))
        for name in PER_EPOCH:
            assert len(found[name]) == EPOCHS
            assert list(found[name].values())[epoch] == pytest.approx(float(row[name]), rel=1e-5)
    assert list(found["result/test_accuracy"].values()) == [pytest.approx(result.metrics["test"]["accuracy"])]
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    logged = HParamsPluginData.FromString(content).session_start_info.hparams
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(logged) == set(settings)
    assert logged["lr"].number_value == settings["lr"]


@pytest.fixture
def trackio_anew(monkeypatch):
    """A process that has not imported Trackio, whose user is logged in at the Hub; nobody else's database."""
    pytest.importorskip("trackio")
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("DIR", "SPACE_ID", "SERVER_URL", "BUCKET_ID"):
        monkeypatch.delenv(f"TRACKIO_{name}", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # so that the suite's guard sees who asks


def test_trackio_has_everything_and_goes_on_in_the_same_run(trackio_anew, begin, capsys):
    folder = begin("trackio")
    result, rows = go_on(folder, "trackio")
    assert "rackio" not in capsys.readouterr().out
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    assert {path.name for path in (folder / "trackio").iterdir()} == {"finetune.db", "finetune.lock"}
    with pytest.raises(RuntimeError, match=r"Call trackio.init\(\) before"):  # else it has something to say at exit
        trackio.finish()
    assert "TRACKIO_DIR" not in os.environ
    (recorded,) = trackio.Api().runs("finetune")
    assert (recorded.name, recorded.id) == ("run", json.loads((folder / "logger.json").read_text())["trackio"])
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: value for name, value in recorded.config.items() if not name.startswith("_")} == settings
    points = SQLiteStorage.get_logs("finetune", "run", run_id=recorded.id)
    found = {name: [(row["step"], row[name]) for row in points if name in row] for row in points for name in row}
    # What came after the last checkpoint is there twice: Trackio takes nothing back.
    assert [step for step, _ in found["train_loss_step"]] == [*range(1, KILLED_IN + 1), *ALL_STEPS[KILLED_IN - 1 :]]
    losses = [value for _, value in sorted(dict(found["train_loss_step"]).items())]
    for epoch, row in enumerate(rows):
        assert sum(losses[epoch * STEPS : (epoch + 1) * STEPS]) / STEPS == pytest.approx(float(row["train_loss"]))
        for name in PER_EPOCH:
            assert len(found[name]) == EPOCHS
            assert found[name][epoch][1] == pytest.approx(float(row[name]), rel=1e-5)
    assert found["result/test_accuracy"] == [(ALL_STEPS[-1], pytest.approx(result.metrics["test"]["accuracy"]))]


def test_trackio_lies_where_its_own_variable_says_and_keeps_one_folder(trackio_anew, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "mine"))
    for folder in (tmp_path / "one", tmp_path / "two"):  # of one name: Trackio alone would go on in the first
        logger, threads = TrackioLogger("finetune", "run", folder), set(threading.enumerate())
        logger.log_hyperparams({"folder": folder.name})
        logger.log_hyperparams({"lr": 0.1})
        assert len(set(threading.enumerate()) - threads) == 1  # what writes; nothing watches the machine
        logger.log_metrics({"loss": 0.5}, 1)
        logger.finalize("success")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    import trackio

    assert [(run.config["folder"], run.config["lr"]) for run in trackio.Api().runs("finetune")] == [
        ("one", 0.1),
        ("two", 0.1),
    ]
    assert constants.HF_HUB_OFFLINE is False
    monkeypatch.delenv("TRACKIO_DIR")
    with pytest.raises(ConfigError, match=r"belongs into .*three, but in this process Trackio has .*mine"):
        TrackioLogger("finetune", "run", tmp_path / "three").log_metrics({"loss": 0.5}, 1)


# mlflow 3.17 uses a loading strategy that SQLAlchemy 2.1 deprecates; goes with mlflow's next release.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_has_everything_and_goes_on_in_the_same_run(begin, monkeypatch):
    for package in loggers.PACKAGES["mlflow"]:
        pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = begin("mlflow")
    result, rows = go_on(folder, "mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("finetune")
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.info.run_id == json.loads((folder / "logger.json").read_text())["mlflow"]
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["lr"] == str(yaml.safe_load((folder / "config.yaml").read_text())["lr"])
    history = client.get_metric_history(recorded.info.run_id, "train_loss_step")
    assert sorted({point.step for point in history}) == ALL_STEPS
    assert set(recorded.data.metrics) >= PER_EPOCH
    assert recorded.data.metrics["val_loss"] == pytest.approx(float(rows[-1]["val_loss"]), rel=1e-6)
    assert recorded.data.metrics["result/test_loss"] == pytest.approx(result.metrics["test"]["loss"])


def test_wandb_stays_offline_when_told_and_goes_on_in_the_same_run(begin, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    folder = begin("wandb")
    wandb.finish(exit_code=1)  # as the end of the process does
    result, _ = go_on(folder, "wandb")
    assert wandb.run is None
    known = json.loads((folder / "logger.json").read_text())["wandb"]
    parts = sorted(path for path in (folder / "wandb").iterdir() if path.name.startswith("offline-run-"))
    assert len(parts) == 2
    assert all(path.name.endswith(f"-{known}") for path in parts)
    last = (parts[-1] / f"run-{known}.wandb").read_bytes()
    for text in ("train_loss_step", "data_wait", "val_accuracy", "result/test_accuracy"):
        assert text.encode() in last
    assert str(result.metrics["test"]["accuracy"])[:8].encode() in last
