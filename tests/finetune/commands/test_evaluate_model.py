"""`python -m finetune evaluate MODEL --dataset ...`, against stock timm in a loop of the test's own."""

import json
import re

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import ImageNetInfo, create_transform
from torchvision.transforms import Compose
from torchvision.transforms import functional as TF

import resnest_timm  # noqa: F401
from finetune.cli import main
from finetune.loading import transforms
from tests.hub_standin import HubStandIn

WORDNET_IDS = ImageNetInfo("imagenet-1k").label_names()
REPO = "timm/resnest14d.gluon_in1k"
CONFIG = {
    "tag": "gluon_in1k",
    "input_size": [3, 224, 224],
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
}


@pytest.fixture(scope="module")
def model():
    """Random weights whose logits differ enough to tell a wrong label by the loss."""
    torch.manual_seed(0)
    model = timm.create_model("resnest14d").eval()
    model.fc.weight.data *= 100
    return model


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The usual layouts of ImageNet's validation images and of ImageNet-V2, one small image of noise per class."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for index, wordnet_id in enumerate(WORDNET_IDS):
        image = Image.fromarray(rng.integers(0, 256, (20 + index % 7, 24, 3), dtype=np.uint8))
        for name in (f"ILSVRC2012/val/{wordnet_id}", f"imagenetv2-matched-frequency-format-val/{index}"):
            folder = root / name
            folder.mkdir(parents=True)
            image.save(folder / f"ILSVRC2012_val_{index:08d}.JPEG")
    return root


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The model in timm's form, for `local-dir:`."""
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps({"architecture": "resnest14d", "pretrained_cfg": CONFIG}))
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path / "model.safetensors")
    return path


