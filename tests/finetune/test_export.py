"""`python -m finetune export`, and which images a certificate is made from."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import cards
from finetune import RunConfig, certify, onnx_export, run
from finetune.cli import main
from finetune.errors import ExportError


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


def test_a_file_that_differs_is_not_written(tmp_path):
    """A network whose export forgets what it does to odd batches."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")

    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            out = self.fc(x.flatten(1))
            return out if torch.onnx.is_in_onnx_export() == self.honest else out * 1.001

    model = Forgetful().eval()
    pixels = torch.randn(9, 3, 2, 2)
    model.honest = True  # the exported form is then the plain one, and eager is 0.1 % larger
    with pytest.raises(ExportError, match=r"onnxruntime's logits differ by 1\.0e-03 of the largest logit, expected"):
        onnx_export.write(model, tmp_path / "model.onnx", {}, pixels)
    assert list(tmp_path.iterdir()) == []
    model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match="onnxruntime's logits differ by nan"):
        onnx_export.write(model, tmp_path / "model.onnx", {}, pixels)
    assert list(tmp_path.iterdir()) == []

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            return self.fc(x.flatten(1))

    assert onnx_export.write(Plain().eval(), tmp_path / "model.onnx", {"temperature": "2.0"}, pixels) < 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map == {"temperature": "2.0"}


def test_mistakes_are_explained(digits_run, tmp_path, capsys, monkeypatch):
    cases = [
        (["resnest14d"], "expected a run or a model's folder, got 'resnest14d'"),
        (["/nowhere"], "no such folder: /nowhere"),
        ([str(digits_run), "--format", "tflite"], "--format must be one of onnx, got 'tflite'"),
        ([str(digits_run), "--output", str(tmp_path)], "is a folder: give a file's name"),
        ([str(digits_run), "--output", "/nowhere/model.onnx"], "there is no folder /nowhere"),
    ]
    for arguments, message in cases:
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert main(["export", str(digits_run)]) == 2
    assert "onnx, onnxscript, onnxruntime: not installed; pip install 'resnest-timm[onnx]'" in capsys.readouterr().err


def test_without_the_runs_images_they_are_read_again_or_are_noise(digits_run, tmp_path, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr(
        onnx_export, "write", lambda model, path, metadata, pixels: seen.append(pixels) or path.touch() or 0.0
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
