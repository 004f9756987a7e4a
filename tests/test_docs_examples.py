"""The examples of README and docs/ run as they are written, on few small images: what tests/test_docs.py lists as run.

Commands of training get `SMALLER` at their end, for a flag that is repeated counts as it stands last: no weights and no
photographs of hundreds of pixels are here. All else is the text of the page.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import need
from tests.examples import ROOT, example
from tests.hub_standin import Account, HubStandIn
from tests.test_docs import key, run_here

SMALLER = ["--model", "resnest14d", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "16"]
SMALLER += ["--device-batch-size", "16", "--accelerator", "cpu", "--workers", "0"]
SMALLER_PYTHON = {
    'model="resnest50"': 'model="resnest14d", pretrained=False, image_size=32, batch_size=16, accelerator="cpu"',
    "epochs=5": "epochs=1, workers=0",
    "pretrained=True)  # or": "pretrained=False)  # or",
    '"resnest50d", pretrained=True': '"resnest14d", pretrained=False',
}
OWNERS_TOKEN = "hf_" + "oWn3r" * 7
FROZEN_ITSELF = "--freeze backbone"
"""Solves for a classifier where no --epochs are given, and so gets none."""

pytestmark = pytest.mark.slow(seconds=150)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder in which the pages' names stand for something: photos/, more/, cat.jpg, data.parquet."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    folder = tmp_path_factory.mktemp("workshop")
    rng = np.random.default_rng(0)
    photos, labels = [], []
    for number in range(60):
        kind = number % 2
        photo = Image.fromarray(rng.integers(100 * kind, 100 * kind + 120, (40, 48, 3), dtype=np.uint8))
        place = folder / "photos" / ("cats", "dogs")[kind] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.save(place)
        photos.append(photo)
        labels.append(kind)
    rows = [f"photos/{('cats', 'dogs')[n % 2]}/{n}.jpg,{'ab'[n % 2]}" for n in range(60)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    ages = [f"photos/{('cats', 'dogs')[n % 2]}/{n}.jpg,{0.5 + n / 4}" for n in range(60)]
    (folder / "ages.csv").write_text("\n".join(["file,age", *ages]))
    shown = ("cat", "cat|indoors", "dog|outdoors", "dog", "indoors|cat|dog")
    tags = [f"photos/{('cats', 'dogs')[n % 2]}/{n}.jpg,{shown[n % 5]}" for n in range(60)]
    (folder / "tags.csv").write_text("\n".join(["file,label", *tags]))
    (folder / "more/today").mkdir(parents=True)
    photos[0].save(folder / "more/today/1.jpg")
    photos[1].save(folder / "cat.jpg")
    features = Features(photo=ImageFeature(), thumbnail=ImageFeature(), kind=ClassLabel(names=["cat", "dog"]))
    columns = {"photo": photos, "thumbnail": photos, "kind": labels}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data.parquet")
    return folder


@pytest.fixture(scope="module")
def hub():
    with HubStandIn() as standin:
        standin.add_account(OWNERS_TOKEN, Account("OWNER", all=True))
        yield standin


@pytest.fixture(scope="module")
def trained(workshop, cli):
    """The run that the README's and the tutorial's training makes; on other pages it is RUN."""
    command = shlex.split(example("train", "README.md"), comments=True)
    assert command == shlex.split(example("train", "docs/tutorial.md"), comments=True)
    done = cli(command[2], *command[3:], *SMALLER, cwd=workshop)
    assert done.returncode == 0, done.stderr
    (workshop / "RUN").symlink_to("runs/photos")
    return workshop


def of_the_hub(hub):
    """The environment of a user whose Hub is the stand-in."""
    given = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": OWNERS_TOKEN}
    return {**os.environ, **given, "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def done_before():
    """Commands that another page has had run."""
    return set()


def certify(folder, cli):
    """What a training and `export` do at their end, but not in tests."""
    model, certificate = folder / "RUN/model", folder / "RUN/model/verify.json"
    made = certificate.stat().st_mtime if certificate.is_file() else 0
    if max(path.stat().st_mtime for path in model.glob("model.*")) > made:
        done = cli("cards", "verify", "RUN", cwd=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in run_here() if b.language == "sh"], ids=key)
def test_commands_run(block, trained, hub, cli, done_before):
    if "export" in block.code:
        need("onnxruntime", "onnx")
        need("openvino", "openvino")
    if block.name == "train":  # the fixture has run it
        return
    for line in block.code.splitlines():
        words = shlex.split(line.replace("runs/photos", "RUN"), comments=True)
        if not words or tuple(words) in done_before:  # a remark, or known from another page
            continue
        done_before.add(tuple(words))
        assert words[:2] == ["python", "-m"], line
        module, *arguments = words[2:]
        if module == "finetune" and arguments[0].startswith("-"):
            arguments += [w for w in SMALLER if FROZEN_ITSELF not in line or w not in ("--epochs", "1")]
            if FROZEN_ITSELF not in line and "--output" not in arguments:
                arguments += ["--max-samples", "30"]
        if "publish" in arguments:
            certify(trained, cli)
        environment = of_the_hub(hub) if "publish" in arguments else None
        done = cli(module, *arguments, cwd=trained, env=environment)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "--json" not in line:
            assert done.stdout + done.stderr


@pytest.mark.parametrize("block", [b for b in run_here() if b.language == "python"], ids=key)
def test_code_runs(block, trained, hub, cli):
    text = block.code
    for written, small in SMALLER_PYTHON.items():
        text = text.replace(written, small)
    (trained / "block.py").write_text(text)
    if "hf-hub:" not in text:
        if "transformers" in text:
            need("transformers", "verify")
        done = cli("block", cwd=trained)
        assert done.returncode == 0, done.stderr
        return
    certify(trained, cli)
    done = cli("cards", "publish", "RUN", "--repo-id", "OWNER/photos", cwd=trained, env=of_the_hub(hub))
    assert done.returncode == 0, done.stderr
    environment = of_the_hub(hub) | {"HF_HOME": str(trained / "hf")}
    done = subprocess.run(
        [sys.executable, "block.py"], cwd=trained, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_run_is_what_its_pages_say(trained):
    """Every file of the run stands on the page of the run folder, every key of result.json on its own."""
    page = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    for path in (trained / "runs/photos").rglob("*"):
        if path.is_file() and "verify" not in path.relative_to(trained).parts:
            assert path.name in page, path
    keys = (ROOT / "docs/reference/result.md").read_text(encoding="utf-8")
    result = json.loads((trained / "runs/photos/result.json").read_text())
    for section in ("model", "dataset", "metrics", "evaluation"):
        assert [name for name in result[section] if f"`{name}`" not in keys] == [], section
    assert [name for name in result if f"`{name}`" not in keys] == []


def test_from_python(trained, cli):
    """How-to: a Dataset in memory, a Trainer of one's own, LightningCLI."""
    page = "docs/how-to/python.md"
    text = example("run", page)
    for written, small in SMALLER_PYTHON.items():
        text = text.replace(written, small)
    (trained / "block.py").write_text(text)
    done = cli("block", cwd=trained)
    assert done.returncode == 0, done.stderr

    (trained / "block.py").write_text(example("trainer", page))
    done = cli("block", cwd=trained)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"test_accuracy\D+(0\.\d+)", done.stdout)
    assert accuracy, done.stdout
    assert 0 < float(accuracy[1]) <= 1


def test_from_lightning_cli(tmp_path, cli):
    page = "docs/how-to/python.md"
    (tmp_path / "cli.py").write_text(example("cli.py", page))
    _, file, *words = shlex.split(example("cli command", page).replace("\\\n", " "))
    assert file == "cli.py"
    done = cli("cli", *words, "--trainer.limit_train_batches", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resnest14d" in next(tmp_path.rglob("config.yaml")).read_text()
