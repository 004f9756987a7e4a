"""model/verify.json: what makes it, what it says, and what it refuses."""

import importlib.util
import json
import re
import shutil
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import cards
from cards import CardError
from cards.__main__ import main
from cards.certificate import files
from cards.certificate.clients.stock_runtimes import prepare
from finetune.cli import main as finetune_main
from tests.conftest import need

CLASSES = ["cat", "dog", "\u732b"]
CLIENT = """
import json, sys
from pathlib import Path
import numpy as np
given = json.load(sys.stdin)
answer = json.loads(Path(__file__).with_suffix(".json").read_text())
assert answer["logits"] != "crash", "it crashed"
logits = np.array(answer["logits"], dtype=np.float32)
np.savez(given["output"], logits=logits, own=np.array(answer.get("own", logits), dtype=np.float32))
print("a library's remark")
print(json.dumps({"version": "1.2", "known": answer.get("known", []), "classes": answer["classes"]}))
"""
LOGITS = [[4.0, 1.0, -8.0], [0.0, 2.0, 1.0]]


@pytest.fixture
def run(tmp_path):
    """A run's folder as far as `cards.certificate.verify` reads it."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "verify").mkdir()
    (folder / "model/config.json").write_text(json.dumps({"label_names": CLASSES}))
    (folder / "model/model.safetensors").write_bytes(b"weights")
    logits = np.array(LOGITS, dtype=np.float32)
    save_file({"logits": logits, "pixels": np.zeros((2, 3, 1, 1), np.float32)}, folder / "verify/inputs.safetensors")
    return folder


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Stand-ins of the libraries' scripts; returns a function that says what they answer."""
    folder = tmp_path / "clients"
    folder.mkdir()
    monkeypatch.setattr(sys.modules["cards.certificate.verify"], "_CLIENTS", folder)

    def answer(**answers):
        for name in ("timm", "transformers"):
            (folder / f"stock_{name}.py").write_text(CLIENT)
            content = {"logits": LOGITS, "classes": CLASSES} | answers.get(name, {})
            (folder / f"stock_{name}.json").write_text(json.dumps(content))

    answer()
    return answer


def changed(row, column, by):
    logits = [list(values) for values in LOGITS]
    logits[row][column] += by
    return logits


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"logits": changed(0, 0, 9e-4)}, "largest difference 0.00011, 2 labels equal"),
        ({"logits": changed(1, 2, float("nan"))}, "NaN or infinite logits"),
        ({"logits": [LOGITS[0]]}, "expected logits of shape (2, 3), got (1, 3)"),
        ({"own": changed(1, 2, 1.01)}, "largest difference 0, 1 labels equal"),
        ({"own": [LOGITS[0]]}, "expected logits of shape (2, 3)"),
        ({"classes": ["dog", "cat", "\u732b"]}, "its class names are not those of config.json"),
        ({"known": ["finetune"]}, "the process imported finetune: it was not clean"),
        ({"logits": "crash"}, "AssertionError: it crashed"),
    ],
)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_what_a_library_finds_different_is_a_failure(run, clients, capsys, library, answer, reason):
    clients(**{library: answer})
    assert main(["verify", str(run)]) == 2
    captured = capsys.readouterr()
    assert f"the model did not pass: {library} ({reason}" in captured.err
    assert re.search(rf"^{library}( 1\.2)?: FAILED", captured.out, re.MULTILINE)
    assert len(re.findall(r" 1\.2: passed, largest difference 0.0e\+00 .*, 2 of 2 labels equal", captured.out)) == 1
    written = json.loads((run / "model/verify.json").read_text())
    assert written["passed"] is False
    with pytest.raises(CardError, match="did not pass"):
        files.check(run / "model")
    written |= {"passed": True}  # by hand
    (run / "model/verify.json").write_text(json.dumps(written))
    with pytest.raises(CardError, match="did not pass"):
        files.check(run / "model")


def test_numbers_are_not_called_labels(run, clients, capsys):
    numbers = np.array([[4.0], [2.0]], np.float32)
    save_file({"logits": numbers, "pixels": np.zeros((2, 3, 1, 1), np.float32)}, run / "verify/inputs.safetensors")
    (run / "model/config.json").write_text(json.dumps({"label_names": ["age"]}))
    same = {"logits": numbers.tolist(), "classes": ["age"]}
    clients(timm=same | {"own": [[4.0], [2.01]]}, transformers=same)
    assert main(["verify", str(run)]) == 2
    captured = capsys.readouterr()
    assert "the model did not pass: timm (largest difference 0, 1 numbers equal)" in captured.err
    assert (
        "transformers 1.2: passed, largest difference 0.0e+00 of the largest number, 2 of 2 numbers eq" in captured.out
    )


