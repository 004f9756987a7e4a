"""The whole way of a multi-label dataset: run, files, other libraries, other verbs."""

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict, List
from PIL import Image as PILImage
from sklearn.metrics import average_precision_score, f1_score

import cards
from tests import spaces
from tests.cards.results import code_of
from tests.conftest import need
from tests.finetune.tasks.multi_label.colours import COLOURS, SETTINGS, picture, rows

KEYS = {"mean_average_precision", "micro_average_precision", "macro_f1", "micro_f1", "exact_match", "loss"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "colours"
    DatasetDict({"train": rows(200, 0)}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def run_folder(cli, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = cli("finetune", "--dataset", data, "--output", folder, *SETTINGS.split())
    assert done.returncode == 0, done.stderr
    assert "task: multi-label-classification, images in column 'image', 3 classes, several an image" in done.stdout
    assert "left out: 10 images of 'train' without a label" in done.stdout
    assert "classes an image; " in done.stdout
    assert re.search(r"mean avg\. precision +0\.\d{4} .*\n", done.stdout)
    assert re.search(r"prevalence +0\.\d{4}", done.stdout)
    return folder


def read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow(seconds=25)
def test_numbers_and_splits_are_written(run_folder):
    result = read(run_folder)
    assert result["task"] == "multi-label-classification"
    assert result["metrics"]["test"].keys() == KEYS
    assert result["dataset"]["classes"] == list(COLOURS)
    assert sum(result["dataset"]["splits"].values()) == 190
    assert result["dataset"]["excluded"]["unlabelled"] == {"train": 10}
    assert (result["training"]["label_smoothing"], result["training"]["crop_scale"]) == (0, 0.8)
    seen = json.loads((run_folder / "model/config.json").read_text())["pretrained_cfg"]
    assert (seen["crop_pct"], seen["crop_mode"]) == (1.0, "squash")  # the whole image, in all libraries
    evaluation = result["evaluation"]
    low, high = evaluation["intervals"]["test"]["mean_average_precision"]
    assert low <= result["metrics"]["test"]["mean_average_precision"] <= high
    assert [row["class"] for row in evaluation["per_class"]["test"]] == list(COLOURS)
    assert set(evaluation["figures"]) >= {"classes", "precision_recall", "confusion", "reliability", "curves"}
    with (run_folder / "metrics.csv").open(newline="") as file:
        logged = list(csv.DictReader(file))
    assert {"val_mean_average_precision", "val_macro_f1", "val_loss"} <= set(logged[0])
    assert {"splits.json", "complete.json"} <= {path.name for path in run_folder.iterdir()}


@pytest.mark.slow(seconds=25)
def test_it_has_learnt_and_its_numbers_are_scikit_learn_s(run_folder):
    from finetune.evaluation import saved
    from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions

    result = read(run_folder)
    assert result["metrics"]["test"]["mean_average_precision"] > result["evaluation"]["prevalence"]["test"] + 0.15
    (path,) = run_folder.rglob("predictions.safetensors")
    logits, targets = saved.load(path, MultiLabelPredictions)["test"].arrays()
    chances = 1 / (1 + np.exp(-logits.astype(np.float64) / result["evaluation"]["calibration"]["temperature"]))
    answers = chances >= np.array(result["evaluation"]["thresholds"]["values"])
    test = result["metrics"]["test"]
    assert test["mean_average_precision"] == pytest.approx(average_precision_score(targets, logits), abs=1e-12)
    assert test["macro_f1"] == pytest.approx(f1_score(targets, answers, average="macro"), abs=1e-12)
    assert test["exact_match"] == pytest.approx((answers == (targets > 0)).all(axis=1).mean(), abs=1e-12)


@pytest.mark.slow(seconds=25)
def test_evaluate_says_the_same_and_knows_other_datasets(cli, run_folder, tmp_path):
    recorded = read(run_folder)["metrics"]["test"]
    again = json.loads(cli("finetune", "evaluate", run_folder, "--accelerator", "cpu", "--json").stdout)
    assert again["metrics"] == pytest.approx(recorded, abs=1e-6)
    assert again["calibration"]["temperature"] > 0
    # Two of the three classes, in another order: what is not asked for is unknown.
    other = rows(60, 5).map(
        lambda row: {"colours_tags": [{0: 1, 2: 0}[c] for c in row["colours_tags"] or [] if c != 1]}
    )
    other = other.cast_column("colours_tags", List(ClassLabel(names=["red", "blue"])))
    DatasetDict({"test": other}).save_to_disk(tmp_path / "other")
    words = ["evaluate", run_folder, "--dataset", tmp_path / "other", "--accelerator", "cpu", "--json"]
    done = cli("finetune", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["classes"], found["classes_by"]) == (2, "the model's label names")
    assert found["metrics"].keys() == KEYS
    assert found["metrics"]["mean_average_precision"] > 0.5


@pytest.mark.slow(seconds=60)
def test_processes_agree(cli, run_folder, data, tmp_path):
    """Training on two gives the same split and nearly the same model; evaluation the same numbers on 1, 2 and 3."""
    found = []
    for devices in (2, 3):
        words = ["evaluate", run_folder, "--accelerator", "cpu", "--devices", str(devices), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "finetune", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["metrics"])
    for metrics in found:
        assert metrics == pytest.approx(read(run_folder)["metrics"]["test"], abs=1e-6)


@pytest.mark.slow(seconds=25)
def test_predict_names_all_classes_above_their_thresholds(cli, run_folder, tmp_path):
    rng = np.random.default_rng(9)
    picture([0, 1, 2], rng).save(tmp_path / "all.png")
    picture([], rng).save(tmp_path / "none.png")
    words = ["predict", run_folder, tmp_path, "--accelerator", "cpu", "--workers", 0]
    records = [json.loads(line) for line in cli("finetune", *words).stdout.splitlines()]
    thresholds = dict(zip(COLOURS, read(run_folder)["evaluation"]["thresholds"]["values"], strict=True))
    everything = [json.loads(line) for line in cli("finetune", *words, "--top-k", 3).stdout.splitlines()]
    for record, whole in zip(records, everything, strict=True):
        assert len(whole["labels"]) == 3
        above = [entry for entry in whole["labels"] if entry["probability"] >= thresholds[entry["label"]]]
        assert record["labels"] == above
    assert len(records[0]["labels"]) > len(records[1]["labels"])
    text = cli("finetune", *words, "--format", "csv").stdout
    table = list(csv.DictReader(io.StringIO(text)))
    assert list(table[0]) == ["image", "labels", "probabilities", "error"]
    assert table[0]["labels"].split("|") == [entry["label"] for entry in records[0]["labels"]]


@pytest.mark.slow(seconds=25)
def test_the_folder_alone_says_what_it_is(cli, run_folder, tmp_path):
    import shutil

    from finetune.tasks import registry

    shutil.copytree(run_folder / "model", tmp_path / "model")
    assert registry.of_model(f"local-dir:{tmp_path / 'model'}").name == "multi-label-classification"
    picture([0, 2], np.random.default_rng(3)).save(tmp_path / "a.png")
    words = ["--accelerator", "cpu", "--workers", 0]
    there = cli("finetune", "predict", run_folder, tmp_path / "a.png", *words).stdout
    assert cli("finetune", "predict", f"local-dir:{tmp_path / 'model'}", tmp_path / "a.png", *words).stdout == there
    assert "labels" in there


@pytest.mark.slow(seconds=40)
def test_strangers_give_the_same_logits_and_transformers_a_sigmoid(run_folder):
    need("transformers", "transformers")
    from safetensors.torch import load_file
    from transformers import pipeline

    made = cards.verify(run_folder)
    assert made["passed"], made
    assert {name for name, entry in made["checks"].items() if entry["passed"]} >= {"timm", "transformers"}
    inputs = load_file(run_folder / "verify/inputs.safetensors")
    pipe = pipeline("image-classification", model=str(run_folder / "model"), device="cpu")
    image = PILImage.open(run_folder / "verify/images/000.png")
    said = {entry["label"]: entry["score"] for entry in pipe(image, top_k=3)}
    expected = dict(zip(COLOURS, torch.sigmoid(inputs["logits"][0]).tolist(), strict=True))
    assert said == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow(seconds=40)
def test_the_card_says_it_and_its_snippets_run(cli, run_folder, tmp_path):
    need("onnxruntime", "onnx")
    done = cli("finetune", "export", run_folder, "--format", "onnx")
    assert done.returncode == 0, done.stderr
    page = (run_folder / "model/README.md").read_text()
    assert "pipeline_tag: image-classification" in page
    assert "- multi-label\n" in page
    result = read(run_folder)
    assert f"**Test mean average precision {result['metrics']['test']['mean_average_precision']:.4f}**" in page
    picture([0, 1], np.random.default_rng(4)).save(run_folder / "model/photo.jpg", quality=100)
    photo = run_folder / "model/photo.jpg"
    words = ["predict", run_folder, photo, "--accelerator", "cpu", "--workers", 0]
    (record,) = [json.loads(line) for line in cli("finetune", *words).stdout.splitlines()]
    expected = {entry["label"]: entry["probability"] for entry in record["labels"]}
    snippets = [code for _, code in code_of(page)]
    assert len(snippets) == 3
    for code in snippets:
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=photo.parent, check=False
        )
        assert ran.returncode == 0, ran.stderr
        said = {line.split(" ", 1)[1]: float(line.split(" ", 1)[0]) for line in ran.stdout.splitlines()}
        assert said == pytest.approx(expected, abs=2e-2)
    of_file = cli("finetune", "predict", run_folder / "model/model.onnx", photo, "--workers", 0)
    assert of_file.returncode == 0, of_file.stderr
    said = {entry["label"]: entry["probability"] for entry in json.loads(of_file.stdout)["labels"]}
    assert said == pytest.approx(expected, abs=1e-4)
    photo.unlink()


@pytest.mark.slow(seconds=10)
def test_the_page_shows_the_classes_above_their_thresholds(run_folder, tmp_path):
    need("gradio", "demo")
    from finetune.serving import html, page
    from finetune.tasks.multi_label.answering import MultiLabelPredictor
    from finetune.tasks.multi_label.measures.metrics import SCORES

    predictor = MultiLabelPredictor(run_folder, accelerator="cpu")
    picture([0, 1, 2], np.random.default_rng(9)).save(tmp_path / "all.png")
    found = page.classify(predictor, tmp_path / "all.png")
    limits = dict(zip(predictor.classes, predictor.thresholds.tolist(), strict=True))
    assert found.top
    assert all(chance >= limits[name] for name, chance in found.top)
    title, lines = page.describe(predictor, SCORES[0])
    assert "Mean avg. precision" in lines[0]
    assert "None of the classes" in html.answer([])
    assert title


@pytest.mark.slow(seconds=20)
@spaces.needs_gradio
def test_the_space_names_what_predict_names(run_folder, tmp_path):
    from finetune.tasks.multi_label.answering import MultiLabelPredictor

    paths, rng = [tmp_path / f"{n}.png" for n in range(3)], np.random.default_rng(9)
    for shown, path in zip(([0, 1, 2], [1], []), paths, strict=True):
        picture(shown, rng).save(path)
    code = "assert app.classify(None) == {}; said = [app.classify(picture) for picture in pictures]"
    said = spaces.asked(run_folder / "model", paths, code, tmp_path)
    predictor = MultiLabelPredictor(run_folder, accelerator="cpu")
    limits = dict(zip(predictor.classes, predictor.thresholds.tolist(), strict=True))
    for found, expected in zip(said, predictor(paths), strict=True):
        if above := {name: chance for name, chance in expected.top if chance >= limits[name]}:
            assert found == pytest.approx(above, abs=1e-4)
        else:
            assert list(found) == ["none of the classes"]


@pytest.mark.slow(seconds=30)
def test_a_frozen_backbone_and_the_asymmetric_loss(cli, run_folder, data, tmp_path):
    start = f"local-dir:{run_folder / 'model'}"
    words = ["--dataset", data, "--accelerator", "cpu", "--workers", 0, "--image-size", 32, "--model", start]
    solved = cli("finetune", *words, "--freeze", "backbone", "--output", tmp_path / "solved")
    assert solved.returncode == 0, solved.stderr
    result = read(tmp_path / "solved")
    assert result["training"]["chosen_by"] == "solved"
    assert result["metrics"]["test"] == pytest.approx(
        {key: result["evaluation"]["probe"]["test"][key] for key in KEYS}, abs=1e-5
    )
    more = ["--multi-label-loss", "asymmetric", "--imbalance", "class-weights", "--mixup", 0.4, "--epochs", 1]
    done = cli("finetune", *words, *more, "--ema", 0.9, "--output", tmp_path / "asymmetric")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "asymmetric")["model"]["weights"] == "averaged"
    assert "epoch 0, a linear probe" in done.stdout


@pytest.mark.slow(seconds=5)
def test_what_is_of_other_tasks_is_refused(cli, data, tmp_path):
    words = ["--dataset", data, *SETTINGS.split(), "--output", tmp_path / "run"]
    done = cli("finetune", *words, "--imbalance", "logit-adjustment")
    assert done.returncode == 2
    assert "--imbalance logit-adjustment is for one class an image" in done.stderr
