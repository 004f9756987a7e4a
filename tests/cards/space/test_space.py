"""The Space's folder: its app runs with stock timm on the model as the Hub has it, and says what `predict` says."""

import ast
import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cards import CardError
from cards.space import folder as space
from finetune import Predictor
from tests import spaces


@pytest.mark.slow(seconds=20)
@spaces.needs_gradio
def test_the_app_says_what_predict_says(digits_run, tmp_path):
    paths = []
    for i, pixels in enumerate(load_digits().images[:6]):
        paths.append(tmp_path / f"{i}.png")
        picture = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        (picture.convert("RGBA") if i == 3 else picture).save(paths[-1])
    model = tmp_path / "model"
    shutil.copytree(digits_run / "model", model)
    config = json.loads((model / "config.json").read_text())
    assert config["calibration"]["temperature"] != 1
    config["label_names"][8:] = ["same", "same"]
    (model / "config.json").write_text(json.dumps(config))
    names = [*"01234567", "same (class 8)", "same (class 9)"]
    code = "assert app.classify(None) == {}; said = [list(app.classify(picture).items()) for picture in pictures]"
    answers = spaces.asked(model, paths, code, tmp_path)
    predictor = Predictor(digits_run, accelerator="cpu")
    for said, prediction in zip(answers, predictor(paths), strict=True):
        expected = {names[predictor.classes.index(name)]: p for name, p in prediction.top}
        assert [name for name, _ in said] == list(expected)
        assert dict(said) == pytest.approx(expected, abs=1e-4)


def test_the_folder_is_a_space_and_versions_are_those_of_here(digits_run, tmp_path):
    folder = tmp_path / "deep" / "space"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    (folder / "app.py").write_text("old")
    assert space.build(digits_run / "model", "o-w.ner/na_me.1", folder) == folder
    assert {path.name for path in folder.iterdir()} == {"README.md", "app.py", "requirements.txt", "mine.txt"}
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(head)
    assert (data["title"], data["sdk"], data["app_file"], data["models"]) == (
        "na_me.1",
        "gradio",
        "app.py",
        ["o-w.ner/na_me.1"],
    )
    assert data["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert data["sdk_version"].startswith("6.")
    assert "10 classes, with calibrated probabilities" in text
    import safetensors
    import timm
    import torch
    import torchvision

    versions = {m.__name__: m.__version__.split("+")[0] for m in (torch, torchvision, timm, safetensors)}
    assert (folder / "requirements.txt").read_text().splitlines() == [f"{n}=={v}" for n, v in versions.items()]
    tree = ast.parse((folder / "app.py").read_text())
    assigned = {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign)}
    assert assigned["MODEL"].value == "o-w.ner/na_me.1"
    assert "hf upload o-w.ner/na_me.1" in space.instructions(folder, "o-w.ner/na_me.1")


def test_a_model_without_calibration_promises_none(digits_run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(digits_run / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["calibration"] = None
    (model / "config.json").write_text(json.dumps(config))
    text = (space.build(model, "a/b", tmp_path / "space") / "README.md").read_text()
    assert "the model's own probabilities" in text
    assert "calibrated" not in text


@pytest.mark.parametrize(
    ("repo_id", "message"),
    [
        ("digits", "expected a repository as OWNER/NAME, got 'digits'"),
        ('a/b"\nimport os', "is no name of a repository: Repo id must use alphanumeric"),
        ("a/b/c", "expected a repository as OWNER/NAME, got 'a/b/c'"),
    ],
)
def test_what_is_no_repository_is_refused(digits_run, tmp_path, repo_id, message):
    with pytest.raises(CardError, match=message):
        space.build(digits_run / "model", repo_id, tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"holds no model \(no config.json, model.safetensors\)"):
        space.build(tmp_path, "a/b", tmp_path / "space")
