"""RunResult and result.json say the same."""

import dataclasses
import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from finetune import RunResult
from finetune.commands.report import table
from finetune.errors import RunFolderError
from finetune.evaluation.metrics import SCORES
from finetune.tasks.classification.task import CLASSIFICATION

KEYS = [
    "schema_version",
    "task",
    "model",
    "dataset",
    "metrics",
    "training",
    "seed",
    "evaluation",
    "command",
    "environment",
]

COUNTS = {"train": 8, "validation": 1, "test": 1}


def example(**changes):
    values = {
        "task": "image-classification",
        "model": {"name": "resnest14d", "architecture": "resnest14d", "pretrained_tag": None, "parameters": 8_583_178},
        "dataset": {"id": "größe", "classes": ["a|b", "日本", '"'], "splits": {"train": 8, "validation": 1, "test": 1}},
        "metrics": {
            "validation": {"accuracy": 1 / 3, "loss": 1.2551899070900614},
            "test": {"accuracy": 0.1 + 0.2, "loss": 5e-324},
        },
        "training": {"epochs": 3, "best_epoch": None, "seconds": 10.219},
        "seed": 2**32 - 1,
    }
    return RunResult(**values | changes)


def test_what_is_saved_is_loaded(tmp_path):
    result = example()
    result.save(tmp_path / "result.json")
    assert RunResult.load(tmp_path / "result.json") == dataclasses.replace(result, folder=tmp_path)
    again = tmp_path / "again.json"
    RunResult.load(tmp_path / "result.json").save(again)
    assert again.read_bytes() == (tmp_path / "result.json").read_bytes()


def test_the_file_is_as_designed(tmp_path):
    example(folder=Path("/somewhere")).save(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert set(content) == set(KEYS)  # no folder: the file can move
    assert content["schema_version"] == 1
    assert content["metrics"]["test"]["accuracy"] == 0.1 + 0.2  # every digit
    assert "größe" in text
    assert "日本" in text
    assert text.endswith("}\n")


def test_the_environment_names_what_computed_the_numbers():
    environment = example().environment
    assert {name: version(name) for name in environment} == environment
    assert {"resnest-timm", "torch", "timm", "lightning", "datasets"} <= set(environment)


def test_a_real_run_loads(digits_run):
    content = json.loads((digits_run / "result.json").read_text())
    result = RunResult.load(digits_run / "result.json")
    assert {"schema_version": 1} | {k: v for k, v in dataclasses.asdict(result).items() if k != "folder"} == content
    assert result.folder == digits_run


def test_keys_of_a_later_version_are_passed_over(tmp_path):
    path = tmp_path / "result.json"
    example().save(path)
    content = json.loads(path.read_text()) | {"calibration": {"temperature": 1.5}}
    content["model"]["license"] = "apache-2.0"
    path.write_text(json.dumps(content))
    loaded = RunResult.load(path)
    assert loaded.model["license"] == "apache-2.0"
    assert dataclasses.replace(loaded, model=example().model, folder=None) == example()


def test_a_result_of_an_earlier_version_has_no_evaluation(tmp_path):
    path = tmp_path / "result.json"
    example().save(path)
    content = json.loads(path.read_text())
    del content["evaluation"]
    path.write_text(json.dumps(content))
    loaded = RunResult.load(path)
    assert loaded.evaluation == {}
    assert "accuracy" in table(
        dataclasses.replace(loaded, dataset=loaded.dataset | {"splits": COUNTS}), CLASSIFICATION, SCORES
    )


@pytest.mark.parametrize("found", [0, 2, "1", None])
def test_another_schema_version_is_refused(tmp_path, found):
    path = tmp_path / "result.json"
    example().save(path)
    content = json.loads(path.read_text()) | {"schema_version": found}
    if found is None:
        del content["schema_version"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        RunFolderError, match=r"result.json is not of schema version 1: read it with the version that w"
    ):
        RunResult.load(path)


def test_a_run_without_a_result_is_not_complete(tmp_path):
    with pytest.raises(RunFolderError, match=rf"{tmp_path} holds no complete run: no result.json"):
        RunResult.load(tmp_path / "result.json")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    example(seed=1).save(path)
    before = path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError, match="not JSON serializable"):
        example(seed=object()).save(path)
    assert list(tmp_path.iterdir()) == [path]

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        example(seed=2).save(path)
    assert path.read_bytes() == before
