"""From a dataset of masks to a model that others load, by the command line; on small drawn images."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import load_file

import cards
from finetune.errors import ConfigError, ModelError
from finetune.export.network import Network
from finetune.tasks.segmentation import saving
from finetune.tasks.segmentation.answering import exported
from tests import spaces
from tests.conftest import need
from tests.finetune.tasks.segmentation import drawn

SETTINGS = (
    "--task semantic-segmentation --no-pretrained --image-size 64 --epochs 2 --batch-size 8 --lr 4e-3 "
    "--precision 32-true --workers 0 --no-robustness"
)


def finetune(*words):
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    drawn.in_memory(drawn.scenes(40, void=True), names=drawn.NAMES[3]).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Trained on two processes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--dataset", dataset, "--model", "resnest14d", *SETTINGS.split(), "--output", folder]
    done = finetune(*words, "--accelerator", "cpu", "--devices", 2)
    assert "task: semantic-segmentation" in done.stdout
    assert re.search(r"epoch 2/2: train loss [\d.]+, validation loss [\d.]+, validation mean IoU", done.stdout)
    assert re.search(r"always one class: the mean IoU of answering 'background' everywhere", done.stdout)
    return folder


@pytest.mark.slow(seconds=60)
def test_its_numbers(run):
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "semantic-segmentation"
    assert list(result["metrics"]["test"]) == ["mean_iou", "pixel_accuracy", "mean_accuracy", "macro_dice", "loss"]
    evaluation = result["evaluation"]
    rows = evaluation["per_class"]["test"]
    assert np.mean([row["iou"] for row in rows if row["iou"] is not None]) == pytest.approx(
        result["metrics"]["test"]["mean_iou"]
    )
    assert sum(row["pixels"] for row in rows) == sum(map(sum, evaluation["confusion"]["test"]))
    assert set(evaluation["figures"]) == {"examples", "iou", "confusion", "reliability", "curves"}
    assert all((run / "model" / path).is_file() for path in evaluation["figures"].values())
    assert result["training"]["chosen_by"] == "validation mean IoU, then loss"
    low, high = evaluation["intervals"]["test"]["mean_iou"]
    assert low <= result["metrics"]["test"]["mean_iou"] <= high


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("devices", [1, 3])
def test_numbers_are_the_same_on_any_number_of_processes(run, devices):
    words = ("evaluate", run, "--accelerator", "cpu", "--devices", devices, "--workers", 0, "--json")
    found = json.loads(finetune(*words).stdout)
    recorded = json.loads((run / "result.json").read_text())
    assert found["metrics"] == pytest.approx(recorded["metrics"]["test"], rel=1e-6)
    assert found["intervals"]["mean_iou"] == pytest.approx(recorded["evaluation"]["intervals"]["test"]["mean_iou"])


@pytest.mark.slow(seconds=60)
def test_classes_of_another_dataset_are_matched_by_name(run, tmp_path):
    """The same masks with the classes numbered otherwise, and a dataset with a class of its own."""
    swapped = np.arange(256, dtype=np.uint8)
    swapped[:3] = [2, 1, 0]
    scenes = drawn.scenes(12, seed=1, void=True)
    drawn.in_memory(scenes, names=drawn.NAMES[3]).save_to_disk(tmp_path / "same")
    other = [(image, swapped[mask]) for image, mask in scenes]
    drawn.in_memory(other, names=drawn.NAMES[3][::-1]).save_to_disk(tmp_path / "other")
    common = ("--accelerator", "cpu", "--workers", 0, "--json", "--dataset")
    ours, theirs = (json.loads(finetune("evaluate", run, *common, tmp_path / of).stdout) for of in ("same", "other"))
    assert theirs["metrics"] == pytest.approx(ours["metrics"], rel=1e-9)
    assert ours["classes_by"] == "name"


@pytest.mark.slow(seconds=30)
@spaces.needs_gradio
def test_the_space_shows_the_classes_that_predict_finds(run, tmp_path):
    ((pixels, _),) = drawn.scenes(1, seed=5)
    picture = tmp_path / "scene.png"
    Image.fromarray(pixels).save(picture)
    code = "assert app.segment(None, 1.0) == (None, ''); shown, names = app.segment(pictures[0], 1.0)\n"
    code += "said = [[[int((shown == colour).all(2).sum()) for colour in app.colours], app.classes], names]"
    (counts, classes), names = spaces.asked(run / "model", [picture], code, tmp_path)
    words = ("predict", run, picture, "--accelerator", "cpu", "--workers", 0, "--output", tmp_path / "masks")
    finetune(*words)
    (mask,) = (tmp_path / "masks").rglob("*.png")
    with Image.open(mask) as opened:
        expected = np.bincount(np.asarray(opened).ravel(), minlength=len(classes))
    assert sum(counts) == expected.sum() == pixels.shape[0] * pixels.shape[1]
    np.testing.assert_allclose(counts, expected, atol=0.002 * sum(counts))
    assert all(name in names for name, count in zip(classes, counts, strict=True) if count)


@pytest.mark.slow(seconds=60)
def test_strangers_load_it_and_the_card_says_how(run, tmp_path):
    made = cards.verify(run)
    entry = made["checks"]["segmentation_models_pytorch"]
    assert entry["passed"], entry
    assert entry["labels_equal"] == made["images"] > 2
    cards.build(run)
    page = (run / "model/README.md").read_text()
    assert "pipeline_tag: image-segmentation" in page
    assert "type: mean_iou" in page
    assert "library_name: segmentation-models-pytorch" in page
    assert "import resnest_timm" not in page
    (code,) = re.findall(r"With segmentation_models_pytorch:\n\n```python\n(.*?)```", page, re.DOTALL)
    folder = shutil.copytree(run / "model", tmp_path / "model")
    image, _ = drawn.scenes(1, seed=5)[0]
    Image.fromarray(image).save(folder / "photo.jpg", quality=95)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {name: float(share) for share, name in re.findall(r"^(0\.\d+|1\.0+) (.*)$", done.stdout, re.MULTILINE)}
    (line,) = finetune("predict", run, folder / "photo.jpg", "--accelerator", "cpu", "--workers", 0).stdout.splitlines()
    assert said == pytest.approx(json.loads(line)["shares"], abs=2e-4)


@pytest.mark.slow(seconds=60)
def test_config_has_nothing_of_ours_and_weights_are_equal(run):
    network = saving.load(run / "model").eval()
    stranger = smp.from_pretrained(str(run / "model")).eval()
    pixels = load_file(run / "verify/inputs.safetensors")["pixels"]
    with torch.inference_mode():
        assert torch.equal(network(pixels), stranger(pixels))
    config = json.loads((run / "model/config.json").read_text())
    assert set(config) == {"_model_class", "encoder_name", "encoder_weights", "in_channels", "classes"}
    assert network.classes == ("background", "leaf", "stem")


def opened(path):
    with Image.open(path) as image:
        image.load()
    return image


@pytest.mark.slow(seconds=60)
def test_predict_writes_masks_with_a_palette(run, tmp_path):
    (tmp_path / "in/more").mkdir(parents=True)
    for name, (image, _) in zip(("a.png", "more/a.png"), drawn.scenes(2, seed=6), strict=True):
        Image.fromarray(image).save(tmp_path / "in" / name)
    words = ("predict", run, tmp_path / "in", "--output", tmp_path / "out", "--overlay", "--accelerator", "cpu")
    lines = [json.loads(line) for line in finetune(*words, "--workers", 0, "--format", "json").stdout.splitlines()]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a-2.overlay.png",
        "a-2.png",
        "a.overlay.png",
        "a.png",
    ]
    for line in lines:
        mask, image, overlay = (opened(line[name]) for name in ("mask", "image", "overlay"))
        assert mask.mode == "P"
        assert mask.size == image.size == overlay.size
        counts = np.bincount(np.asarray(mask).ravel(), minlength=3) / (mask.width * mask.height)
        names = ("background", "leaf", "stem")
        assert line["shares"] == pytest.approx({names[i]: c for i, c in enumerate(counts) if c}, abs=1e-6)


@pytest.mark.slow(seconds=60)
def test_an_exported_file_takes_any_height_and_width(run, tmp_path):
    need("onnxruntime", "onnx")
    import onnxruntime

    folder = shutil.copytree(run, tmp_path / "run")
    finetune("export", folder)
    session = onnxruntime.InferenceSession(folder / "model/model.onnx")
    network = saving.load(folder / "model").eval()
    for shape in ((1, 3, 32, 96), (2, 3, 128, 64)):
        pixels = torch.randn(shape)
        with torch.inference_mode():
            live = network(pixels).numpy()
        found = session.run(None, {"pixels": pixels.numpy()})[0]
        assert np.abs(found - live).max() <= 1e-4 * np.abs(live).max()
    made = cards.verify(folder)
    assert made["passed"]
    assert made["checks"]["onnxruntime"]["passed"]
    image = tmp_path / "photo.png"
    Image.fromarray(drawn.scenes(1, seed=5)[0][0]).save(image)
    alone = shutil.copy(folder / "model/model.onnx", tmp_path / "alone.onnx")
    lines = [
        json.loads(finetune("predict", model, image, "--accelerator", "cpu", "--workers", 0).stdout)
        for model in (run, alone)
    ]
    assert lines[0]["shares"] == pytest.approx(lines[1]["shares"], abs=1e-3)


def test_a_file_that_does_not_say_how_to_use_it_is_refused(tmp_path):
    form = SimpleNamespace(library="onnxruntime", command="export", open=lambda *_: Network({"classes": "[]"}, None))
    with pytest.raises(ModelError, match=r"expected metadata .*, got classes; use a file that `export` has written"):
        exported.read(form, tmp_path / "model.onnx", "cpu")
    with pytest.raises(ConfigError, match=r"--accelerator cuda: onnxruntime runs model.onnx on the CPU; give the run"):
        exported.read(form, tmp_path / "model.onnx", "cuda")


@pytest.mark.slow(seconds=60)
def test_a_dilated_backbone_is_not_mistaken_for_timm_s(dataset, tmp_path):
    words = ["--dataset", dataset, "--model", "resnest14d", *SETTINGS.split(), "--output", tmp_path / "run"]
    finetune(*words, "--epochs", 1, "--decoder", "deeplabv3plus", "--accelerator", "cpu", "--devices", 1)
    code = "import segmentation_models_pytorch as smp, sys; smp.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run/model"], capture_output=True, check=False)
    assert done.returncode != 0
    made = cards.verify(tmp_path / "run")
    assert made["passed"]
    assert made["checks"]["segmentation_models_pytorch"]["version"].endswith("with resnest_timm")
    assert "import resnest_timm" in (tmp_path / "run/model/README.md").read_text()
