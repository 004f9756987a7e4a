"""Where the classifier of pretrained weights starts, and the linear probe as epoch 0: a tiny model, real digits."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from timm.data import resolve_data_config

from finetune import ImageDataModule, RunConfig, run
from finetune.commands.report import chooses
from finetune.data import source
from finetune.data.splits import SplitRows, Splits
from finetune.errors import ConfigError, ModelError
from finetune.export import model_folder
from finetune.networks import head_start, models
from finetune.settings.presets import FROZEN_PRESET, PRETRAINED_PRESET

LABELS = tuple("0123456789")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights to start from, of a model with five classes: random ones, whose features say enough of a digit."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = timm.create_model("test_efficientnet", num_classes=5)
    model_folder.save(model, folder, ["a", "b", "c", "d", "e"], resolve_data_config(model=model))
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def digits():
    """400 digits to train on, 120 to validate, 100 to test."""
    rows = source.load("digits").splits["train"].shuffle(seed=0)
    parts = {"train": range(400), "validation": range(400, 520), "test": range(520, 620)}
    return DatasetDict({name: rows.select(numbers) for name, numbers in parts.items()})


@pytest.fixture(scope="module")
def settings(pretrained, digits):
    return {
        "model": pretrained,
        "dataset": digits,
        "image_size": 32,
        "accelerator": "cpu",
        "devices": "1",
        "workers": 0,
    }


@pytest.fixture(scope="module")
def solved(settings, tmp_path_factory):
    """A frozen run. Do not write into it."""
    return run(RunConfig(**settings, freeze="backbone", output=tmp_path_factory.mktemp("solved") / "run"))


@pytest.fixture(scope="module")
def beaten(settings, tmp_path_factory):
    """Two epochs at a rate that leads nowhere. Do not write into it."""
    folder = tmp_path_factory.mktemp("beaten") / "run"
    return run(RunConfig(**settings, epochs=2, lr=1e-9, output=folder))


def epochs(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def inputs(name, digits, role):
    """Features of a split by plain timm, and its labels."""
    model = timm.create_model(name, pretrained=True, num_classes=0).eval()
    data = ImageDataModule(digits, data_config=models.data_config(model, 32), workers=0)
    images = [data.eval_transform(image.convert("RGB")) for image in digits[role]["image"]]
    with torch.inference_mode():
        values = [model(data.normalize(part)) for part in torch.stack(images).split(50)]
    return torch.cat(values).double().numpy(), np.array(digits[role]["label"])


# --- the frozen run is the probe --------------------------------------------------------------------------------------


def test_a_frozen_run_is_scikit_learns_regression(solved, pretrained, digits):
    strength = solved.evaluation["probe"]["strength"]
    theirs = LogisticRegression(C=strength, tol=1e-10, solver="newton-cholesky").fit(
        *inputs(pretrained, digits, "train")
    )
    weights = load_file(solved.folder / "model/model.safetensors")
    for role in ("validation", "test"):
        values, labels = inputs(pretrained, digits, role)
        logits = values @ weights["classifier.weight"].double().numpy().T + weights["classifier.bias"].double().numpy()
        expected = theirs.decision_function(values)
        np.testing.assert_allclose(
            logits - logits.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=1e-3
        )
        found = solved.metrics[role]
        assert found["accuracy"] == accuracy_score(labels, theirs.predict(values))
        assert found["loss"] == pytest.approx(log_loss(labels, theirs.predict_proba(values)), rel=1e-3)
        assert found["macro_f1"] == pytest.approx(f1_score(labels, theirs.predict(values), average="macro"))
        assert solved.evaluation["probe"][role] == pytest.approx(found, rel=1e-5)


def test_a_frozen_run_leaves_what_any_run_does(solved):
    assert [(row["epoch"], row["train_loss"], row["lr"]) for row in epochs(solved.folder)] == [("0", "", "")]
    accuracy = float(epochs(solved.folder)[0]["val_accuracy"])
    assert accuracy == pytest.approx(solved.metrics["validation"]["accuracy"])
    found = {name: solved.training[name] for name in ("epochs", "planned_epochs", "best_epoch", "chosen_by", "lr")}
    assert found == {"epochs": 0, "planned_epochs": 0, "best_epoch": 0, "chosen_by": "solved", "lr": None}
    best, last = (
        torch.load(solved.folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    )
    assert best.keys() == last.keys() == {"model.weight", "model.bias"}
    assert all(torch.equal(best[name], last[name]) for name in best)
    assert (solved.folder / "model/figures/confusion.png").is_file()
    assert not (solved.folder / "model/figures/curves.png").exists()  # of nothing that was trained
    assert "difference" not in solved.evaluation["probe"]


@pytest.mark.slow(seconds=20)
def test_its_settings_repeat_a_frozen_run(solved, settings, tmp_path):
    config = RunConfig(**settings, freeze="backbone").resolved()
    assert config.solved
    assert config.resolved() == config
    again = run(RunConfig(**settings, freeze="backbone", output=tmp_path / "again"))
    assert again.metrics == solved.metrics
    one, other = (folder.joinpath("model/model.safetensors").read_bytes() for folder in (again.folder, solved.folder))
    assert one == other


@pytest.mark.parametrize(
    "given", [{"epochs": 10}, {"lr": 0.1}, {"optimizer": "sgd"}, {"label_smoothing": 0.0}, {"hflip": 0.5}, {"ema": 0.9}]
)
def test_what_says_how_to_train_a_classifier_is_done(given):
    config = RunConfig(model="resnest50", dataset="food101", freeze="backbone", **given).resolved()
    assert not config.solved
    for name, value in FROZEN_PRESET.items():
        assert getattr(config, name) == given.get(name, value)


def test_a_model_without_a_linear_classifier_cannot_be_solved_for(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(head_start, "linear_classifier", lambda model: None)
    with pytest.raises(ModelError, match=r"--freeze backbone .* not one linear layer.*--lr"):
        run(RunConfig(**settings, freeze="backbone", output=tmp_path / "run"))


# --- epoch 0 ----------------------------------------------------------------------------------------------------------


def test_a_training_that_brings_nothing_exports_the_probe(beaten, solved, pretrained):
    assert [row["epoch"] for row in epochs(beaten.folder)] == ["0", "1", "2"]
    assert beaten.training["best_epoch"] == 0
    assert beaten.training["chosen_by"] == "validation accuracy, then loss"
    assert beaten.metrics["test"] == pytest.approx(solved.metrics["test"], rel=1e-5)
    ours, theirs = (load_file(of.folder / "model/model.safetensors") for of in (beaten, solved))
    for name, value in load_file(f"{pretrained.removeprefix('local-dir:')}/model.safetensors").items():
        if not name.startswith("classifier"):
            assert torch.equal(ours[name], value), name  # not what two epochs have made of it
    torch.testing.assert_close(ours["classifier.weight"], theirs["classifier.weight"], rtol=0, atol=1e-6)


def test_it_says_so(settings, tmp_path, caplog):
    with caplog.at_level("INFO", logger="finetune"):
        run(RunConfig(**settings, epochs=1, lr=1e-9, ema=0.9, output=tmp_path / "run"))
    said = [line for line in caplog.messages if "probe" in line]
    assert said[0].startswith("epoch 0, a linear probe of 400 training images: validation loss ")
    assert said[1].startswith(
        "the training did not beat the linear probe on validation: the probe is exported (epoch 0)"
    )
    assert "linear probe  " in said[2]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["training"]["best_epoch"] == 0  # also where averaged weights would have been exported


@pytest.mark.slow(seconds=20)
def test_a_training_that_brings_something_is_compared_with_the_probe(settings, tmp_path):
    result = run(RunConfig(**settings, epochs=8, lr=5e-3, hflip=0.0, crop_scale=0.8, output=tmp_path / "run"))
    found = result.evaluation["probe"]
    assert result.training["best_epoch"] > 0
    assert result.metrics["validation"]["accuracy"] > found["validation"]["accuracy"]
    gain = result.metrics["test"]["accuracy"] - found["test"]["accuracy"]
    assert found["difference"]["accuracy"] == pytest.approx(gain)
    low, high = found["difference"]["interval"]
    assert low <= gain <= high
    low, high = found["intervals"]["test"]["accuracy"]
    assert low < found["test"]["accuracy"] < high


def test_few_validation_images_choose_nothing(settings, digits, tmp_path):
    few = DatasetDict(digits | {"validation": digits["validation"].select(range(99))})
    result = run(RunConfig(**settings | {"dataset": few}, epochs=2, lr=1e-9, output=tmp_path / "run"))
    assert result.training["chosen_by"] == "the last epoch"
    assert result.training["best_epoch"] == 2
    assert [row["epoch"] for row in epochs(result.folder)] == ["0", "1", "2"]
    assert result.evaluation["probe"]["test"]["accuracy"] > result.metrics["test"]["accuracy"]


@pytest.mark.slow(seconds=20)
def test_a_sample_is_enough_for_the_probe(settings, tmp_path, caplog):
    with caplog.at_level("INFO", logger="finetune"):
        result = run(RunConfig(**settings, epochs=1, probe_images=100, output=tmp_path / "run"))
    assert "the linear probe is fitted to 100 training images, drawn by class (--probe-images)" in caplog.messages
    assert result.evaluation["probe"]["images"] == 100
    none = run(RunConfig(**settings, epochs=1, probe_images=0, output=tmp_path / "none"))
    assert "probe" not in none.evaluation
    assert [row["epoch"] for row in epochs(none.folder)] == ["1"]


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("init", ["zero", "probe", "timm"])
def test_the_first_epoch_starts_there(settings, solved, init, tmp_path):
    """At a rate that changes nothing, the last checkpoint has what the training started with."""
    run(RunConfig(**settings, epochs=1, lr=1e-12, weight_decay=0.0, head_init=init, output=tmp_path / "run"))
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weight, bias = state["model.classifier.weight"], state["model.classifier.bias"]
    if init == "zero":
        counts = torch.tensor(solved.dataset["class_counts"]["train"], dtype=torch.float64)
        assert weight.abs().max() < 1e-9
        torch.testing.assert_close(bias, (counts / 400).log().float(), rtol=0, atol=1e-6)
    elif init == "probe":
        expected = load_file(solved.folder / "model/model.safetensors")["classifier.weight"]
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
    else:
        assert weight.abs().max() > 0.01
        assert bias.abs().max() < 1e-9


def test_a_classifier_of_the_same_classes_is_kept(solved, settings, tmp_path, caplog):
    model = f"local-dir:{solved.folder / 'model'}"
    with caplog.at_level("INFO", logger="finetune"):
        run(RunConfig(**settings | {"model": model}, epochs=1, lr=1e-12, output=tmp_path / "run"))
    assert "the classifier of the pretrained weights is for these classes, and is kept" in caplog.messages
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    expected = load_file(solved.folder / "model/model.safetensors")["classifier.weight"]
    torch.testing.assert_close(state["model.classifier.weight"], expected, rtol=0, atol=1e-6)
    assert head_start.is_new(models.build(model, 10), [*LABELS[1:], "0"])
    assert not head_start.is_new(models.build(model, 10), LABELS)


def test_a_stream_chooses_by_validation_images_that_nobody_has_counted_yet():
    nothing = np.array([], dtype=np.int64)
    data = SimpleNamespace(splits=Splits({"validation": SplitRows("validation", nothing, nothing, whole=True)}))
    names = {f"{role}_split": role for role in ("train", "val", "test")}
    given = {"model": "resnest50", "dataset": "food101"}
    assert chooses(RunConfig(**given, **names, streaming=True, steps_per_epoch=5).resolved(), data)
    assert not chooses(RunConfig(**given).resolved(), data)
    assert chooses(RunConfig(**given, pretrained=False).resolved(), data)


def test_a_rare_class_has_a_finite_bias():
    layer = torch.nn.Linear(4, 3)
    head_start.start_at_zero(layer, [6, 0, 2])
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([6, 0.5, 2]).div(8.5).log())
    head_start.start_at_zero(layer, [0, 0, 0])  # of a stream
    assert not layer.bias.any()


def test_only_pretrained_weights_have_a_probe():
    config = RunConfig(model="resnest50", dataset="food101", pretrained=False).resolved()
    assert (config.head_init, config.batch_norm, config.probed) == ("timm", "trained", False)
    config = RunConfig(model="resnest50", dataset="food101").resolved()
    assert (config.head_init, config.batch_norm) == (PRETRAINED_PRESET["head_init"], PRETRAINED_PRESET["batch_norm"])
    assert config.probed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": False, "head_init": "zero"}, "^--head-init zero is for pretrained weights"),
        ({"pretrained": False, "batch_norm": "held"}, "^--batch-norm held keeps what pretrained weights know"),
        ({"head_init": "probe", "probe_images": 0}, "^--head-init probe needs a linear probe, and --probe-images 0"),
        ({"probe_images": -1}, "^--probe-images must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(model="resnest50", dataset="food101", **given).resolved()


# --- BatchNorm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_held_statistics_stay_and_norms_train(settings, pretrained, kept, tmp_path):
    config = RunConfig(**settings, epochs=2, batch_norm="held" if kept else "trained", output=tmp_path / "run")
    run(config)
    before = load_file(f"{pretrained.removeprefix('local-dir:')}/model.safetensors")
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    running = [name for name in before if "running_" in name]
    weights = [name.replace("running_mean", "weight") for name in running if name.endswith("running_mean")]
    assert len(weights) > 5
    assert all(torch.equal(before[name], state[f"model.{name}"]) is kept for name in running)
    assert not any(torch.equal(before[name], state[f"model.{name}"]) for name in weights)


# --- several processes, and stopped ones ------------------------------------------------------------------------------


@pytest.mark.slow(seconds=60)
def test_two_processes_solve_one_problem(cli, pretrained, solved, digits, tmp_path):
    digits.save_to_disk(str(tmp_path / "digits"))
    flags = ["--model", pretrained, "--dataset", tmp_path / "digits", "--image-size", 32, "--accelerator", "cpu"]
    flags += ["--workers", 0, "--devices", 2]
    done = cli("finetune", *flags, "--freeze", "backbone", "--output", tmp_path / "frozen")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "frozen/result.json").read_text())
    assert found["metrics"]["test"] == pytest.approx(solved.metrics["test"], rel=1e-4)
    assert done.stdout.count("epoch 0, a linear probe") == 1
    done = cli("finetune", *flags, "--epochs", 2, "--lr", "1e-9", "--output", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "whole/result.json").read_text())
    assert found["training"]["best_epoch"] == 0
    assert found["metrics"]["test"] == pytest.approx(solved.metrics["test"], rel=1e-4)
