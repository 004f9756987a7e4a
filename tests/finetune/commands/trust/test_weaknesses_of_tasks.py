"""Where a model fails, and on which images one model is ahead of another, of other tasks than one class an image."""

import json
import re
import time
from functools import partial

import numpy as np
import pytest
import torch
from datasets import DatasetDict

from finetune.cli import main
from finetune.commands import evaluate
from finetune.commands.trust import predicted
from finetune.commands.trust.failing import corrupted, looks
from finetune.loading.corruptions import CORRUPTIONS
from finetune.networks import models
from finetune.tasks import registry
from tests.finetune.tasks.detection import drawn as objects
from tests.finetune.tasks.multi_label import colours
from tests.finetune.tasks.regression.conftest import squares
from tests.finetune.tasks.segmentation import drawn as scenes

pytestmark = pytest.mark.slow(seconds=90)
COUNTS = {"train": 24, "validation": 16, "test": 52}
SHARED = "--no-pretrained --batch-size 8 --accelerator cpu --precision 32 --workers 0 --lr 3e-3".split()
PRIMARY = {
    "multi-label-classification": "mean_average_precision",
    "image-regression": "mae",
    "semantic-segmentation": "mean_iou",
    "object-detection": "map",
}


def numbers(folder):
    DatasetDict({name: squares(count, n) for n, (name, count) in enumerate(COUNTS.items())}).save_to_disk(folder)


def several(folder):
    parts = {name: colours.rows(count, n) for n, (name, count) in enumerate(COUNTS.items())}
    parts = {name: part.add_column("camera", [f"c{n % 2}" for n in range(len(part))]) for name, part in parts.items()}
    DatasetDict(parts).save_to_disk(folder)


def masks(folder):
    parts = {
        name: scenes.in_memory(scenes.scenes(count, seed=n), names=scenes.NAMES[3])
        for n, (name, count) in enumerate(COUNTS.items())
    }
    DatasetDict(parts).save_to_disk(folder)


def boxes(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "SIZES", COUNTS | {"train": 14, "test": 42})
        patch.setattr(objects, "ALL", {name: objects.pictures(name) for name in COUNTS})
        objects.write_coco(folder, masks=True)


# Masks of objects are judged as boxes are (`test_weighing`); a detector of both takes seconds an image here.
TASKS = {
    "multi-label-classification": (several, ["--model", "test_efficientnet", "--image-size", 32]),
    "image-regression": (numbers, ["--model", "test_efficientnet", "--image-size", 32, "--hflip", 0]),
    "semantic-segmentation": (masks, ["--model", "resnest14d", "--image-size", 32]),
    "object-detection": (boxes, ["--model", "resnest14d", "--image-size", 64, "--detector", "fcos"]),
}


@pytest.fixture(scope="module", params=TASKS)
def runs(request, cli, tmp_path_factory):
    """The task's name; a run, and a longer one that does not look where it fails, on the same images; what they said.

    Do not write into them.
    """
    task, root = request.param, tmp_path_factory.mktemp("failing")
    build, words = TASKS[task]
    build(root / "data")
    said = []
    for name, more in (("one", ["--epochs", 1]), ("two", ["--epochs", 2, "--no-robustness"])):
        settings = ["--task", task, *words, *SHARED, *more, "--output", root / name]
        done = cli("finetune", "--dataset", root / "data", *settings)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    return task, root, said


def evaluation_of(run):
    return json.loads((run / "result.json").read_text())["evaluation"]


def judged(run):
    """By the run's own predictions."""
    folder, result = predicted.opened(run)
    task = registry.get(result.task)
    found = predicted.of_run(folder, result, task)
    return task.judged(found, result.dataset["classes"], result.evaluation)


def test_corrupted_images_are_in_the_result_and_in_what_is_said(runs):
    task, root, said = runs
    found = evaluation_of(root / "one")["robustness"]
    assert found["by"] == PRIMARY[task]
    assert len(found["each"]) + len(found["left_out"]) == 15  # by the clock of a machine that has other things to do
    assert found["images"] >= 16
    assert all(row["interval"][0] <= row["difference"] <= row["interval"][1] for row in found["each"])
    assert re.search(r"of \d+ corrupted test images: ", said[0])


