"""The seam between tasks, proved by one that is added from outside: all the way, and what other tasks will need."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from finetune import RunConfig
from finetune.errors import ConfigError, RunFolderError, SchemaError
from finetune.loading.datamodule import ImageRows
from finetune.settings import of_tasks
from finetune.tasks import registry

SCRIPT = Path(__file__).with_name("number.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey squares and how bright they are."""
    folder = tmp_path_factory.mktemp("data") / "bright"
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 90)
    pictures = [
        PILImage.fromarray(rng.normal(255 * value, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)) for value in values
    ]
    features = Features({"picture": Image(), "brightness": Value("float32")})
    rows = {"picture": pictures, "brightness": values.tolist()}
    Dataset.from_dict(rows, features=features).save_to_disk(folder)
    return folder


def number(*words, cwd=None):
    """`python -m finetune` of somebody who has added a task."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run_folder(data, tmp_path_factory):
    """Trained on two processes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = "--model test_efficientnet --no-pretrained --image-size 32 --epochs 3 --batch-size 16 --lr 3e-3"
    words = [*settings.split(), "--accelerator", "cpu", "--devices", 2, "--workers", 0, "--hflip", 0]
    done = number("--task", "image-brightness", "--dataset", data, "--output", folder, *words)
    assert "task: image-brightness, images in column 'picture', numbers in column 'brightness'" in done.stdout
    assert "numbers from" in done.stdout
    assert re.search(r"epoch 1/3: train loss [\d.]+, validation mean absolute error [\d.]+, ", done.stdout)
    assert re.search(r"mean absolute error +0\.\d{4} .*\nimages +9", done.stdout)
    assert "largest error" in done.stdout
    return folder


