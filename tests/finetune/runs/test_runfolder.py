"""The run folder: its name, what refuses it, and what is written before training."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict

from finetune import RunConfig
from finetune.cli import parse_train
from finetune.data.splits import SplitRows, Splits
from finetune.errors import RunFolderError
from finetune.runs import claim, runfolder
from finetune.runs.runfolder import RunFolder, choose, settings_of, write_text
from finetune.settings.presets import PRETRAINED_PRESET
from tests.finetune.runs import test_result as result

SPLITS = Splits(
    {
        "train": SplitRows("train", np.arange(8), np.zeros(8, dtype=np.int64), whole=True),
        "validation": SplitRows("dev", np.array([0, 2]), np.zeros(2, dtype=np.int64)),
        "test": SplitRows("test", np.array([5]), np.zeros(1, dtype=np.int64)),
    }
)


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    """Relative paths start in a folder of our own, and no name is handed on to other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_RUN_FOLDER", "")
    monkeypatch.delenv("FINETUNE_RUN_FOLDER")
    yield
    for folder in list(claim._HELD):
        claim.release(folder)


def config_of(**options):
    return RunConfig(**{"model": "resnest14d", "dataset": "digits"} | options).resolved()


def created(config):
    """The folder of a run that has begun."""
    folder = choose(config)
    folder.create(config, SPLITS)
    return folder


# --- choose ----------------------------------------------------------------------------------------------------------


def test_a_given_folder_is_taken_whether_it_exists_or_not(tmp_path):
    assert choose(config_of(output=Path("new/deep"))).path == tmp_path / "new" / "deep"
    (tmp_path / "empty").mkdir()
    assert choose(config_of(output=tmp_path / "empty")).path == tmp_path / "empty"
    assert (tmp_path / "new" / "deep").is_dir()  # it is tried before the data are read
    claim.release(tmp_path / "new" / "deep")
    claim.release(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]  # and nothing is left of a run that did not begin


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_that_holds_a_run_is_refused_with_both_ways_out(tmp_path, finished):
    folder = created(config_of(output=Path("run")))
    if finished:
        folder.result.write_text("{}")
    with pytest.raises(
        RunFolderError, match=rf"{tmp_path}/run already holds a run: give another --output, or .*--resume"
    ):
        choose(config_of(output=Path("run")))


def test_a_file_and_a_folder_with_other_files_are_refused(tmp_path):
    (tmp_path / "file").write_text("content")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("content")
    for name in ("file", "full"):
        with pytest.raises(RunFolderError, match=rf"{tmp_path}/{name} is not an empty folder: give another --output"):
            choose(config_of(output=Path(name)))
    assert (tmp_path / "full" / "notes.txt").read_text() == "content"


@pytest.mark.parametrize("dataset", ["digits", "ethz/food101", Path("pets")])
def test_a_folder_of_the_datasets_own_name_is_refused(dataset):
    """Later the name would mean the folder: to `--resume`, to `evaluate` and to `--config RUN/config.yaml`."""
    with pytest.raises(RunFolderError, match=f"--output {dataset} is what --dataset names too: give another --output"):
        choose(config_of(dataset=dataset, output=Path(dataset)))


def test_a_stopped_run_is_resumed_where_it_is(tmp_path):
    folder = created(config_of(output=Path("run")))
    assert choose(config_of(resume=Path("run"))) == folder
    assert folder.path == tmp_path / "run"


def test_nothing_and_a_complete_run_cannot_be_resumed(tmp_path):
    with pytest.raises(RunFolderError, match=rf"--resume: {tmp_path}/nowhere holds no run \(no config.yaml\)"):
        choose(config_of(resume=Path("nowhere")))
    folder = created(config_of(output=Path("run")))
    result.example().save(folder.result)  # without lock.json: of an earlier version
    with pytest.raises(RunFolderError, match=rf"--resume: the run in {tmp_path}/run is complete; see its result.json"):
        choose(config_of(resume=Path("run")))


