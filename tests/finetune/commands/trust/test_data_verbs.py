"""doctor, probe and labels through the real command line, on a dataset with planted faults."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from cards.page.limitations import leaked
from finetune import RunConfig
from finetune.errors import ConfigError
from finetune.export import model_folder
from finetune.settings.data_verbs import DoctorOptions, LabelsOptions, ProbeOptions
from finetune.tasks import registry

COLOURS = {"red <b>": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 40, 220)}


def picture(rng, label):
    """A coloured scene of its own: noise of several sizes on the class's colour."""
    total = np.full((48, 48, 3), list(COLOURS.values())[label], dtype=np.float64)
    for side in (4, 9, 16):
        small = PILImage.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += 0.35 * (np.asarray(small.resize((48, 48), PILImage.Resampling.BICUBIC)) - 128.0)
    return PILImage.fromarray(total.clip(0, 255).astype(np.uint8))


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def smaller(value):
    """A JPEG of 40 pixels."""
    content = io.BytesIO()
    PILImage.open(io.BytesIO(value["bytes"])).resize((40, 40)).save(content, "JPEG", quality=90)
    return {"bytes": content.getvalue(), "path": None}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """90 training and 30 test images; test has copies of training images 0 to 4, and its last is number 7 of them,
    scaled and encoded anew; 5 is there twice, as two classes; the label of 10 is wrong."""
    rng = np.random.default_rng(0)
    labels = [n % 3 for n in range(90)]
    images = [png(picture(rng, label)) for label in labels]
    tests = images[:5] + [png(picture(rng, n % 3)) for n in range(24)] + [smaller(images[7])]
    test_labels = labels[:5] + [n % 3 for n in range(24)] + [labels[7]]
    images.append(images[5])
    labels.append((labels[5] + 1) % 3)
    labels[10] = (labels[10] + 1) % 3
    features = Features({"image": Image(), "label": ClassLabel(names=list(COLOURS)), "patient": Value("string")})
    parts = {"train": (images, labels), "test": (tests, test_labels)}
    made = {
        name: Dataset.from_dict(
            {"image": of, "label": known, "patient": [f"{name}{n // 4}" for n in range(len(of))]}, features=features
        )
        for name, (of, known) in parts.items()
    }
    folder = tmp_path_factory.mktemp("data") / "faulty"
    DatasetDict(made).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A model's folder; random weights tell colours apart."""
    folder = tmp_path_factory.mktemp("models") / "model"
    network = timm.create_model("test_efficientnet", num_classes=3)
    data_config = timm.data.resolve_data_config({"input_size": (3, 48, 48)}, model=network)
    model_folder.save(network, folder, list(COLOURS), data_config)
    return folder


