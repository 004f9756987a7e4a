"""`finetune.Predictor`, against the exported model in plain timm and a softmax of the test's own."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from finetune import FinetuneError, Predictor
from finetune.errors import ModelError
from finetune.tasks.multi_label.answering import MultiLabelPredictor


def digit(index):
    return Image.fromarray((load_digits().images[index] * (255 / 16)).round().astype(np.uint8))


@pytest.fixture
def model_folder(digits_run, tmp_path):
    """A copy of the run's model, and a function that changes its config.json."""
    folder = tmp_path / "model"
    shutil.copytree(digits_run / "model", folder)

    def calibrate(value):
        config = json.loads((folder / "config.json").read_text())
        config["calibration"] = value
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return calibrate


def expected(folder, pictures, temperature):
    """Probabilities of the eager float32 model, in float64."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(torch.stack([transform(picture.convert("RGB")) for picture in pictures])).double().numpy()
    odds = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [None, 0.25, 3])
def test_probabilities_are_those_of_the_float32_model_calibrated(model_folder, temperature):
    folder = model_folder(temperature and {"temperature": temperature})
    pictures = [digit(i) for i in range(7)]
    truth = expected(folder, pictures, temperature or 1)
    predictor = Predictor(folder, accelerator="cpu", batch_size=3)
    assert predictor.classes == tuple("0123456789")
    assert (predictor.temperature, predictor.calibrated) == (temperature or 1, temperature is not None)
    found = predictor(pictures, top_k=10)
    for row, prediction in zip(truth, found, strict=True):
        order = np.argsort(-row)
        assert prediction.label == prediction.top[0][0] == str(order[0])
        assert prediction.confidence == prediction.top[0][1]
        shares = [p for _, p in prediction.top]
        assert shares == sorted(shares, reverse=True)
        assert {name: p for name, p in prediction.top} == pytest.approx(
            {str(i): p for i, p in enumerate(row)}, abs=1e-4
        )


def test_a_run_a_model_folder_and_local_dir_are_the_same_model(digits_run):
    names = [digits_run, digits_run / "model", f"local-dir:{digits_run / 'model'}"]
    predictors = [Predictor(name, accelerator="cpu") for name in names]
    found = [predictor([digit(3)]) for predictor in predictors]
    assert found[0] == found[1] == found[2]
    assert len(found[0][0].top) == 5


def test_bf16_is_near(digits_run):
    pictures = [digit(i) for i in range(20)]
    in_bf16 = Predictor(digits_run, accelerator="cpu", precision="bf16").model
    pixels = torch.stack([Predictor(digits_run, accelerator="cpu").transform(p.convert("RGB")) for p in pictures])
    truth = expected(digits_run / "model", pictures, 1)
    with torch.inference_mode():
        found = in_bf16(pixels).double().softmax(1).numpy()
    assert 1e-5 < np.abs(found - truth).max() < 0.05


def norms(predictor):
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in predictor.model.modules())


def test_for_a_few_images_in_float32_the_model_stays_as_it_is(digits_run):
    few = Predictor(digits_run, accelerator="cpu", images=7)
    many = [Predictor(digits_run, accelerator="cpu", images=images) for images in (8, None)]
    assert norms(few) > 20
    assert [norms(predictor) for predictor in many] == [0, 0]
    assert norms(Predictor(digits_run, accelerator="cpu", images=7, precision="bf16")) == 0
    pixels = torch.stack([few.transform(digit(i).convert("RGB")) for i in range(7)])
    for predictor in many:
        torch.testing.assert_close(predictor.probabilities(pixels), few.probabilities(pixels), rtol=0, atol=1e-4)


def test_abstains_below_the_confidence_asked_for(digits_run):
    predictor = Predictor(digits_run, accelerator="cpu")
    pictures = [digit(i) for i in range(20)]
    confident = sorted(prediction.confidence for prediction in predictor(pictures))
    threshold = confident[10]
    for prediction in predictor(pictures, min_confidence=threshold):
        assert prediction.abstained == (prediction.label is None) == (prediction.confidence < threshold)
        assert prediction.top
    assert sum(p.abstained for p in predictor(pictures, min_confidence=threshold)) == 10


def test_images_are_turned_upright_and_to_rgb_like_in_evaluation(digits_run, tmp_path):
    """In memory as from a file, in any mode."""
    predictor = Predictor(digits_run, accelerator="cpu")
    upright = digit(7).resize((32, 32))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    with Image.open(tmp_path / "turned.png") as opened:
        same = [upright, upright.convert("RGBA"), opened, tmp_path / "turned.png", str(tmp_path / "upright.png")]
        answers = predictor(same)
    for answer in answers:  # convolutions of a batch may round differently from place to place
        assert answer.label == answers[0].label
        assert dict(answer.top) == pytest.approx(dict(answers[0].top), abs=1e-6)
    assert dict(predictor([turned])[0].top) != pytest.approx(dict(answers[0].top), abs=1e-3)


def test_an_imagenet_model_has_imagenets_names(tmp_path):
    config = {"architecture": "resnest14d", "pretrained_cfg": {"tag": "gluon_in1k", "num_classes": 1000}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = timm.create_model("resnest14d")
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    predictor = Predictor(tmp_path, accelerator="cpu")
    assert len(predictor.classes) == 1000
    assert predictor.classes[1] == "goldfish, Carassius auratus"
    assert not predictor.calibrated


@pytest.mark.parametrize(
    "value",
    [{"temperature": 0}, {"temperature": "hot"}, {"temperature": float("nan")}, {"temperature": float("inf")}, {}, []],
)
def test_a_broken_calibration_is_refused(model_folder, value):
    with pytest.raises(ModelError, match=r'expected "calibration": \{"temperature": a positive number\}'):
        Predictor(model_folder(value), accelerator="cpu")


def test_outputs_that_mean_something_else_are_refused(model_folder):
    folder = model_folder({"temperature": 1})
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'single_label_classification', got 'multi_label_classification'"):
        Predictor(folder, accelerator="cpu")
    assert MultiLabelPredictor(folder, accelerator="cpu").classes


def test_a_model_that_gives_nan_says_so(model_folder):
    folder = model_folder({"temperature": 1})
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["fc.bias"][3] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="gives NaN or infinite logits: its weights are damaged"):
        Predictor(folder, accelerator="cpu")([digit(0)])


def test_what_is_no_model_is_explained(tmp_path, digits_run):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("epochs: 1\n")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "begun": "holds no complete run .* --resume",
        tmp_path / "empty": "holds no model: expected a run, or a folder with config.json",
        tmp_path / "nowhere": "no such folder: .*nowhere",
        "resnst50": "unknown model 'resnst50'; did you mean resnest50",
    }
    for name, message in cases.items():
        with pytest.raises(ModelError, match=message):
            Predictor(name, accelerator="cpu")
    with pytest.raises(FinetuneError, match=r"--accelerator tpu: not on this machine, which has .*cpu"):
        Predictor(digits_run, accelerator="tpu")


def test_an_unreadable_image_is_named(digits_run, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    predictor = Predictor(digits_run, accelerator="cpu")
    with pytest.raises(FinetuneError, match=r"image 1 \(.*broken.jpg\) cannot be read: text, not an image$"):
        predictor([digit(0), tmp_path / "broken.jpg"])
    with pytest.raises(FinetuneError, match=r"image 0 \(nowhere.png\) cannot be read: .*No such file"):
        predictor(["nowhere.png"])
    assert predictor([]) == []
