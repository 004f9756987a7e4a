"""The whole way of a number, by the real command line: learnt, exported, loaded by strangers, resumed, streamed."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import mean_absolute_error, r2_score

import cards
from finetune.data.dataset import prepare
from finetune.loading import choose, stream_source
from finetune.loading.datamodule import ImageDataModule
from finetune.tasks import registry
from finetune.tasks.regression.answering.predictor import NumberPredictor
from finetune.tasks.regression.task import REGRESSION
from tests import spaces
from tests.cards.results import code_of
from tests.finetune.commands.test_resume import after_checkpoints, assert_same, start, step_of
from tests.finetune.tasks.regression.conftest import TINY, WORDS

pytestmark = pytest.mark.slow(seconds=60)


def result_of(run):
    return json.loads((run / "result.json").read_text())


def numbers_of(run, split="test"):
    """True and predicted, float32, in the order of the split."""
    found = load_file(run / "predictions.safetensors")
    return found[f"{split}.targets"].numpy(), found[f"{split}.values"].numpy()


def stock(run, pictures):
    """What timm, as it comes, says of pictures."""
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        return model(torch.stack([transform(picture.convert("RGB")) for picture in pictures]))[:, 0].numpy()


def test_what_can_be_seen_is_learnt(bright_run):
    result = result_of(bright_run)
    assert result["task"] == "image-regression"
    assert list(result["metrics"]["test"]) == ["mae", "rmse", "r2", "spearman"]
    evaluation = result["evaluation"]
    assert evaluation["intervals"]["test"]["mae"][1] < 0.5 * evaluation["median"]["test"]
    assert result["metrics"]["test"]["r2"] > 0.7
    assert result["dataset"]["numbers"]["train"]["median"] == evaluation["median"]["value"]
    rows = list(csv.DictReader((bright_run / "metrics.csv").read_text().splitlines()))
    best = min(rows, key=lambda row: float(row["val_mae"]))
    assert int(best["epoch"]) == result["training"]["best_epoch"]
    assert result["training"]["chosen_by"] == "validation mean absolute error"
    said = (bright_run / "said.txt").read_text()
    assert "task: image-regression, images in column 'image', numbers in column 'brightness' (floats are num" in said
    assert re.search(r"always the median +\d+\.\d{4}", said)
    assert "the model is below it" in said


def test_the_reported_numbers_are_scikit_learn_s(bright_run):
    result = result_of(bright_run)
    for split in ("test", "validation"):
        true, predicted = numbers_of(bright_run, split)
        true, predicted = true.astype(np.float64), predicted.astype(np.float64)
        assert result["metrics"][split]["mae"] == pytest.approx(mean_absolute_error(true, predicted), rel=1e-12)
        assert result["metrics"][split]["r2"] == pytest.approx(r2_score(true, predicted), rel=1e-12)


def test_stock_timm_gives_the_same_numbers(bright_run, in_memory):
    true, predicted = numbers_of(bright_run)
    assert true.tolist() == np.array(in_memory["test"]["brightness"], np.float32).tolist()
    assert stock(bright_run, in_memory["test"]["image"]) == pytest.approx(predicted, rel=1e-5)


def test_the_interval_is_what_validation_says(bright_run):
    true, predicted = numbers_of(bright_run, "validation")
    errors = np.sort(np.abs(predicted.astype(np.float64) - true))
    calibration = json.loads((bright_run / "model/config.json").read_text())["calibration"]
    assert calibration["half_width"] == pytest.approx(errors[36])  # the ceil(41 * 0.9) = 37th of 40
    true, predicted = numbers_of(bright_run)
    covered = np.mean(np.abs(predicted.astype(np.float64) - true) <= calibration["half_width"])
    assert result_of(bright_run)["evaluation"]["calibration"]["test"]["coverage"] == pytest.approx(covered)


def test_pictures_and_the_table_of_errors_are_there(bright_run):
    assert sorted(result_of(bright_run)["evaluation"]["figures"]) == ["curves", "mistakes", "predicted", "residuals"]
    for name in ("curves", "mistakes", "predicted", "residuals"):
        with Image.open(bright_run / f"model/figures/{name}.png") as figure:
            assert figure.width >= 800
    rows = list(csv.DictReader((bright_run / "mistakes.csv").read_text().splitlines()))
    errors = [abs(float(row["predicted"]) - float(row["true"])) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 40
    assert max(errors) == pytest.approx(np.abs(np.subtract(*numbers_of(bright_run))).max(), rel=1e-4)


# --- afterwards ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(in_memory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        in_memory["test"][number]["image"].save(folder / f"{number}.png")
    return folder


def test_predict_gives_the_number_and_its_interval(cli, bright_run, pictures, tmp_path):
    _, predicted = numbers_of(bright_run)
    half = json.loads((bright_run / "model/config.json").read_text())["calibration"]["half_width"]
    alone = shutil.copytree(bright_run / "model", tmp_path / "alone")  # without a result.json beside it
    for model in (bright_run, bright_run / "model", alone):
        done = cli("finetune", "predict", model, pictures, "--accelerator", "cpu", "--format", "json")
        assert done.returncode == 0, done.stderr
        for line, value in zip(map(json.loads, done.stdout.splitlines()), predicted, strict=False):
            assert line["value"] == pytest.approx(value, rel=1e-4)
            assert line["high"] - line["value"] == pytest.approx(half)
            assert line["value"] - line["low"] == pytest.approx(half)
    done = cli("finetune", "predict", bright_run, pictures, "--accelerator", "cpu", "--format", "csv")
    assert done.stdout.splitlines()[0] == "image,value,low,high,error"
    done = cli("finetune", "predict", bright_run, pictures / "0.png", "--accelerator", "cpu", "--format", "table")
    assert re.fullmatch(r".*0\.png  [\d.]+  \[[\d.]+, [\d.]+\]\n", done.stdout)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_evaluate_gives_the_same_numbers_on_any_number_of_processes(cli, bright_run, devices):
    done = cli(
        "finetune", "evaluate", bright_run, "--accelerator", "cpu", "--devices", devices, "--workers", 0, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["images"] == 40
    assert found["metrics"] == pytest.approx(result_of(bright_run)["metrics"]["test"], rel=1e-6)


def test_evaluate_takes_other_datasets(cli, bright_run, bright, tmp_path):
    alone = shutil.copytree(bright_run / "model", tmp_path / "alone")
    words = ["--dataset", bright, "--split", "validation", "--accelerator", "cpu", "--workers", 0, "--json"]
    done = cli("finetune", "evaluate", f"local-dir:{alone}", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["metrics"] == pytest.approx(result_of(bright_run)["metrics"]["validation"], rel=1e-5)


def test_strangers_run_the_card_s_code(cli, bright_run, pictures, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `verify`")
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    run = shutil.copytree(bright_run, tmp_path / "run")
    done = cli("finetune", "export", run)
    assert done.returncode == 0, done.stderr
    made = cards.verify(run)  # which trainings leave out in tests
    assert made["passed"]
    assert {name: entry["passed"] for name, entry in made["checks"].items()} == dict.fromkeys(
        ("timm", "transformers", "onnxruntime"), True
    )
    assert {entry["answers"] for entry in made["checks"].values()} == {"numbers"}
    shutil.copy(pictures / "0.png", run / "model/photo.jpg")
    _, predicted = numbers_of(run)
    answers = []
    for number, (_, code) in enumerate(code_of((run / "model/README.md").read_text())):
        (tmp_path / f"{number}.py").write_text(code)
        done = cli_python(tmp_path / f"{number}.py", run / "model")
        assert done.returncode == 0, done.stderr
        answers.append(float(done.stdout.split()[0]))
    assert answers == [pytest.approx(predicted[0], rel=1e-3)] * 3
    (moved := tmp_path / "moved").mkdir()
    for path in (run / "model").glob("model.onnx*"):
        shutil.copy(path, moved)
    (answer,) = NumberPredictor(moved / "model.onnx", accelerator="cpu")([pictures / "0.png"])
    assert answer.value == pytest.approx(predicted[0], rel=1e-4)
    assert answer.high > answer.value > answer.low
    assert registry.of_model(moved / "model.onnx") is REGRESSION


def cli_python(script, folder):
    guard = os.environ["PYTHONPATH"].split(os.pathsep)[0]  # against the network
    environment = {**os.environ, "PYTHONPATH": guard, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_page_shows_the_number_and_its_interval(bright_run, pictures):
    pytest.importorskip("gradio", reason="needs the extra `gradio`")
    from finetune.tasks.regression.answering import page

    predictor = NumberPredictor(bright_run, accelerator="cpu")
    (found,) = predictor([pictures / "0.png"])
    said = page.said(found, predictor)
    assert f'<div class="label">{found.value:.6g}</div>' in said
    assert f"lie within {found.low:.6g} to {found.high:.6g}" in said
    title, lines = page.describe(predictor)
    assert title.startswith("resnest14d on ")
    assert lines[0].startswith("Mean absolute error ")


@spaces.needs_gradio
def test_the_space_says_the_number_that_predict_says(bright_run, pictures, tmp_path):
    paths = sorted(pictures.iterdir())
    code = "assert app.answer(None) == ''; said = [app.answer(picture) for picture in pictures]"
    said = spaces.asked(bright_run / "model", paths, code, tmp_path)
    predictor = NumberPredictor(bright_run, accelerator="cpu")
    for text, found in zip(said, predictor(paths), strict=True):
        value, low, high = map(float, re.fullmatch(r"(\S+)  \(90% of images: (\S+) to (\S+)\)", text).groups())
        assert (value, low, high) == pytest.approx((found.value, found.low, found.high), rel=1e-3)
    page = (tmp_path / "space/README.md").read_text()
    assert "gives its number, and the interval that is meant to hold it." in page
    assert "- image-regression" in page


# --- the training ----------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_as_if_nothing_had_happened(cli, bright, tmp_path):
    words = [
        "--dataset",
        bright,
        *TINY,
        *WORDS,
        "--epochs",
        3,
        "--ema",
        0.9,
        "--device-batch-size",
        6,
        "--dropout",
        0.2,
    ]
    whole, run = tmp_path / "whole", tmp_path / "killed"
    assert cli("finetune", *words, "--output", whole).returncode == 0
    saves = random.Random(0).randrange(3, 12)
    process = start(*words, "--output", run, "--save-every", 1)
    after_checkpoints(process, run, saves)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert step_of(run / "checkpoints/last.ckpt") < 18
    done = cli("finetune", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert_same(run, whole)


def test_the_last_layer_is_solved_for(cli, bright, tmp_path):
    whole = [word for word in WORDS if word not in ("--crop-scale", "1")]  # which would change images at random
    done = cli("finetune", "--dataset", bright, *TINY, *whole, "--freeze", "backbone", "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "run")
    assert result["training"]["chosen_by"] == "solved"
    assert result["evaluation"]["probe"]["test"] == pytest.approx(result["metrics"]["test"], rel=1e-4)
    assert result["metrics"]["test"]["r2"] > 0.9
    true, predicted = numbers_of(tmp_path / "run")
    assert np.abs(true - predicted).mean() == pytest.approx(result["metrics"]["test"]["mae"], rel=1e-5)


def test_two_processes_agree_with_one(cli, bright, tmp_path):
    """Features are computed by both, and the first one solves."""
    words = ["--dataset", bright, *TINY, *WORDS, "--freeze", "backbone", "--lr", "1e-2", "--epochs", 2]
    for devices in (1, 2, 3):
        done = cli("finetune", *words, "--devices", devices, "--output", tmp_path / str(devices))
        assert done.returncode == 0, done.stderr
    one, *others = (result_of(tmp_path / str(devices))["metrics"] for devices in (1, 2, 3))
    for other in others:
        for role in ("validation", "test"):
            assert other[role] == pytest.approx(one[role], rel=2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--label-smoothing 0.1", "--label-smoothing 0.1: image-regression has no classes to smooth over"),
        (
            "--imbalance class-weights",
            "--imbalance class-weights: image-regression has no classes that could be unequal",
        ),
        ("--cutmix 0.5", "--cutmix 0.5: image-regression has no number for a patchwork"),
        ("--mixup 0.5", "--mixup 0.5: image-regression has no number for a blend"),
    ],
)
def test_what_is_for_classes_is_refused(cli, bright, tmp_path, words, message):
    done = cli("finetune", "--dataset", bright, *TINY, *WORDS, *words.split(), "--output", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- streams ---------------------------------------------------------------------------------------------------------

SPLITS = {"train_split": "train", "val_split": "validation", "test_split": "test"}


def test_a_stream_has_the_targets_of_the_dataset_in_memory(bright, in_memory):
    streamed = stream_source.prepare(str(bright), registry.READING, **SPLITS)
    held = prepare(in_memory, registry.READING)
    assert streamed.example_targets("train").tolist() == held.targets("train").tolist()
    options = {"batch_size": 16, "image_size": 32, "workers": 0}
    for role in ("validation", "test"):
        both = [choose.module(streamed, steps_per_epoch=3, **options), ImageDataModule(held, **options)]
        pixels, targets = zip(
            *([torch.cat(parts) for parts in zip(*of.eval_dataloader(role), strict=True)] for of in both), strict=True
        )
        assert torch.equal(*targets)
        assert torch.equal(*pixels)
        assert np.array_equal(streamed.splits.parts[role].targets, held.targets(role))
    trained = choose.module(streamed, steps_per_epoch=6, **options)
    batches = [targets for _, targets in trained.train_dataloader()]
    assert sorted(torch.cat(batches).tolist()) == sorted(held.targets("train").tolist())
    trained.teardown("fit")
    facts = [of.schema.facts({"train": of.targets("train")})["numbers"]["train"] for of in (streamed, held)]
    assert facts[0] == pytest.approx(facts[1])


def test_a_stream_is_trained_on(cli, bright, tmp_path):
    words = ["--dataset", bright, "--streaming", "--steps-per-epoch", 6, *TINY, *WORDS, "--epochs", 10, "--lr", "4e-3"]
    words += ["--train-split", "train", "--val-split", "validation", "--test-split", "test"]
    for devices in (1, 2):
        done = cli("finetune", *words, "--devices", devices, "--output", tmp_path / str(devices))
        assert done.returncode == 0, done.stderr
        result = result_of(tmp_path / str(devices))
        assert result["dataset"]["splits"] == {"train": 96, "validation": 40, "test": 40}
        assert result["metrics"]["test"]["mae"] < result["evaluation"]["median"]["test"]
    held = cli(
        "finetune",
        "evaluate",
        f"local-dir:{tmp_path / '1/model'}",
        "--dataset",
        bright,
        "--accelerator",
        "cpu",
        "--json",
    )
    found = json.loads(held.stdout.splitlines()[-1])["metrics"]
    assert found == pytest.approx(result_of(tmp_path / "1")["metrics"]["test"], rel=1e-5)
