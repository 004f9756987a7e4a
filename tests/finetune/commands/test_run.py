"""A run of the real command line, from the dataset to the folder that strangers load."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from sklearn.datasets import load_digits

import resnest_timm  # noqa: F401
from finetune import RunConfig, run

STRANGER = Path(__file__).with_name("stranger.py")


def ask_stranger(folder: Path, dataset: object, out: Path) -> tuple[dict, dict]:
    """What stock timm, transformers and scikit-learn say of a run, and the logits they computed."""
    env = {**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"].split(os.pathsep)[0]}  # the guard, but not our packages
    command = [sys.executable, STRANGER, folder, dataset, out]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), dict(np.load(out))


def check_strangers(folder: Path, dataset: object, out: Path) -> None:
    """Numbers and names of result.json hold for strangers; logits are those of our own registered model."""
    said, logits = ask_stranger(folder, dataset, out)
    result = json.loads((folder / "result.json").read_text())
    recorded = result["metrics"]["test"]
    assert said["images"] == result["dataset"]["splits"]["test"]
    assert recorded == pytest.approx({k: v for k, v in said["metrics"].items() if v is not None}, rel=1e-5, abs=1e-9)
    assert said["timm_names"] == said["transformers_names"] == result["dataset"]["classes"]
    ours = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    assert type(ours.layer1[0]).__module__ == "resnest_timm.block"
    with torch.inference_mode():
        expected = ours(torch.from_numpy(logits["pixels"])).numpy()
    assert np.abs(logits["timm"] - expected).max() < 1e-5
    assert np.abs(logits["transformers"] - expected).max() < 1e-5


def test_every_mistake_is_named_the_most_sure_first(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    with (digits_run / "mistakes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["evaluation"]["mistakes"]["count"] > 0
    used = json.loads((digits_run / "splits.json").read_text())["test"]
    labels = load_digits().target
    for row in rows:
        assert (row["split"], row["file"]) == (used["source"], "")
        assert int(row["row"]) in used["rows"]
        assert labels[int(row["row"])] == int(row["class"]) != int(row["predicted"])
    sure = [float(row["confidence"]) for row in rows]
    assert sure == sorted(sure, reverse=True)


def test_run_folder_is_as_designed(digits_run):
    names = {str(p.relative_to(digits_run)) for p in digits_run.rglob("*") if p.is_file()}
    assert names == {
        "config.yaml",
        "result.json",
        "splits.json",
        "lock.json",
        "complete.json",
        "predictions.safetensors",
        "metrics.csv",
        "mistakes.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model/config.json",
        "model/model.safetensors",
        "model/README.md",
        "model/evaluation.json",
        "model/figures/confusion.png",
        "model/figures/curves.png",
        "model/figures/reliability.png",
        "model/figures/mistakes.png",
        "model/figures/per_class.csv",
        "verify/inputs.safetensors",
        *(f"verify/images/{number:03}.png" for number in range(32)),
    }
    config = yaml.safe_load((digits_run / "config.yaml").read_text())
    assert (config["dataset"], config["model"], config["epochs"], config["lr"]) == ("digits", "resnest14d", 2, 2e-3)
    assert not {"output", "resume"} & set(config)
    rows = list(csv.DictReader((digits_run / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["val_loss"]) > 0 and float(row["seconds"]) > 0 for row in rows)


def test_result_has_the_contracts_keys(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    assert result["schema_version"] == 1
    assert result["task"] == "image-classification"
    assert {"name", "architecture", "pretrained_tag", "parameters", "image_size"} <= set(result["model"])
    assert {"id", "config", "revision", "license", "classes", "splits", "held_out"} <= set(result["dataset"])
    expected = {"accuracy", "top5_accuracy", "macro_f1", "balanced_accuracy", "loss"}
    assert set(result["metrics"]["test"]) == set(result["metrics"]["validation"]) == expected
    training = {"epochs", "best_epoch", "batch_size", "seconds", "images_per_second", "devices", "precision"}
    assert training <= set(result["training"])
    assert (result["model"]["weights"], result["training"]["ema"]) == ("raw", None)
    assert result["environment"]["timm"] == timm.__version__
    assert result["dataset"]["splits"] == {"train": 320, "validation": 40, "test": 40}
    assert result["model"]["parameters"] == sum(
        p.numel() for p in timm.create_model("resnest14d", num_classes=10).parameters()
    )


def test_splits_are_disjoint_and_stratified(digits_run):
    splits = json.loads((digits_run / "splits.json").read_text())
    rows = [set(splits[role]["rows"]) for role in ("train", "validation", "test")]
    assert [len(r) for r in rows] == [320, 40, 40]
    assert len(set.union(*rows)) == 400
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert np.bincount(target[list(rows[2])]).tolist() == pytest.approx([4] * 10, abs=1)


def test_best_epoch_is_the_one_exported(digits_run):
    rows = list(csv.DictReader((digits_run / "metrics.csv").read_text().splitlines()))
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    result = json.loads((digits_run / "result.json").read_text())
    assert result["training"]["best_epoch"] == int(best["epoch"])
    assert result["metrics"]["validation"]["accuracy"] == pytest.approx(float(best["val_accuracy"]), abs=1e-6)
    assert result["metrics"]["validation"]["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


def test_strangers_get_the_same_numbers(digits_run, tmp_path):
    check_strangers(digits_run, "digits", tmp_path / "logits.npz")


def test_variant_that_stock_timm_lacks_loads_in_stock_timm(cli, tmp_path):
    arguments = ["--model", "resnest50_fast_2s1x64d", "--dataset", "digits", "--no-pretrained", "--image-size", 32]
    arguments += ["--epochs", 2, "--max-samples", 120, "--workers", 0, "--accelerator", "cpu", "--output", "run"]
    done = cli("finetune", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert config["architecture"] == "resnest50d"
    assert config["model_args"]["block_args"] == {"radix": 2, "avd": True, "avd_first": True}
    assert "num_classes" not in config["model_args"]
    model = timm.create_model(f"local-dir:{tmp_path / 'run/model'}", pretrained=True)
    last_gammas = [block.bn3.weight.abs().min().item() for stage in (model.layer1, model.layer4) for block in stage]
    assert min(last_gammas) > 0
    check_strangers(tmp_path / "run", "digits", tmp_path / "logits.npz")


def test_config_file_repeats_the_run(digits_run, cli, tmp_path):
    done = cli("finetune", "--config", digits_run / "config.yaml", "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((f / "result.json").read_text()) for f in (digits_run, tmp_path / "again"))
    assert (tmp_path / "again/splits.json").read_text() == (digits_run / "splits.json").read_text()
    for role in ("validation", "test"):
        assert second["metrics"][role] == pytest.approx(first["metrics"][role], rel=1e-4)


def test_dataset_in_memory_with_string_classes_and_a_bad_image(tmp_path, caplog):
    from datasets import Dataset, Features, Image, Value
    from sklearn.datasets import load_digits

    sample = load_digits()
    keep = np.flatnonzero(sample.target < 3)[:90]
    import io

    from PIL import Image as PILImage

    def png(pixels):
        buffer = io.BytesIO()
        PILImage.fromarray((pixels * 15).astype("uint8")).save(buffer, format="png")
        return {"bytes": buffer.getvalue(), "path": None}

    images = [png(sample.images[i]) for i in keep]
    images[7] = {"bytes": images[7]["bytes"][:40], "path": None}
    names = ["zero", "one", "two"]
    data = Dataset.from_dict(
        {"picture": images, "kind": [names[sample.target[i]] for i in keep]},
        features=Features(picture=Image(), kind=Value("string")),
    )
    with caplog.at_level("INFO", logger="finetune"):
        result = run(
            RunConfig(
                model="resnest14d",
                dataset=data,
                pretrained=False,
                image_size=32,
                epochs=1,
                accelerator="cpu",
                workers=0,
                output=tmp_path / "run",
            )
        )
    assert result.dataset["classes"] == ["one", "two", "zero"]
    assert sum(result.dataset["splits"].values()) == 89
    assert [bad["row"] for bad in result.dataset["excluded"]["undecodable"]["train"]] == [7]
    assert "left out: 1 images of 'train' that do not decode, rows 7" in caplog.text
    assert "top5_accuracy" not in result.metrics["test"]
    rows = json.loads((tmp_path / "run/splits.json").read_text())
    assert all(7 not in part["rows"] for part in rows.values())


@pytest.mark.slow(seconds=300)
def test_real_photographs_reach_the_promised_accuracy(cli, shared_data, tmp_path):
    """The README's sign_digits run: at least 0.95 on the test split, and strangers agree."""
    data = shared_data / "sign_digits"
    arguments = ["--model", "resnest14d", "--dataset", data, "--no-pretrained", "--image-size", 64, "--epochs", 8]
    done = cli("finetune", *arguments, "--output", "run", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["metrics"]["test"]["accuracy"] >= 0.95
    assert result["dataset"]["splits"] == {"train": 1650, "validation": 206, "test": 206}
    assert result["dataset"]["license"] == "apache-2.0"
    check_strangers(tmp_path / "run", data, tmp_path / "logits.npz")


def test_whoever_may_read_the_folder_may_read_all_of_it(digits_run):
    modes = {path.name: path.stat().st_mode & 0o777 for path in digits_run.rglob("*") if path.is_file()}
    assert set(modes.values()) == {modes["result.json"]}, modes