@pytest.mark.slow(seconds=60)
def test_a_further_task_goes_all_the_way(run_folder, data):
    result = json.loads((run_folder / "result.json").read_text())
    assert result["task"] == "image-brightness"
    assert result["metrics"]["test"].keys() == {"mae"}
    assert result["dataset"]["splits"] == {"train": 72, "validation": 9, "test": 9}
    assert "median" in result["dataset"]
    assert "class_counts" not in result["dataset"]
    with (run_folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["epoch", "train_loss", "val_mae"]
    best = min(rows, key=lambda row: float(row["val_mae"]))
    assert result["training"]["best_epoch"] == int(float(best["epoch"]))
    assert result["training"]["chosen_by"] == "validation mean absolute error"
    page = (run_folder / "model/README.md").read_text()
    assert "| Mean absolute error | " in page
    assert "Its largest error on a test image was" in page
    assert "pipeline_tag: image-brightness" in page
    assert float(best["val_mae"]) == pytest.approx(result["metrics"]["validation"]["mae"], abs=1e-6)


@pytest.mark.slow(seconds=60)
def test_its_evaluation_counts_each_image_once_on_two_processes(run_folder):
    again = json.loads(number("evaluate", run_folder, "--accelerator", "cpu", "--json").stdout)
    recorded = json.loads((run_folder / "result.json").read_text())["metrics"]["test"]
    assert again["metrics"]["mae"] == pytest.approx(recorded["mae"], abs=1e-6)
    assert again["images"] == 9


@pytest.mark.slow(seconds=60)
def test_its_predictions_are_those_of_stock_timm_on_the_exported_folder(run_folder, tmp_path):
    PILImage.new("RGB", (32, 32), (200, 200, 200)).save(tmp_path / "grey.png")
    (line,) = number("predict", run_folder, tmp_path / "grey.png", "--accelerator", "cpu").stdout.splitlines()
    model = timm.create_model(f"local-dir:{run_folder / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.inference_mode():
        expected = model(transform(PILImage.open(tmp_path / "grey.png"))[None]).item()
    assert json.loads(line)["value"] == pytest.approx(expected, abs=1e-5)
    csv_lines = number("predict", run_folder, tmp_path, "--accelerator", "cpu", "--format", "csv").stdout.splitlines()
    assert csv_lines[0] == "image,value,error"


# --- choosing --------------------------------------------------------------------------------------------------------


class Stub:
    """A task that recognises one column."""

    def __init__(self, name, column):
        self.name, self.column = name, column
        self.target_column, self.columns, self.explains, self.sure = column, (column,), (column,), True

    def recognise(self, features, image_column=None, target_column=None):
        if self.column not in features or target_column not in (None, self.column):
            raise SchemaError(f"no column {self.column}")
        return self

    @property
    def task(self):
        return self.name

    def described(self):
        return f"column {self.column!r}"


@pytest.fixture
def two_tasks(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", {"one": Stub("one", "a"), "two": Stub("two", "b")})


def test_what_one_task_alone_recognises_is_taken(two_tasks):
    assert registry.READING.recognise({"a": 1}).name == "one"
    assert registry.READING.recognise({"b": 1}).name == "two"
    assert registry.READING.recognise({"a": 1, "b": 1}, target_column="b").name == "two"


def test_two_readings_are_named(two_tasks):
    with pytest.raises(
        SchemaError,
        match=r"read as one \(column 'a'; --task one --target-column a\) or as two \(column 'b'; --task two",
    ):
        registry.READING.recognise({"a": 1, "b": 1})


def test_a_reading_is_chosen_by_its_name(two_tasks):
    assert registry.reader("two").recognise({"a": 1, "b": 1}).name == "two"
    with pytest.raises(ConfigError, match=r"--task: no task 'tow'; did you mean two\? Tasks: one, two"):
        registry.reader("tow")


def test_a_guess_gives_way_to_what_is_sure_and_to_what_is_part_of_it(monkeypatch):
    guess, sure, whole = Stub("one", "a"), Stub("two", "b"), Stub("three", "c")
    guess.sure = False
    monkeypatch.setattr(registry, "_TASKS", {"one": guess, "two": sure, "three": whole})
    assert registry.READING.recognise({"a": 1, "b": 1}).name == "two"
    whole.explains = ("b", "c")
    assert registry.READING.recognise({"a": 1, "b": 1, "c": 1}).name == "three"


def test_flags_are_a_task_s_own():
    config = RunConfig(model="resnest14d", dataset="digits", multi_label_loss="asymmetric").resolved()
    with pytest.raises(ConfigError, match="--multi-label-loss is for multi-label-classification, and this dataset is"):
        of_tasks.settle(config, "image-classification", {}, {})
    assert of_tasks.settle(config, "multi-label-classification", {}, {}) == config


def test_a_task_s_preset_counts_where_nothing_is_given_and_what_it_lacks_is_refused():
    refused = {"label_smoothing": "has no classes", "mixup": "has no classes to mix"}
    config = RunConfig(model="resnest14d", dataset="digits").resolved()
    settled = of_tasks.settle(config, "t", {"label_smoothing": 0.0, "crop_scale": None, "lr": 1e-4}, refused)
    assert (settled.label_smoothing, settled.crop_scale, settled.lr) == (0.0, None, 1e-4)
    later = settled.for_images(100)
    assert (later.label_smoothing, later.crop_scale, later.lr, later.epochs) == (0.0, None, 1e-4, 38)
    given = RunConfig(model="resnest14d", dataset="digits", label_smoothing=0.1, lr=2e-4).resolved()
    assert of_tasks.settle(given, "t", {"lr": 1e-4}, {}).lr == 2e-4
    with pytest.raises(ConfigError, match=r"--label-smoothing 0\.1: t has no classes: leave it out"):
        of_tasks.settle(given, "t", {}, refused)


def test_a_task_s_preset_does_not_train_what_is_solved_for():
    config = RunConfig(model="resnest14d", dataset="digits", freeze="backbone").resolved()
    settled = of_tasks.settle(config, "t", {"label_smoothing": 0.0, "image_size": 64}, {})
    assert settled.solved
    assert (settled.label_smoothing, settled.image_size) == (None, 64)


def test_what_no_task_recognises_has_the_first_ones_reason(two_tasks):
    with pytest.raises(SchemaError, match="no column a"):
        registry.READING.recognise({"c": 1})


def test_a_run_of_a_task_that_is_not_there_is_refused():
    with pytest.raises(RunFolderError, match="no task 'image-captioning', only image-classification"):
        registry.get("image-captioning")


def test_a_model_is_of_the_task_that_its_result_names(tmp_path, two_tasks):
    (tmp_path / "result.json").write_text('{"task": "two"}')
    assert registry.of_model(tmp_path).name == "two"
    assert registry.of_model(f"local-dir:{tmp_path / 'model'}").name == "two"
    (tmp_path / "result.json").write_text("no JSON")
    assert registry.of_model(tmp_path).name == "image-classification"
    assert registry.of_model("resnest50").name == "image-classification"


# --- what other tasks need of the rows -------------------------------------------------------------------------------


class Joint:
    """Inputs of a mask and of boxes: read with the image, changed with it, ragged in a batch."""

    columns = ("mask", "boxes")

    def training(self, image, target):
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        mask = torch.tensor(target["mask"])
        return pixels.flip(-1), {"mask": mask.flip(-1), "boxes": torch.tensor(target["boxes"])}

    def evaluation(self, image, target):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1), target

    def collate(self, targets):
        return targets


def test_a_target_may_be_read_with_the_image_and_change_with_it():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:, 0] = 255
    mask = (picture[..., 0] > 0).astype(int).tolist()
    rows = {"image": [PILImage.fromarray(picture)] * 2, "mask": [mask] * 2, "boxes": [[[0, 0, 1, 4]], []]}
    encoded = Dataset.from_dict(rows).cast_column("image", Image(decode=False))
    loaded = ImageRows(encoded, "image", np.array([1, 0]), np.zeros(2), Joint(), training=True)
    pixels, targets = loaded[[(0, 0), (0, 1)]]
    assert pixels.shape == (2, 3, 4, 4)
    assert all(torch.equal(pixels[i, 0] > 0, targets[i]["mask"] > 0) for i in range(2))
    assert [len(target["boxes"]) for target in targets] == [0, 1]  # row 1 first