def test_differences_within_the_tolerance_pass(run, clients):
    """Also a label that is another by no more than that."""
    tie = [list(values) for values in LOGITS]
    tie[1] = [0.0, 2.0, 2.0 - 1e-4]
    save_file(
        {"logits": np.array(tie, np.float32), "pixels": np.zeros((2, 3, 1, 1), np.float32)},
        run / "verify/inputs.safetensors",
    )
    other = [tie[0], [0.0, 2.0, 2.0 + 1e-4]]
    clients(timm={"logits": other}, transformers={"logits": tie})
    made = cards.verify(run)
    assert made["passed"] is True
    assert made["checks"]["timm"]["labels_equal"] == 2
    assert made["checks"]["timm"]["largest_difference"] == pytest.approx(2e-4 / 8, rel=1e-2)
    assert made["checks"]["transformers"]["largest_difference"] == 0
    assert files.check(run / "model") == json.loads((run / "model/verify.json").read_text()) == made
    assert cards.verify(run / "model")["checks"] == made["checks"]


def test_a_library_that_is_not_installed_is_not_a_failure_but_timm_is_needed(run, clients, monkeypatch, capsys):
    found = sys.modules["cards.certificate.verify"].importlib.util.find_spec
    absent = {"transformers"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in absent else found(name, *rest))
    assert main(["verify", str(run)]) == 0
    assert "transformers: not tried, transformers is not installed" in capsys.readouterr().out
    checks = files.check(run / "model")["checks"]
    assert checks["transformers"] == {"passed": None, "reason": "transformers is not installed"}
    absent.add("timm")
    assert main(["verify", str(run)]) == 2
    assert "the model did not pass: timm did not" in capsys.readouterr().err
    written = json.loads((run / "model/verify.json").read_text()) | {"passed": True}  # by hand
    (run / "model/verify.json").write_text(json.dumps(written))
    with pytest.raises(CardError, match="did not pass: timm did not"):
        files.check(run / "model")


def test_secrets_stay_here(run, clients, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    spy = "import os; Path(given['output']).parent.joinpath('x'); "
    spy += f"Path({str(tmp_path / 'seen')!r}).write_text(json.dumps(dict(os.environ)))\n"
    path = tmp_path / "clients" / "stock_timm.py"
    path.write_text(path.read_text() + spy)
    assert cards.verify(run)["passed"]
    seen = json.loads((tmp_path / "seen").read_text())
    assert "hf_secret" not in seen.values()
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_other_files_than_the_verified_are_refused(run, clients):
    cards.verify(run)
    made = files.check(run / "model")
    (run / "model/verify.json").write_text(json.dumps(made | {"passed": False}))
    with pytest.raises(CardError, match="did not pass"):
        files.check(run / "model")
    cards.verify(run)
    for name in ("model.safetensors", "config.json"):
        content = (run / "model" / name).read_bytes()
        (run / "model" / name).write_bytes(content + b" ")
        with pytest.raises(
            CardError, match=rf"{re.escape(name)} is not the file that was verified: its SHA-256 begins"
        ):
            files.check(run / "model")
        (run / "model" / name).write_bytes(content)
    for name in ("model.onnx", "model.xml", "model.bin"):
        (run / "model" / name).write_bytes(b"exported since")
        with pytest.raises(CardError, match=rf"{re.escape(name)} is not the file that was verified"):
            files.check(run / "model")
        (run / "model" / name).unlink()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"version": 1, "checks": {"timm": {}}}', '{"version": 1, "checks": 3}']
)
def test_a_broken_certificate_is_refused(run, text):
    (run / "model/verify.json").write_text(text)
    with pytest.raises(CardError, match=r"verify\.json is broken .*: make it by `python -m cards verify"):
        files.check(run / "model")


def test_what_is_missing_is_named(run, tmp_path, capsys):
    with pytest.raises(CardError, match=r"has no certificate \(no verify\.json\): make it by `python -m cards verify"):
        files.check(run / "model")
    (run / "model/verify.json").write_text(json.dumps({"version": 2, "checks": {"timm": {"passed": True}}}))
    with pytest.raises(CardError, match="expected version 1, got 2"):
        files.check(run / "model")
    (run / "verify/inputs.safetensors").write_bytes(b"cut")
    assert main(["verify", str(run)]) == 2
    assert re.search("inputs.safetensors or .* is broken", capsys.readouterr().err)
    shutil.rmtree(run / "verify")
    assert main(["verify", str(run)]) == 2
    assert "expected the test images and logits of its run in" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "holds no model: expected" in capsys.readouterr().err


# --- the real libraries ----------------------------------------------------------------------------------------------