@pytest.mark.slow(seconds=30)
def test_doctor_finds_what_was_planted(cli, faulty, tmp_path):
    done = cli("finetune", "doctor", "--dataset", faulty, "--json", "--fix", tmp_path / "rows.json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "6 of 30 test images (20.00 %) have a copy in train" in done.stderr
    found = json.loads(done.stdout)
    by_key = {one["key"]: one for one in found["findings"]}
    assert found["leaks"]["images"] == 6
    assert by_key["leak"]["severity"] == by_key["contradiction"]["severity"] == "serious"
    contradiction = {(end["split"], end["row"]) for end in by_key["contradiction"]["images"][0]}
    assert contradiction == {("train", 5), ("train", 90)}
    assert by_key["groups"]["severity"] == "note"
    assert set(found["leave_out"]["train"]) >= {0, 1, 2, 3, 4, 5, 7, 90}
    assert "test" not in found["leave_out"]
    page = (tmp_path / "doctor-faulty.html").read_text()
    assert "red &lt;b&gt;" in page
    assert "<b>red" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    again = cli("finetune", "doctor", "--dataset", faulty, "--exclude", tmp_path / "rows.json", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.slow(seconds=60)
def test_train_says_leaks_and_the_card_and_evaluate_give_the_number_without_them(cli, faulty, tmp_path):
    words = "--model test_efficientnet --no-pretrained --image-size 48 --epochs 1 --batch-size 16 --accelerator cpu"
    run = tmp_path / "run"
    done = cli("finetune", "--dataset", faulty, "--output", run, "--workers", 0, *words.split())
    assert done.returncode == 0, done.stderr
    assert "warning: 6 of 30 test images are training images too (5 byte for byte, 1 near copy)" in done.stdout
    assert "warning: 1 pair of copies with different targets" in done.stdout
    result = json.loads((run / "result.json").read_text())
    leaks = result["evaluation"]["leaks"]
    assert leaks["rows"] == [0, 1, 2, 3, 4, 29]
    assert leaks["kinds"] == {"bytes": 5, "near": 1}
    again = json.loads(cli("finetune", "evaluate", run, "--accelerator", "cpu", "--json").stdout)
    assert again["without_leaks"]["images"] == 6
    assert again["without_leaks"]["metrics"]["accuracy"] == pytest.approx(leaks["metrics"]["accuracy"])
    page = (run / "model/README.md").read_text()
    assert (
        "**6 test images, 20.00 % of all, are training images too**, 5 byte for byte, 1 encoded anew, scaled, cropped"
        in page
    )
    (tmp_path / "rows.json").write_text('{"train": [0, 1, 2, 3, 4, 7]}')
    clean = tmp_path / "clean"
    out = ("--exclude", tmp_path / "rows.json", "--output", clean)
    done = cli("finetune", "--dataset", faulty, "--workers", 0, *out, *words.split())
    assert done.returncode == 0, done.stderr
    assert "left out: 6 images of 'train' by --exclude" in done.stdout
    assert "leaks" not in json.loads((clean / "result.json").read_text())["evaluation"]
    assert (
        "Left out of the dataset's images: 6 that a list of its user names." in (clean / "model/README.md").read_text()
    )


def test_a_leak_without_a_number_is_still_said():
    result = {
        "task": "image-classification",
        "metrics": {"test": {}, "validation": {}},
        "evaluation": {"leaks": {"images": 1, "share": 0.1, "metrics": {}}},
        "dataset": {
            "classes": ["a"],
            "splits": {"test": 10},
            "held_out": {},
            "excluded": {"undecodable": {}, "unlabelled": {}},
        },
        "training": {},
    }
    assert next(leaked(result)) == "**1 test image, 10.00 % of all, is a training image too**, byte for byte."


@pytest.mark.slow(seconds=40)
def test_probe_gives_bars_with_intervals_for_each_model_and_a_curve(cli, faulty, backbone):
    words = ["--model", backbone, "--accelerator", "cpu", "--workers", 0, "--curve", "--json"]
    done = cli("finetune", "probe", "--dataset", faulty, *words)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["models"]
    for title in ("linear probe", "nearest neighbours"):
        bar = found["bars"][title]
        low, high = bar["intervals"]["test"]["accuracy"]
        assert low <= bar["test"]["accuracy"] <= high
    assert found["bars"]["linear probe"]["test"]["accuracy"] > 0.6
    assert [point["images"] for point in found["curve"]["points"]][-1] == 82


@pytest.mark.slow(seconds=30)
def test_labels_names_the_wrong_one_first(cli, faulty, backbone, tmp_path):
    files = ["--csv", tmp_path / "list.csv", "--fix", tmp_path / "rows.json"]
    words = ["--model", backbone, "--accelerator", "cpu", "--workers", 0, "--json", *files]
    done = cli("finetune", "labels", "--dataset", faulty, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 121
    first = [(one["split"], one["row"]) for one in found["labels"][:4]]
    assert ("train", 10) in first
    with (tmp_path / "list.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 121
    assert rows[0]["margin"] == str(found["labels"][0]["margin"])
    assert "Likely label errors" in (tmp_path / "labels-faulty.html").read_text()


def test_flags_are_checked_at_once():
    with pytest.raises(ConfigError, match=r"--dataset must be given.*--model must be given"):
        ProbeOptions().check()
    with pytest.raises(ConfigError, match=r"--val-fraction must be above 0 and at most 0\.5, got 0\.9"):
        DoctorOptions(dataset="x", val_fraction=0.9).check()
    with pytest.raises(ConfigError, match="--show must be at least 1"):
        LabelsOptions(dataset="x", model="resnet18", show=0).check()


def test_streams_have_no_lists_and_groups():
    config = RunConfig(model="resnest14d", dataset="x", streaming=True, exclude="rows.json", group_column="patient")
    with pytest.raises(ConfigError, match="--group-column and --exclude: rows of a stream have no numbers"):
        config.resolved()


def test_a_task_without_a_study_is_refused_in_one_line():
    class Other:
        name = "image-captioning"

    with pytest.raises(ConfigError, match="probe is not for image-captioning yet, only for image-classification"):
        registry.study_of(Other(), "probe")
    assert replace(DoctorOptions(dataset="x"), model="y").model == "y"