@pytest.mark.parametrize(
    ("dataset", "model", "stem"),
    [
        ("digits", "resnest14d", "digits-resnest14d"),
        ("ethz/food101", "resnest50d.in1k", "food101-resnest50d.in1k"),
        ("ethz/food101:default@v1.0", "resnest50", "food101_default_v1.0-resnest50"),
        ("/data/my pets/", "hf-hub:timm/resnest50d.in1k", "my_pets-resnest50d.in1k"),
        ("pets.parquet", "local-dir:/models/mine/", "pets.parquet-mine"),
        ("../pets & co", "a/b/c", "pets_co-c"),
        (Path("some/pets"), "resnest50", "pets-resnest50"),
        (Dataset.from_dict({"a": [1]}), "resnest50", "memory-resnest50"),
        (DatasetDict(), "resnest50", "memory-resnest50"),
    ],
    ids=str,
)
def test_the_default_name_tells_dataset_model_and_time(tmp_path, dataset, model, stem):
    path = choose(config_of(dataset=dataset, model=model)).path
    assert path.parent == tmp_path / "runs"
    assert re.fullmatch(rf"{re.escape(stem)}-\d{{8}}-\d{{6}}", path.name)
    claim.release(path)
    assert not path.parent.exists()


@pytest.mark.parametrize(("dataset", "name"), [(".", "pets"), ("..", "animals"), ("../pets/./", "pets"), ("~", "home")])
def test_the_default_name_of_a_folder_is_its_own(tmp_path, monkeypatch, dataset, name):
    (tmp_path / "animals" / "pets").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "animals" / "pets")
    assert choose(config_of(dataset=dataset)).path.name.startswith(f"{name}-resnest14d-2")


def test_runs_of_the_same_second_get_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runfolder.time, "strftime", lambda form: "20250102-030405")
    names = []
    for _ in range(3):
        names.append(created(config_of()).path.name)
    stem = "digits-resnest14d-20250102-030405"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_other_processes_learn_the_folder_from_the_first(tmp_path, monkeypatch):
    folder = created(config_of())
    monkeypatch.setenv("LOCAL_RANK", "1")
    with folder.announced():
        assert choose(config_of()) == folder
    assert "FINETUNE_RUN_FOLDER" not in os.environ  # which a later run's processes would believe
    assert choose(config_of(output=folder.path)) == folder  # which exists by now


def test_processes_that_start_at_once_need_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunFolderError, match="name the run folder by --output: this process was started neither"):
        choose(config_of())
    assert choose(config_of(output=tmp_path / "run")).path == tmp_path / "run"
    assert choose(config_of(resume=tmp_path / "run")).path == tmp_path / "run"
    RunFolder(tmp_path / "run").create(config_of(), SPLITS)
    assert not (tmp_path / "run").exists()  # the first process writes


# --- what is written -------------------------------------------------------------------------------------------------


def test_paths_are_those_of_the_design(tmp_path):
    folder = RunFolder(tmp_path)
    names = ("config", "result", "splits", "metrics", "checkpoints", "best_checkpoint", "last_checkpoint", "model")
    assert [str(getattr(folder, name).relative_to(tmp_path)) for name in names] == [
        "config.yaml",
        "result.json",
        "splits.json",
        "metrics.csv",
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model",
    ]


def test_splits_name_every_row_that_is_not_the_whole(tmp_path):
    folder = created(config_of(output=Path("run")))
    assert json.loads(folder.splits.read_text()) == {
        "train": {"source": "train", "rows": "all"},
        "validation": {"source": "dev", "rows": [0, 2]},
        "test": {"source": "test", "rows": [5]},
    }
    assert folder.checkpoints.is_dir()
    claim.release(folder.path)
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "config.yaml", "splits.json"]


