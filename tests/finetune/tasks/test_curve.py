"""`--curve` for every task that trains: scores of resamples are the task's own, and the run has its curve."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from finetune import RunConfig, run
from finetune.commands import write_up
from finetune.evaluation import saved
from finetune.tasks import registry
from tests.finetune.tasks.detection import drawn as objects
from tests.finetune.tasks.multi_label import colours
from tests.finetune.tasks.regression.conftest import squares
from tests.finetune.tasks.segmentation import drawn as masks

SETTINGS = {"pretrained": False, "accelerator": "cpu", "devices": "1", "workers": 0, "epochs": 1, "precision": "32"}
SETTINGS |= {"batch_size": 8, "robustness": False, "curve": True}
COUNTS = {"train": 72, "validation": 8, "test": 12}


def of_masks(count, seed):
    return masks.in_memory(masks.scenes(count, seed=seed), names=masks.NAMES[3])


def of_objects(count, seed):
    pictures = [one for part in range(-(-count // 14)) for one in objects.pictures("train", 10 * seed + part)][:count]
    found = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=list(objects.NAMES)))}
    rows = {
        "image": [one.image for one in pictures],
        "objects": [{"bbox": one.xywh(), "category": one.labels} for one in pictures],
    }
    return Dataset.from_dict(rows, features=Features({"image": Image(), "objects": found}))


TASKS = {
    "image-regression": (squares, {"model": "test_efficientnet", "image_size": 32}),
    "multi-label-classification": (colours.rows, {"model": "test_efficientnet", "image_size": 32}),
    "semantic-segmentation": (of_masks, {"model": "resnest14d", "image_size": 64, "task": "semantic-segmentation"}),
    "object-detection": (
        of_objects,
        {"model": "resnest14d", "image_size": 64, "detector": "fcos", "box_format": "xywh", "task": "object-detection"},
    ),
}


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_curve_of_its_first_score(name, tmp_path, monkeypatch):
    monkeypatch.setattr(write_up, "finish", lambda finished, *_: finished.result)  # figures and card are others' test
    rows, options = TASKS[name]
    data = DatasetDict({role: rows(count, seed) for seed, (role, count) in enumerate(COUNTS.items())})
    result = run(RunConfig(dataset=data, output=tmp_path / "run", **SETTINGS | options))
    assert result.task == name
    task, curve = registry.get(name), result.evaluation["curve"]
    first = task.scores[0]
    assert [curve["score"], curve["higher"]] == [first.title, first.higher]
    assert [point["percent"] for point in curve["points"]] == [25, 50, 100]
    assert curve["points"][-1]["score"] == result.metrics["test"][first.key]
    assert all(point["interval"][0] <= point["interval"][1] for point in curve["points"])
    test = saved.load(tmp_path / "run/predictions.safetensors", task.collector().kind)["test"]
    images = result.dataset["splits"]["test"]
    weights = np.vstack([np.ones(images, dtype=np.int64), np.full(images, 2)])
    found = task.resampler(test)(weights)
    np.testing.assert_allclose(found, result.metrics["test"][first.key], atol=1e-6)
