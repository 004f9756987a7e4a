"""Datasets and weights from the Hub: the real clients against a stand-in on loopback."""

import io
import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

import resnest_timm  # noqa: F401
from tests.hub_standin import TOKEN, HubStandIn

pytestmark = pytest.mark.slow(seconds=20)

CARD = """---
license: other
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': apple_pie
          '1': baklava
          '2': churros
  splits:
  - name: train
    num_bytes: 1
    num_examples: 60
  - name: validation
    num_bytes: 1
    num_examples: 21
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
---
"""


def shard(count: int, seed: int) -> bytes:
    """A parquet file of small photographs of three dishes."""
    rng = np.random.default_rng(seed)
    labels = [i % 3 for i in range(count)]
    images = [PILImage.fromarray(rng.integers(80 * k, 80 * k + 90, (48, 40, 3), dtype=np.uint8)) for k in labels]
    features = Features(image=Image(), label=ClassLabel(names=["apple_pie", "baklava", "churros"]))
    buffer = io.BytesIO()
    Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hub():
    with HubStandIn() as standin:
        files = {
            "README.md": CARD.encode(),
            "data/train-00000-of-00001.parquet": shard(60, 0),
            "data/validation-00000-of-00001.parquet": shard(21, 1),
        }
        standin.add_dataset("ethz/food101", files)
        standin.add_dataset("secret/food", files, gated=True)
        torch.manual_seed(0)
        model = timm.create_model("resnest14d")
        weights = safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()})
        config = {"architecture": "resnest14d", "num_classes": 1000, "num_features": 2048}
        config["pretrained_cfg"] = {"tag": "gluon_in1k", "input_size": [3, 224, 224], "num_classes": 1000}
        standin.add_model(
            "timm/resnest14d.gluon_in1k", {"config.json": json.dumps(config).encode(), "model.safetensors": weights}
        )
        yield standin


@pytest.fixture
def online(hub, tmp_path):
    """An environment with an empty cache whose Hub is the stand-in."""
    return hub.environment(tmp_path / "home")