AWKWARD = [
    "None",
    "null",
    "true",
    "no",
    "123",
    "1e3",
    "0x10",
    "~",
    "",
    " a b ",
    "--lr",
    "-1",
    "a=b",
    "a: b",
    "# a",
    "größe",
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pretrained": False},
        {"pretrained": False, "epochs": 3, "lr": 1e-5, "weight_decay": 0.0, "hflip": 0.0, "workers": 0},
        {"compile": True, "devices": "0,3", "precision": "32", "image_size": 64, "seed": 7, "num_nodes": 2},
        {"devices": "-1", "drop_path": 0.1, "max_samples": 100, "val_fraction": 0.25, "warmup_epochs": 0.5},
        {"dataset": "ethz/food101:default@main", "dataset_config": "default", "revision": "12345678"},
        {"revision": "1234e567"},
        {"train_split": "a", "val_split": "b", "test_split": "c", "image_column": "i", "target_column": "t"},
        {"model": "hf-hub:timm/resnest14d.gluon_in1k"},
        *[{"image_column": text} for text in AWKWARD],
    ],
    ids=str,
)
def test_the_written_settings_repeat_the_run(options):
    """`--config RUN/config.yaml` gives the same config, from anywhere."""
    config = config_of(output=Path("run"), **options)
    folder = created(config)
    repeated = parse_train(["--config", str(folder.config)])
    assert repeated == dataclasses.replace(config, output=None)
    assert parse_train(["--config", str(folder.config), "--output", "again"]).output == Path("again")


def test_every_flag_is_written_but_where_it_goes():
    written = yaml.safe_load(created(config_of(output=Path("run"))).config.read_text())
    assert set(written) == {f.name for f in dataclasses.fields(RunConfig)} - {"output", "resume", "publish", "private"}
    assert next(iter(written)) == "dataset"  # in the order of the help
    assert written["epochs"] == PRETRAINED_PRESET["epochs"]  # as resolved


def test_a_resumed_run_writes_the_same_settings():
    folder = created(config_of(output=Path("run")))
    before = folder.config.read_text()
    config = parse_train(["--resume", "run"])
    choose(config).create(config, SPLITS)
    assert folder.config.read_text() == before


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_written_so_that_they_hold_from_anywhere(tmp_path, monkeypatch, kind):
    (tmp_path / "pets").mkdir()
    (tmp_path / "models" / "mine").mkdir(parents=True)
    config = config_of(dataset=kind("pets"), model="local-dir:models/mine", output=Path("run"))
    written = yaml.safe_load(created(config).config.read_text())
    assert written["dataset"] == str(tmp_path / "pets")
    assert written["model"] == f"local-dir:{tmp_path / 'models' / 'mine'}"
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of(dataset="~/pets", output=Path("home"))
    assert yaml.safe_load(created(config).config.read_text())["dataset"] == str(tmp_path / "pets")


def test_names_that_are_no_paths_stay():
    for dataset in ("digits", "food101", "ethz/food101"):
        config = config_of(dataset=dataset, output=Path("run of", dataset))
        assert yaml.safe_load(created(config).config.read_text())["dataset"] == dataset


@pytest.mark.parametrize("dataset", [Dataset.from_dict({"a": [1]}), DatasetDict()], ids=["Dataset", "DatasetDict"])
def test_a_dataset_in_memory_is_not_written(dataset):
    config = config_of(dataset=dataset, output=Path("run"))
    assert yaml.safe_load(created(config).config.read_text())["dataset"] is None


# --- write_text ------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.json"
    for text in ("first", "größer\n日本", ""):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file.json"
    write_text(path, "old")

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    if step == "write":
        monkeypatch.setattr(Path, "write_text", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"


def test_the_sample_stays_the_sample_where_a_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert settings_of(RunConfig(model="resnest14d", dataset="digits"))["dataset"] == "digits"
    assert settings_of(RunConfig(model="resnest14d", dataset="./digits"))["dataset"] == str(tmp_path / "digits")