def test_clean_images_have_the_run_s_own_scores_and_corrupted_ones_others(runs, monkeypatch):
    task, root, _ = runs
    folder, result = predicted.opened(root / "one")
    own, data = registry.get(task), evaluate.reopen(folder, result, "test")
    network = own.load(folder.model)
    config = models.data_config(network)
    monkeypatch.setattr(corrupted, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in ("noise", "jpeg")})
    monkeypatch.setattr(corrupted, "STRENGTHS", (3,))
    asker = corrupted.Asker(own, network, result, config, torch.device("cpu"))
    seen = corrupted.rows(own, data, config)
    places = np.random.default_rng(0).permutation(len(seen))
    found = corrupted.robustness(asker, seen, places, time.monotonic() + 1e6)
    assert found["images"] == result.dataset["splits"]["test"] == len(seen)
    expected = {name: value for name, value in result.metrics["test"].items() if np.isfinite(value)}
    assert {name: found["clean"][name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert [(row["corruption"], row["strength"]) for row in found["each"]] == [("noise", 3), ("jpeg", 3)]
    assert any(row["scores"] != found["clean"] for row in found["each"])
    again = corrupted.robustness(asker, seen, places, time.monotonic() + 1e6)
    assert again == found


def test_slices_are_of_the_images_own_scores(runs):
    task, root, said = runs
    found, own = evaluation_of(root / "one")["slices"], judged(root / "one")
    assert found["score"] == own.worth.key
    kinds = {row["by"] for row in found["each"]}
    assert kinds >= {"brightness", "sharpness"}
    assert ("column camera" in kinds) == (task == "multi-label-classification")
    of_class = {row["slice"]: row for row in found["each"] if row["by"] == "class"}
    assert not of_class or task != "image-regression"
    assert of_class or task != "multi-label-classification"
    for name, shown in zip(own.names, own.shows.T, strict=True):
        if name in of_class:
            assert of_class[name]["images"] == shown.sum()
            assert of_class[name]["score"] == pytest.approx(own.values[shown].mean())
            assert of_class[name]["rest"] == pytest.approx(own.values[~shown].mean())
    assert re.search(r"worse on \w|no kind of images is shown to be worse", said[0])


def test_networks_of_every_kind_tell_images_apart_by_their_looks(runs):
    task, root, _ = runs
    folder, result = predicted.opened(root / "one")
    own, data = registry.get(task), evaluate.reopen(folder, result, "test")
    network = own.load(folder.model).eval()
    config = models.data_config(network)
    asker = corrupted.Asker(own, network, result, config, torch.device("cpu"))
    seen = corrupted.rows(own, data, config)
    places = np.arange(len(seen))
    makers = [partial(asker.pixels, seen, batch) for batch in corrupted.batches(places, 4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "SECONDS", 1e6)
        patch.setattr(looks, "PER_CLUSTER", 10)
        clusters = list(looks.alike(own, network, makers, torch.device("cpu"), 0))
    assert len(clusters) >= 2
    assert (np.sum([one.inside for one in clusters], axis=0) == 1).all()


def test_the_card_says_it(runs):
    _, root, _ = runs
    card = (root / "one" / "model" / "README.md").read_text()
    section = card[card.index("### Where it does worse") : card.index("## Limitations")]
    corrupted_images = section[section.index("### Corrupted images") :]
    assert all(f"\n| {name} |" in corrupted_images for name in ("noise", "jpeg", "contrast"))
    assert section.startswith("### Where it does worse\n\n")
    assert section.endswith(".\n\n")
    assert "\n\n\n" not in section


def test_compare_names_the_images_on_which_one_is_ahead(runs, capsys, tmp_path):
    task, root, _ = runs
    words = ["compare", root / "one", root / "two"]
    assert main([str(word) for word in [*words, "--json"]]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert next(iter(comparison["metrics"])) == PRIMARY[task]
    rows = json.loads((root / "one" / "splits.json").read_text())["test"]["rows"]  # some have no label
    mine, theirs = judged(root / "two"), judged(root / "one")
    place_of = {row: place for place, row in enumerate(range(len(mine)) if rows == "all" else rows)}
    gain = (mine.values - theirs.values) * (1 if mine.worth.higher else -1)
    for side, of in (("ahead_model", gain), ("ahead_reference", -gain)):
        assert comparison["images"][side] == (of > 1e-9).sum()
        places = [place_of[one["row"]] for one in comparison[side]]
        assert len(places) == min((of > 1e-9).sum(), 24)
        assert of[places] == pytest.approx(np.sort(of)[::-1][: len(places)])
        assert [one["model"] for one in comparison[side]] == pytest.approx(mine.values[places])
    assert comparison["images"]["ahead_model"] + comparison["images"]["ahead_reference"] > 0
    assert main([str(word) for word in [*words, "--page", tmp_path / "page.html"]]) == 0
    said = capsys.readouterr().out
    assert (
        f"{mine.worth.title}: {root / 'two'} is ahead on {comparison['images']['ahead_model']} of {len(mine)} images"
        in said
    )
    html = (tmp_path / "page.html").read_text()
    shown = sum(len(comparison[side]) for side in ("ahead_model", "ahead_reference"))
    assert html.count("<figure>") == shown


def test_the_common_images_of_two_runs_are_weighed_alone(runs, capsys, tmp_path):
    _, root, _ = runs
    own = judged(root / "one")
    half = np.arange(len(own) - 1, -1, -2)
    part = own.of(half)
    weights = np.zeros((1, len(own)), dtype=np.int64)
    weights[0, half] = 1
    assert part.once() == pytest.approx({name: of[0] for name, of in own.scores(weights).items()})
    assert part.values == pytest.approx(own.values[half], nan_ok=True)
    assert part.said == [own.said[place] for place in half]


def test_the_flag_leaves_it_out(runs):
    _, root, said = runs
    assert not {"slices", "robustness"} & set(evaluation_of(root / "two"))
    assert "Corrupted" not in (root / "two" / "model" / "README.md").read_text()
    assert "corrupted test images" not in said[1]
