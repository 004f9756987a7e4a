"""Where a run's model fails: in result.json, in the report and on the card; bounded in time."""

import json

import numpy as np
import pytest
import torch

from finetune.commands import evaluate
from finetune.commands.trust import predicted
from finetune.commands.trust.failing import weaknesses
from finetune.networks import models
from finetune.tasks import registry
from tests.finetune.commands.trust.conftest import TINY

pytestmark = pytest.mark.slow(seconds=60)


@pytest.fixture(scope="module")
def parts(runs):
    """What `weaknesses.add` takes, of a finished run."""
    folder, result = predicted.opened(runs / "one")
    task, data = registry.get(result.task), evaluate.reopen(folder, result, "test")
    network = task.load(folder.model)
    predictions = {"test": predicted.of_run(folder, result, task)}
    return result, predictions, data, network, models.data_config(network), task, torch.device("cpu")


def test_every_run_has_them_and_they_are_the_same_again(runs, parts):
    result = json.loads((runs / "one" / "result.json").read_text())
    found = result["evaluation"]["robustness"]
    assert found["images"] == 60
    assert len(found["each"]) == 15
    assert found["left_out"] == []
    assert found["clean"]["accuracy"] == pytest.approx(result["metrics"]["test"]["accuracy"], abs=1e-9)
    again = weaknesses.add(*parts).evaluation
    assert again["robustness"] == found
    assert again["slices"] == result["evaluation"]["slices"]
    for row in found["each"]:
        assert row["difference"] == pytest.approx(row["scores"]["accuracy"] - found["clean"]["accuracy"])
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]


def test_slices_are_counted_as_the_images_are(runs, parts):
    found = parts[0].evaluation["slices"]
    judged = parts[5].judged(parts[1]["test"], parts[0].dataset["classes"], {})
    of_class = {row["slice"]: row for row in found["each"] if row["by"] == "class"}
    for group, name in enumerate(judged.names):
        inside = judged.shows[:, group]
        if name in of_class:
            assert of_class[name]["images"] == inside.sum()
            assert of_class[name]["score"] == pytest.approx(judged.values[inside].mean())
    assert {row["by"] for row in found["each"]} >= {"brightness", "sharpness"}


def test_where_time_is_short_fewer_are_corrupted_and_it_is_said(parts, monkeypatch):
    monkeypatch.setattr(weaknesses, "SECONDS", 0.0)
    found = weaknesses.add(*parts).evaluation["robustness"]
    assert found["images"] < 60
    assert found["each"] == []
    assert len(found["left_out"]) == 15


def test_a_further_column_and_the_pixels_make_slices(parts):
    from dataclasses import replace

    result, predictions, data, *rest = parts
    source = data.source
    split = source.splits["test"]
    camera = ["old" if n % 3 == 0 else "new" for n in range(len(split))]
    splits = {**source.splits, "test": split.add_column("camera", camera)}
    found = weaknesses.add(result, predictions, replace(data, source=replace(source, splits=splits)), *rest)
    rows = {row["slice"]: row["images"] for row in found.evaluation["slices"]["each"] if row["by"] == "column camera"}
    assert rows == {"old": 20, "new": 40}


def test_sharpness_and_brightness_are_what_they_say():
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    facts = [weaknesses._facts({"bytes": _png(Image.fromarray(p)), "path": None}, 10**6) for p in (noise, noise // 2)]
    assert facts[0][:2] == (3200, 2.0)
    assert facts[0][2] > facts[1][2]
    assert facts[0][3] > facts[1][3]


def _png(image):
    from io import BytesIO

    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_the_card_and_the_report_say_it_and_a_flag_leaves_it_out(runs, three_splits, cli, tmp_path):
    card = (runs / "one" / "model" / "README.md").read_text()
    assert "### Corrupted images" in card
    assert "### Where it does worse" in card
    words = ["--dataset", three_splits, "--epochs", 1, "--no-robustness", "--output", tmp_path / "run"]
    done = cli("finetune", *TINY, *words)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]
    assert not {"slices", "robustness"} & set(evaluation)
    assert "Corrupted" not in (tmp_path / "run" / "model" / "README.md").read_text()
    assert "corrupted test images" not in done.stdout
