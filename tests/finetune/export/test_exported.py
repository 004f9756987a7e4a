"""`python -m finetune predict` on a file that `export` wrote, alone and without a model in PyTorch."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from finetune import Predictor
from finetune.cli import main
from finetune.commands import export as flow
from finetune.export.formats import named
from tests.conftest import need

FILES = {"onnx": "model.onnx", "openvino": "model.xml"}


@pytest.fixture(scope="module")
def files(digits_run, tmp_path_factory):
    """Each format's file in a folder where nothing else of the run is."""
    for name in FILES:
        for package in (*named(name).writes, named(name).runs):
            need(package, name)
    folder = tmp_path_factory.mktemp("files")
    for name, file in FILES.items():
        (folder / name).mkdir()
        arguments = ["--format", name, "--output", str(folder / name / file)]
        assert main(["export", str(digits_run / "model"), *arguments]) == 0
    return {name: folder / name / file for name, file in FILES.items()}


@pytest.fixture(scope="module")
def photos(digits_run, tmp_path_factory):
    """Real images, of other shapes than the model's, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(sorted((digits_run / "verify/images").glob("*.png"))[:11]):
        Image.open(path).convert("RGB").resize((40 + number, 33)).save(folder / path.name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def told(capsys, model, photos, *arguments):
    assert main(["predict", str(model), str(photos), "--batch-size", "4", "--top-k", "10", *arguments]) == 0
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


@pytest.mark.parametrize("name", FILES)
def test_a_file_alone_answers_as_its_run_does(name, digits_run, files, photos, capsys, monkeypatch):
    expected, _ = told(capsys, digits_run, photos, "--accelerator", "cpu", "--workers", "0")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("built a model in PyTorch"))
    found, said = told(capsys, files[name], photos, "--workers", "2")
    temperature = json.loads((digits_run / "model/config.json").read_text())["calibration"]["temperature"]
    assert f"12 images, 10 classes, temperature {temperature:.4g}" in said
    assert "no calibration" not in said
    assert len(found) == len(expected) == 12
    for ours, other in zip(expected, found, strict=True):
        assert ours.keys() == other.keys()
        assert {key: ours.get(key) for key in ("image", "label", "abstained", "error")} == {
            key: other.get(key) for key in ("image", "label", "abstained", "error")
        }
        shares = [{entry["label"]: entry["probability"] for entry in record.get("top", [])} for record in (ours, other)]
        assert shares[1] == pytest.approx(shares[0], abs=1e-4)
    assert sum("error" in record for record in found) == 1


def test_bf16_is_what_was_asked_for(files, photos, capsys):
    """Its probabilities are a little different where the CPU has bfloat16, and float32's are not."""
    exact, _ = told(capsys, files["openvino"], photos, "--workers", "0")
    rounded, _ = told(capsys, files["openvino"], photos, "--workers", "0", "--precision", "bf16")
    pairs = [(a["confidence"], b["confidence"]) for a, b in zip(exact, rounded, strict=True) if "error" not in a]
    assert np.abs(np.diff(pairs)).max() < 0.05
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert np.abs(np.diff(pairs)).max() > 1e-5


@pytest.mark.parametrize("name", FILES)
def test_from_python(name, digits_run, files):
    pictures = [Image.open(path) for path in sorted((digits_run / "verify/images").glob("*.png"))[:7]]
    expected = Predictor(digits_run, accelerator="cpu")(pictures, top_k=3)
    predictor = Predictor(files[name], batch_size=3)
    assert (predictor.name, predictor.device.type, predictor.classes) == (str(files[name]), "cpu", tuple("0123456789"))
    assert predictor.calibrated
    found = predictor(pictures, top_k=3)
    assert [p.label for p in found] == [p.label for p in expected]
    assert [p.confidence for p in found] == pytest.approx([p.confidence for p in expected], abs=1e-4)


def test_mistakes_are_explained(files, photos, tmp_path, capsys, monkeypatch):
    alone = shutil.copy(files["openvino"], tmp_path / "alone.xml")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    bare = {name: tmp_path / f"bare{path.suffix}" for name, path in files.items()}
    for name, path in bare.items():
        flow.write(named(name), nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), path, {}, torch.randn(3, 3, 2, 2))
    picture = next(iter(photos.iterdir()))
    cases = [
        (
            [tmp_path / "no.onnx", picture],
            "no such file: .*no.onnx; `python -m finetune export RUN --format onnx` writes",
        ),
        ([alone, picture], "OpenVINO cannot run .*alone.xml: .*bin.* cannot be found.*, with alone.bin beside it"),
        ([broken, picture], "onnxruntime cannot run .*broken.onnx: .*; expected it as `python -m finetune export RUN"),
        *(
            (
                [path, picture],
                r"expected metadata that say how to prepare an image, the classes and the temperature, got",
            )
            for path in bare.values()
        ),
        (
            [files["onnx"], picture, "--precision", "bf16"],
            "--precision bf16: onnxruntime computes model.onnx in float32",
        ),
        ([files["onnx"], picture, "--accelerator", "gpu"], "--accelerator gpu: onnxruntime runs model.onnx on the CPU"),
        ([files["openvino"], "--split", "test"], "--split without --dataset is for a run, got the file .*model.xml"),
    ]
    for arguments, message in cases:
        assert main(["predict", *map(str, arguments)]) == 2
        assert re.search(message, capsys.readouterr().err), message
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    for name, package in {"onnx": "onnxruntime", "openvino": "openvino"}.items():
        assert main(["predict", str(files[name]), str(picture)]) == 2
        assert f"{package}: not installed; pip install 'resnest-timm[{name}]'" in capsys.readouterr().err


def test_openvino_tells_nobody_that_it_was_imported():
    need("openvino_telemetry", "openvino")
    code = "import sys; from finetune.export import openvino; openvino.library().Core(); "
    code += "told = 'openvino_telemetry' in sys.modules; import openvino_telemetry; print(told)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