def test_short_names_and_pretrained_weights_come_from_the_hub(hub, online, cli, tmp_path):
    """With a vanishing learning rate the exported convolutions are still those of the Hub."""
    arguments = ["--model", "resnest14d", "--dataset", "food101", "--epochs", 1, "--image-size", 64, "--lr", 1e-12]
    done = cli("finetune", *arguments, "--output", tmp_path / "run", "--accelerator", "cpu", env=online)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["dataset"]["id"] == "ethz/food101"
    assert result["dataset"]["license"] == "other"
    assert len(result["dataset"]["revision"]) == 40
    assert result["dataset"]["splits"] == {"train": 54, "validation": 6, "test": 21}
    assert list(result["dataset"]["held_out"]) == ["validation"]
    assert result["model"]["pretrained_tag"] == "gluon_in1k"
    assert result["model"]["base_model"] == "timm/resnest14d.gluon_in1k"
    ours = safetensors.torch.load_file(tmp_path / "run/model/model.safetensors")
    theirs = safetensors.torch.load(hub.files("timm/resnest14d.gluon_in1k")["model.safetensors"])
    for name in ("conv1.0.weight", "layer3.0.conv2.conv.weight", "layer4.0.conv3.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-7)
    card = (tmp_path / "run/model/README.md").read_text()
    assert "base_model: timm/resnest14d.gluon_in1k" in card
    assert "- ethz/food101" in card


def test_defaults_work_end_to_end_on_two_devices(hub, online, cli, tmp_path):
    """One epoch with every default; the second process asks the Hub for nothing."""
    hub.requests.clear()
    arguments = ["--model", "resnest14", "--dataset", "food101", "--epochs", 1, "--image-size", 64]
    done = cli("finetune", *arguments, "--accelerator", "cpu", "--devices", 2, "--output", tmp_path / "run", env=online)
    assert done.returncode == 0, done.stderr
    fetched = [r.path for r in hub.requests if r.method == "GET" and r.path.endswith((".parquet", ".safetensors"))]
    assert len(fetched) == len(set(fetched)) == 3
    again = cli("finetune", "evaluate", tmp_path / "run", "--json", env=online)
    recorded = json.loads((tmp_path / "run/result.json").read_text())["metrics"]["test"]
    assert json.loads(again.stdout)["metrics"] == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize(
    ("dataset", "messages"),
    [
        ("secret/food", ["secret/food is gated", "datasets/secret/food", "hf auth login"]),
        ("ethz/food", ["unknown dataset 'ethz/food'", "/datasets/ethz/food", "did you mean ethz/food101"]),
        ("food101@v9", ["ethz/food101 has no branch, tag or commit 'v9'", "--revision"]),
        ("food101:spicy", ["ethz/food101", "spicy", "--dataset-config"]),
    ],
)
def test_dataset_mistakes_are_explained(online, cli, tmp_path, dataset, messages):
    done = cli("finetune", "--model", "resnest14d", "--dataset", dataset, cwd=tmp_path, env=online)
    assert done.returncode == 2, done.stderr
    for message in messages:
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_token_opens_a_gated_dataset(online, cli, tmp_path):
    arguments = ["--model", "resnest14d", "--dataset", "secret/food", "--no-pretrained", "--image-size", 32]
    arguments += ["--epochs", 1, "--output", "run", "--accelerator", "cpu"]
    done = cli("finetune", *arguments, cwd=tmp_path, env=online | {"HF_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    everything = "".join(p.read_text() for p in (tmp_path / "run").rglob("*") if p.suffix in (".md", ".json", ".yaml"))
    assert TOKEN not in everything + done.stdout + done.stderr


@pytest.mark.parametrize("said", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_without_network_the_address_and_the_ways_out_are_named(online, cli, tmp_path, said):
    """Said to be offline, or found to be: then nothing is tried again and again at every file."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    nowhere = online | {"HF_ENDPOINT": address} | said
    done = cli("finetune", "--model", "resnest14d", "--dataset", "food101", cwd=tmp_path, env=nowhere)
    assert done.returncode == 2
    for message in ("ethz/food101", address, "HF_ENDPOINT", "cache"):
        assert message in done.stderr
    weights = cli("finetune", "--model", "resnest14d", "--dataset", "digits", cwd=tmp_path, env=nowhere)
    assert weights.returncode == 2
    for message in ("cannot fetch the weights of resnest14d", address, "--no-pretrained"):
        assert message in weights.stderr
    for output in (done.stdout + done.stderr, weights.stdout + weights.stderr):
        assert "Retrying" not in output
        assert ("no connection to" in output) is (said == {})


def test_unknown_model_repository_is_explained(online, cli, tmp_path):
    arguments = ["--model", "hf-hub:timm/nothing", "--dataset", "digits"]
    done = cli("finetune", *arguments, cwd=tmp_path, env=online)
    assert done.returncode == 2
    assert "hf-hub:timm/nothing" in done.stderr
    assert "Traceback" not in done.stderr


LOAD_BACK = """
import json, sys
import timm, torch
from safetensors.torch import load_file
given = load_file(sys.argv[1])
model = timm.create_model("hf-hub:owner/dishes", pretrained=True).eval()
with torch.inference_mode():
    difference = (model(given["pixels"]) - given["logits"]).abs().max() / given["logits"].abs().max()
known = [name for name in ("resnest_timm", "finetune", "cards") if name in sys.modules]
print(json.dumps([float(difference), model.pretrained_cfg["label_names"], known]))
"""


def test_a_run_goes_to_the_hub_and_comes_back(hub, online, cli, tmp_path):
    """Dataset and weights from the Hub; the push fails, the run does not; the command that it names publishes it."""
    environment = online | {"HF_TOKEN": TOKEN}
    environment.pop("FINETUNE_VERIFY")
    broken = hub.fault("owner/dishes/commit", status=403)
    arguments = ["--model", "resnest14d", "--dataset", "food101", "--epochs", 1, "--image-size", 64, "--workers", 0]
    arguments += ["--output", tmp_path / "run", "--accelerator", "cpu", "--publish", "owner/dishes", "--private"]
    hub.requests.clear()
    done = cli("finetune", *arguments, env=environment)
    assert done.returncode == 0, done.stderr
    assert hub.requests[0].path == "/api/whoami-v2"
    assert broken.left == 0
    assert "warning: the run is complete, but not published" in done.stdout
    assert "owner/dishes" not in hub.repositories()
    command = re.search(r"publish it by `python -m (.*)`", done.stdout)[1].split()
    again = cli(*command, env=environment)
    assert again.returncode == 0, again.stderr
    assert 'timm.create_model("hf-hub:owner/dishes", pretrained=True)' in again.stdout
    assert hub.repositories()["owner/dishes"].private
    uploaded = hub.files("owner/dishes")
    assert {"config.json", "model.safetensors", "README.md", "verify.json"} < uploaded.keys()
    assert not any(TOKEN.encode() in content for content in uploaded.values())
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert "publish" not in (tmp_path / "run/config.yaml").read_text()
    assert TOKEN not in done.stdout + done.stderr + again.stdout + again.stderr
    stranger = [sys.executable, "-P", "-W", "ignore", "-c", LOAD_BACK, tmp_path / "run/verify/inputs.safetensors"]
    loaded = subprocess.run(stranger, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    difference, names, known = json.loads(loaded.stdout.splitlines()[-1])
    assert difference < 1e-4
    assert names == ["apple_pie", "baklava", "churros"]
    assert known == []