def expected(model, images, transform):
    """Metrics by a plain loop: `images` are (path, class index)."""
    with torch.inference_mode():
        logits = torch.cat([model(transform(Image.open(p).convert("RGB"))[None]) for p, _ in images]).double()
    targets = torch.tensor([index for _, index in images])
    top = logits.topk(5).indices == targets[:, None]
    return {
        "accuracy": top[:, 0].double().mean().item(),
        "top5_accuracy": top.any(1).double().mean().item(),
        "loss": F.cross_entropy(logits, targets).item(),
    }


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize(
    ("layout", "protocol"),
    [
        ("ILSVRC2012", "timm"),
        ("ILSVRC2012/val", "paper"),
        ("imagenetv2-matched-frequency-format-val", "timm"),
    ],
)
def test_folders_of_imagenet_give_the_numbers_of_a_plain_loop(model, folder, imagenet, capsys, layout, protocol):
    arguments = ["--dataset", str(imagenet / layout), "--protocol", protocol, "--image-size", "32", "--json"]
    arguments += ["--accelerator", "cpu", "--workers", "0", "--batch-size", "200"]
    assert main(["evaluate", f"local-dir:{folder}", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    config = CONFIG | {"input_size": (3, 32, 32)}
    config = {key: config[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std")}
    transform = paper_normalised(config) if protocol == "paper" else create_transform(**config)
    images = [(imagenet / f"ILSVRC2012/val/{w}/ILSVRC2012_val_{i:08d}.JPEG", i) for i, w in enumerate(WORDNET_IDS)]
    for name, value in expected(model, images, transform).items():
        assert said["metrics"][name] == pytest.approx(value, rel=1e-5)
    assert said["images"] == said["classes"] == 1000
    assert said["protocol"]["name"] == protocol
    assert said["protocol"]["interpolation"] == {"timm": "bilinear", "paper": "bicubic"}[protocol]
    low, high = said["intervals"]["accuracy"]
    assert 0 <= low <= said["metrics"]["accuracy"] <= high <= 1
    assert said["published"] is None  # these weights were never published


@pytest.mark.slow(seconds=25)
def test_any_number_of_devices_counts_every_image_once(folder, imagenet, cli, capsys):
    arguments = ["--dataset", str(imagenet / "ILSVRC2012"), "--image-size", "32", "--max-samples", "101", "--json"]
    arguments = ["evaluate", f"local-dir:{folder}", *arguments, "--accelerator", "cpu", "--workers", "0", "--devices"]
    assert main([*arguments, "1"]) == 0
    one = json.loads(capsys.readouterr().out)
    done = cli("finetune", *arguments, 2)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert one["images"] == two["images"] == 101
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert two["metrics"]["accuracy"] == one["metrics"]["accuracy"]


@pytest.mark.slow(seconds=25)
def test_published_number_stands_beside_and_a_difference_is_said_plainly(model, imagenet, cli, tmp_path):
    """Weights from the Hub: random ones here, so far from the published accuracy."""
    weights = safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()})
    config = json.dumps({"architecture": "resnest14d", "pretrained_cfg": CONFIG}).encode()
    with HubStandIn() as hub:
        hub.add_model(REPO, {"config.json": config, "model.safetensors": weights})
        environment = hub.environment(tmp_path / "home")
        arguments = ["--dataset", imagenet / "ILSVRC2012", "--max-samples", 16, "--accelerator", "cpu"]
        said = cli("finetune", "evaluate", "resnest14", *arguments, env=environment)
        again = cli(
            "finetune", "evaluate", f"hf-hub:{REPO}", *arguments, "--protocol", "paper", "--json", env=environment
        )
    assert said.returncode == again.returncode == 0, said.stderr + again.stderr
    assert "protocol timm: 224 px, crop 0.875, bilinear" in said.stdout
    assert "75.516 % (timm's results, imagenet-1k), which lies OUTSIDE the 95 % interval" in said.stdout
    assert "92.512 %" in said.stdout
    found = json.loads(again.stdout)
    assert found["published"] == {
        "benchmark": "imagenet-1k",
        "source": "the authors, Gluon",
        "metrics": {"accuracy": 0.7575},
    }
    assert found["outside"] == ["accuracy"]


def test_a_runs_model_on_another_dataset(digits_run, capsys):
    """The same digits as a dataset of their own: classes by the model's label names."""
    arguments = ["--dataset", "digits", "--max-samples", "50", "--accelerator", "cpu", "--json"]
    assert main(["evaluate", str(digits_run), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dataset"], said["split"], said["images"]) == ("digits", "train", 50)
    assert said["classes_by"] == "the model's label names"
    assert said["metrics"]["accuracy"] > 0.15  # two epochs: better than one in ten


def paper_normalised(config):
    return Compose([transforms.paper(config), transforms.Normalize(config["mean"], config["std"])])


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (224, 224), (101, 77), (33, 300), (1, 1)])
@pytest.mark.parametrize("size", [32, 224, 320])
def test_paper_protocol_crops_then_resizes(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    config = {"input_size": (3, size, size), "mean": mean, "std": std}
    found = paper_normalised(config)(image)
    assert transforms.paper(config)(image).dtype == torch.uint8
    side = min(shape) * size / (size + 32)
    left, top = round((shape[0] - side) / 2), round((shape[1] - side) / 2)
    right, bottom = round(left + side), round(top + side)
    crop = Image.fromarray(pixels[top:bottom, left:right])
    resized = TF.resize(crop, [size, size], interpolation=TF.InterpolationMode.BICUBIC)
    torch.testing.assert_close(found, TF.normalize(TF.to_tensor(resized), mean, std), rtol=0, atol=1e-6)
    assert found.shape == (3, size, size)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnest50"], "--dataset must be given: what shall resnest50 be evaluated on"),
        (["resnst50"], "unknown model 'resnst50'; did you mean resnest50"),
        (["RUN", "--protocol", "paper"], "--protocol: only with --dataset"),
        (["RUN", "--image-size", "64", "--max-samples", "3"], "--image-size, --max-samples: only with --dataset"),
        (["MODEL", "--dataset", "digits"], "10 classes .*1000 outputs: they do not say which is which"),
        (["MODEL", "--dataset", "IMAGENET", "--split", "vla"], "--split: no labelled split 'vla'. Splits: validation"),
        (["FOLDER", "--dataset", "digits"], "is a folder: give local-dir:/"),
        (["MODEL", "--dataset", "digits", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["resnest101_fast", "--dataset", "digits"], "No weights were ever released for resnest101_fast"),
    ],
)
def test_mistakes_are_explained(digits_run, folder, imagenet, capsys, arguments, message):
    known = {
        "RUN": str(digits_run),
        "FOLDER": str(folder),
        "MODEL": f"local-dir:{folder}",
        "IMAGENET": str(imagenet / "ILSVRC2012"),
    }
    assert main(["evaluate", *[known.get(a, a) for a in arguments]]) == 2
    assert re.search(message, capsys.readouterr().err)
