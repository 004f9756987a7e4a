"""`python -m finetune export`, and which images a certificate is made from."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import cards
from finetune import RunConfig, run
from finetune.cli import main
from finetune.commands import export as flow
from finetune.errors import ExportError
from finetune.export import certify, formats
from tests.conftest import need


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([4] * 10, 32, [4, 3, 3, 3, 3, 4, 3, 3, 3, 3]),
        ([1, 50], 32, [1, 31]),
        ([5, 0, 2], 32, [5, 0, 2]),
        ([2] * 4, 3, [1, 1, 1, 0]),
        ([3, 3], 0, [0, 0]),
    ],
)
def test_images_are_spread_over_the_classes(sizes, count, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = certify.spread(labels, count)
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.bincount(labels[chosen], minlength=len(sizes)).tolist() == expected


def test_of_more_classes_than_images_they_are_evenly_spaced():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 3))
    assert np.diff(labels[certify.spread(labels, 32)]).tolist() == pytest.approx([31.25] * 31, abs=1)
    assert certify.spread(np.empty(0, dtype=np.int64), 32).tolist() == []


def test_a_runs_last_steps_are_certificate_and_card(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("FINETUNE_VERIFY")
    seen = []

    def fake(folder):
        seen.append(((folder / "result.json").is_file(), (folder / "model/README.md").is_file()))
        raise cards.CardError("no luck")

    monkeypatch.setattr(cards, "verify", fake)
    folder = tmp_path / "run"
    config = RunConfig(model="resnest14d", dataset="digits", pretrained=False, image_size=32, epochs=1, workers=0)
    with caplog.at_level("INFO", logger="finetune"):
        run(RunConfig(**{**vars(config), "max_samples": 100, "accelerator": "cpu", "output": folder}))
        assert seen == [(True, False)]  # saved before, and the card can tell of it
        assert (folder / "model/README.md").is_file()
        assert "warning: no certificate: no luck" in caplog.text
        monkeypatch.setenv("FINETUNE_VERIFY", "0")
        certify.certify(folder)
    assert "not verified (FINETUNE_VERIFY=0)" in caplog.text
    assert len(seen) == 1


LIBRARIES = {"onnx": "onnxruntime", "openvino": "OpenVINO"}


class Forgetful(nn.Module):
    """In its exported form the outputs are another `scale` of the inputs than in the live one."""

    def __init__(self, scale):
        super().__init__()
        self.fc = nn.Linear(12, 3)
        self.scale = scale

    def forward(self, x):
        out = self.fc(x.flatten(1))
        return out if torch.compiler.is_exporting() else out * self.scale


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_file_that_differs_is_not_written(name, tmp_path):
    form = formats.named(name)
    for package in (*form.writes, form.runs):
        need(package, name)
    path, pixels = tmp_path / form.file, torch.randn(9, 3, 2, 2)
    model = Forgetful(1.001).eval()
    said = rf"{LIBRARIES[name]}'s logits differ by 1\.0e-03 of the largest logit, expected at most 0.0001: nothing was"
    with pytest.raises(ExportError, match=said):
        flow.write(form, model, path, {}, pixels)
    assert list(tmp_path.iterdir()) == []
    model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=f"{LIBRARIES[name]}'s logits differ by nan"):
        flow.write(form, model, path, {}, pixels)
    assert list(tmp_path.iterdir()) == []

    told = {"temperature": "2.0", "classes": '["<a> & \\"b\\"", "\\u732b", "c\'"]'}
    plain = Forgetful(1).eval()
    assert flow.write(form, plain, path, told, pixels) < 1e-6
    assert sorted(tmp_path.iterdir()) == sorted(form.parts(path))
    network = form.open(path)
    assert network.metadata == told
    for count in (1, 2, 9):
        with torch.inference_mode():
            expected = plain(pixels[:count])
        torch.testing.assert_close(torch.from_numpy(network.run(pixels[:count].numpy())), expected, rtol=0, atol=1e-5)


def test_mistakes_are_explained(digits_run, tmp_path, capsys, monkeypatch):
    cases = [
        (["resnest14d"], "expected a run or a model's folder, got 'resnest14d'"),
        (["/nowhere"], "no such folder: /nowhere"),
        ([str(digits_run), "--format", "tflite"], "--format must be one of onnx, openvino, got 'tflite'"),
        ([str(digits_run), "--format", "openvino", "--output", "x.onnx"], "expected a name that ends in .xml"),
        ([str(digits_run), "--output", str(tmp_path)], "is a folder: give a file's name"),
        ([str(digits_run), "--output", "/nowhere/model.onnx"], "there is no folder /nowhere"),
    ]
    for arguments, message in cases:
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert main(["export", str(digits_run)]) == 2
    assert "onnx, onnxscript, onnxruntime: not installed; pip install 'resnest-timm[onnx]'" in capsys.readouterr().err
    assert main(["export", str(digits_run), "--format", "openvino"]) == 2
    assert "openvino: not installed; pip install 'resnest-timm[openvino]'" in capsys.readouterr().err


def test_without_the_runs_images_they_are_read_again_or_are_noise(digits_run, tmp_path, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr(
        flow, "write", lambda form, model, path, metadata, pixels: seen.append(pixels) or path.touch() or 0.0
    )
    older = tmp_path / "older"
    shutil.copytree(digits_run, older)
    shutil.rmtree(older / "verify")
    assert main(["export", str(older)]) == 0
    alone = tmp_path / "alone"
    shutil.copytree(digits_run / "model", alone)
    assert main(["export", str(alone), "--output", str(tmp_path / "x.onnx")]) == 0
    assert main(["export", str(digits_run), "--output", str(tmp_path / "y.onnx")]) == 0
    assert torch.equal(seen[0], seen[2])
    assert seen[1].shape == (8, 3, 32, 32)
    assert (tmp_path / "x.onnx").is_file()
