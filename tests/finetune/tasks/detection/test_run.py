"""From a dataset of objects to a model that others load, by the command line; on small drawn images."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import cards
from finetune.tasks.detection import ascoco
from tests import spaces
from tests.conftest import need
from tests.finetune.tasks.detection import drawn

# All that a run may do besides: an average of the weights, and batches in parts.
SETTINGS = "--model resnest14d --no-pretrained --image-size 64 --epochs 2 --batch-size 8 --device-batch-size 4"
SETTINGS += " --ema 0.9 --precision 32-true --workers 0 --accelerator cpu --no-robustness"
BOXES = ("--task", "object-detection", "--detector", "fcos")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "animals"
    drawn.write_coco(folder, masks=True)
    return folder


@pytest.fixture(scope="module")
def finetune(cli):
    def call(*words):
        done = cli("finetune", *words)
        assert done.returncode == 0, done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def run(finetune, dataset, tmp_path_factory):
    """Of boxes. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "boxes"
    finetune("--dataset", dataset, *BOXES, *SETTINGS.split(), "--output", folder)
    return folder


@pytest.fixture(scope="module")
def masks(finetune, dataset, tmp_path_factory):
    """Of masks. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "masks"
    words = ("--dataset", dataset, "--task", "instance-segmentation", *SETTINGS.split(), "--epochs", 1)
    finetune(*words, "--output", folder)
    return folder


def answers(finetune, run, dataset, *words):
    """Of two test images."""
    paths = [dataset / "test2017" / f"test_0{n}.png" for n in range(2)]
    return finetune("predict", run, *paths, "--accelerator", "cpu", "--workers", 0, "--min-confidence", 1e-4, *words)


@pytest.mark.slow(seconds=30)
def test_its_numbers_and_figures(run):
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "object-detection"
    names = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100"]
    assert list(result["metrics"]["test"]) == names
    evaluation = result["evaluation"]
    assert set(evaluation["figures"]) == {"examples", "precision_recall", "classes", "reliability", "curves"}
    assert all((run / "model" / path).is_file() for path in evaluation["figures"].values())
    assert sum(row["support"] for row in evaluation["per_class"]["test"]) == 4
    low, high = evaluation["intervals"]["test"]["map"]
    assert low <= result["metrics"]["test"]["map"] <= high


@pytest.mark.slow(seconds=20)
def test_numbers_are_the_same_on_two_processes(run, finetune):
    words = ("evaluate", run, "--accelerator", "cpu", "--devices", 2, "--workers", 0, "--json")
    found = json.loads(finetune(*words).stdout)
    recorded = json.loads((run / "result.json").read_text())
    assert found["metrics"] == pytest.approx(recorded["metrics"]["test"], rel=1e-6)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("kind", ["run", "masks"])
def test_strangers_load_it_and_the_card_s_lines_find_what_predict_finds(kind, request, dataset, finetune, tmp_path):
    run = shutil.copytree(request.getfixturevalue(kind), tmp_path / "run")
    about = json.loads((run / "model/finetune.json").read_text())
    # A model that has hardly learnt is sure of nothing: the card's threshold, and ours, are put where something is.
    result = json.loads((run / "result.json").read_text())
    result["evaluation"]["threshold"]["score"] = about["threshold"] = 0.011
    (run / "result.json").write_text(json.dumps(result))
    (run / "model/finetune.json").write_text(json.dumps(about))
    made = cards.verify(run)
    assert made["checks"]["torchvision"]["passed"], made
    cards.build(run)
    page = (run / "model/README.md").read_text()
    assert "library_name: torchvision" in page
    assert f"type: {'mask_map' if kind == 'masks' else 'map'}\n" in page
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "resnest_timm" not in code
    folder = shutil.copytree(run / "model", tmp_path / "model")
    with Image.open(dataset / "test2017/test_01.png") as image:
        image.save(folder / "photo.jpg", quality=95)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = sorted((float(line.split()[0]), line.split()[1]) for line in done.stdout.splitlines())
    (line,) = finetune("predict", run, folder / "photo.jpg", "--accelerator", "cpu", "--workers", 0).stdout.splitlines()
    ours = sorted((one["score"], one["label"]) for one in json.loads(line)["objects"])
    assert len(ours) > 3
    assert [score for score, _ in said] == pytest.approx([score for score, _ in ours], abs=1e-3)


@pytest.mark.slow(seconds=30)
def test_masks_have_scores_of_their_own_and_are_found_at_the_size_of_the_image(masks, dataset, finetune):
    result = json.loads((masks / "result.json").read_text())
    assert {"map", "mask_map", "mask_map_50", "mask_map_75"} < set(result["metrics"]["test"])
    for line in answers(finetune, masks, dataset, "--format", "json").stdout.splitlines():
        record = json.loads(line)
        assert record["objects"]
        for one in record["objects"]:
            assert one["mask"]["size"] == list(size_of(record["image"])[::-1])


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.slow(seconds=30)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 under NumPy 2
@pytest.mark.parametrize("kind", ["run", "masks"])
def test_coco_s_own_library_reads_what_predict_writes(kind, request, dataset, finetune, tmp_path):
    run, path = request.getfixturevalue(kind), tmp_path / "found.json"
    answers(finetune, run, dataset, "--format", "coco", "--output", path)
    lines = [json.loads(line) for line in answers(finetune, run, dataset, "--format", "json").stdout.splitlines()]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(path)
        again = known.loadRes(known.dataset["annotations"])
    assert [one["file_name"] for one in known.dataset["images"]] == [line["image"] for line in lines]
    names = {one["id"]: one["name"] for one in known.dataset["categories"]}
    for number, line in enumerate(lines, 1):
        size = size_of(line["image"])
        assert (known.imgs[number]["width"], known.imgs[number]["height"]) == size
        found = again.loadAnns(again.getAnnIds(imgIds=[number]))
        assert [(names[one["category_id"]], one["score"]) for one in found] == [
            (one["label"], one["score"]) for one in line["objects"]
        ]
        for one, object_ in zip(found, line["objects"], strict=True):
            left, top, width, height = one["bbox"]
            if kind == "run":
                assert [left, top, left + width, top + height] == pytest.approx(object_["box"], abs=0.011)
            else:
                assert again.annToMask(one).sum() == coco_mask.area(object_["mask"])


def test_what_cannot_be_read_is_not_in_coco_s_document():
    records = [{"split": "test", "row": 3, "width": 4, "height": 5, "objects": []}]
    made = ascoco.document(records, ["ant"])
    assert made["images"] == [{"id": 1, "file_name": "test/000003", "width": 4, "height": 5}]
    assert made["annotations"] == []


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("kind", ["run", "masks"])
def test_its_exported_file_is_certified_and_answers_alone(kind, request, dataset, finetune, tmp_path):
    need("onnx", "onnx")
    need("onnxruntime", "onnx")
    run = shutil.copytree(request.getfixturevalue(kind), tmp_path / "run")
    about = json.loads((run / "model/finetune.json").read_text()) | {"threshold": 0.011}
    (run / "model/finetune.json").write_text(json.dumps(about))
    done = finetune("export", run, "--format", "onnx")
    assert re.search(
        r"onnxruntime finds the model's \d+ objects in \d+ test images, a part of one and a pl", done.stdout
    )
    assert "Warning" not in done.stdout + done.stderr
    assert cards.verify(run)["checks"]["onnxruntime"]["passed"]
    alone = shutil.copy(run / "model/model.onnx", tmp_path / "alone.onnx")
    lines = [
        [json.loads(line) for line in answers(finetune, model, dataset, "--format", "json").stdout.splitlines()]
        for model in (run, alone)
    ]
    for live, found in zip(*lines, strict=True):
        assert len(live["objects"]) == len(found["objects"]) > 3
        scores = [[one["score"] for one in record["objects"]] for record in (live, found)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
        assert all(("mask" in one) == (kind == "masks") for one in found["objects"])
    cards.build(run)
    codes = re.findall(r"```python\n(.*?)```", (run / "model/README.md").read_text(), re.DOTALL)
    (code,) = [code for code in codes if "onnxruntime" in code]
    with Image.open(dataset / "test2017/test_01.png") as image:
        image.save(run / "model/photo.jpg", quality=95)
    command = [sys.executable, "-W", "error", "-c", code]
    told = subprocess.run(command, cwd=run / "model", capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    (line,) = finetune(
        "predict", alone, run / "model/photo.jpg", "--workers", 0, "--format", "json"
    ).stdout.splitlines()
    said = sorted((float(row.split()[0]), row.split()[1]) for row in told.stdout.splitlines())
    ours = sorted((one["score"], one["label"]) for one in json.loads(line)["objects"])
    assert len(ours) > 3
    assert [score for score, _ in said] == pytest.approx([score for score, _ in ours], abs=1e-3)


@pytest.mark.slow(seconds=40)
def test_a_run_that_is_killed_goes_on_to_the_same_weights(run, dataset, cli, tmp_path):
    folder = tmp_path / "run"
    words = ["--dataset", dataset, *BOXES, *SETTINGS.split(), "--output", folder, "--save-every", 1]
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    last, deadline = folder / "checkpoints/last.ckpt", time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 1 <= torch.load(last, weights_only=True, mmap=True)["global_step"] < 4
    done = cli("finetune", "--resume", folder)
    assert done.returncode == 0, done.stderr
    weights = [(of / "model/model.safetensors").read_bytes() for of in (folder, run)]
    assert weights[0] == weights[1]


SPACE = """
assert app.find(None, 0.5) is None
said = []
for picture in pictures:
    image, shown = app.find(picture, {least})
    assert image.size == picture.size
    places = [place if isinstance(place, tuple) else [int((place > 0).sum())] for place, _ in shown]
    said.append([[name, *place] for (_, name), place in zip(shown, places)])
"""


@pytest.mark.slow(seconds=40)
@spaces.needs_gradio
@pytest.mark.parametrize("kind", ["run", "masks"])
def test_the_space_finds_what_predict_finds(kind, request, finetune, dataset, tmp_path):
    run = request.getfixturevalue(kind)
    paths = [dataset / "test2017" / f"test_0{n}.png" for n in range(2)]
    lines = answers(finetune, run, dataset).stdout.splitlines()
    every = [json.loads(line)["objects"] for line in lines if line.startswith("{")]
    scores = sorted((one["score"] for objects in every for one in objects), reverse=True)
    least = max((high - low, (high + low) / 2) for high, low in pairwise(scores[5:61]))[1]
    said = spaces.asked(run / "model", paths, SPACE.format(least=least), tmp_path)
    for found, objects in zip(said, every, strict=True):
        expected = [one for one in objects if one["score"] >= least]
        assert [name for name, *_ in found] == [one["label"] for one in expected]
        for (_, *place), one in zip(found, expected, strict=True):
            if kind == "run":
                assert place == pytest.approx(one["box"], abs=0.51)
            else:
                area = float(coco_mask.area(one["mask"]))
                assert place == [pytest.approx(area, abs=4 + 0.1 * area)]