def digit_of(picture):
    """Which of the ten a test image shows, by its pixels."""
    sample = load_digits()
    pixels = np.asarray(picture.convert("L")).astype(int)
    return sample.target[np.abs((sample.images * (255 / 16)).round() - pixels).sum((1, 2)).argmin()]


def test_inputs_are_real_test_images_of_all_classes(digits_run):
    inputs = safetensors.torch.load_file(digits_run / "verify/inputs.safetensors")
    assert inputs["pixels"].shape == (32, 3, 32, 32)
    model = timm.create_model(f"local-dir:{digits_run / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    pictures = [Image.open(path) for path in sorted((digits_run / "verify/images").glob("*.png"))]
    torch.testing.assert_close(inputs["pixels"], torch.stack([transform(p) for p in pictures]), rtol=0, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(inputs["logits"], model(inputs["pixels"]), rtol=0, atol=1e-5)
    counts = np.bincount([digit_of(picture) for picture in pictures])
    assert len(counts) == 10
    assert set(counts) == {3, 4}


@pytest.mark.slow(seconds=60)
def test_export_and_certificate_by_the_real_libraries(digits_run, tmp_path, monkeypatch, capsys):
    """All at once, for the imports cost most: export, verify, refuse after a change, fail with other weights."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    need("openvino", "openvino")
    pytest.importorskip("transformers", reason="needs the extra `verify`")
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    config = json.loads((run / "model/config.json").read_text()) | {"calibration": {"temperature": 1.5}}
    (run / "model/config.json").write_text(json.dumps(config))
    for name in ("complete.json", "lock.json"):  # as of a run of before: they know the file as it was
        (run / name).unlink()
    assert finetune_main(["export", str(run), "--format", "openvino"]) == 0
    assert "OpenVINO gives the model's logits on 32 test images" in capsys.readouterr().out
    monkeypatch.delenv("FINETUNE_VERIFY")
    assert finetune_main(["export", str(run), "--format", "onnx"]) == 0
    said = capsys.readouterr().out
    assert "onnxruntime gives the model's logits on 32 test images" in said
    made = files.check(run / "model")
    assert made["images"] == 32
    assert list(made["checks"]) == ["timm", "transformers", "onnxruntime", "openvino"]
    for name, entry in made["checks"].items():
        assert entry["passed"] is True
        assert entry["labels_equal"] == 32
        assert entry["largest_difference"] < 1e-5
        assert f"verified by {name} {entry['version']}: passed" in said
    assert not list((run / "model").glob("*.part"))

    session = onnxruntime.InferenceSession(run / "model/model.onnx")
    told = session.get_modelmeta().custom_metadata_map
    how = json.loads(told["preprocessing"])
    assert (how["input_size"], how["crop_mode"], how["interpolation"]) == ([3, 32, 32], "center", "bilinear")
    assert json.loads(told["classes"]) == list("0123456789")
    assert json.loads(told["temperature"]) == 1.5
    assert told["weights_sha256"] == made["weights_sha256"]
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    pixels = torch.randn(11, 3, 32, 32)
    with torch.inference_mode():
        expected = model(pixels).numpy()
    for count in (1, 2, 11):
        assert np.abs(session.run(None, {"pixels": pixels[:count].numpy()})[0] - expected[:count]).max() < 1e-4

    weights = safetensors.torch.load_file(run / "model/model.safetensors")
    weights["fc.weight"][2] += 0.02
    safetensors.torch.save_file(weights, run / "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CardError, match=r"model\.safetensors is not the file that was verified"):
        files.check(run / "model")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "transformers" else found(name))
    assert main(["verify", str(run / "model")]) == 2  # without transformers: its import costs the most
    said = capsys.readouterr().err
    assert re.search(r"did not pass: timm \(largest difference \S+, \d+ labels equal\)", said)
    assert json.loads((run / "model/verify.json").read_text())["checks"]["timm"]["largest_difference"] > 1e-3
    assert "onnxruntime (model.onnx was made from other weights; export it again)" in said
    assert "openvino (model.xml was made from other weights; export it again)" in said


@pytest.mark.parametrize("shape", [(8, 8), (37, 52), (640, 480), (101, 399)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation"), [(32, 0.875, "bilinear"), (64, 0.9, "bicubic"), (48, 1, "bicubic")]
)
def test_what_the_metadata_say_is_timms_preprocessing(shape, crop_mode, size, crop_pct, interpolation):
    how = {"input_size": (3, size, size), "crop_pct": crop_pct, "crop_mode": crop_mode}
    how |= {"interpolation": interpolation, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8))
    expected = timm.data.create_transform(**how)(image).numpy()
    found = prepare(image, how)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
