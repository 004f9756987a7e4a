"""`--curve`: nested shares of the training images, the same test images, a kill between two, and what is refused."""

import json

import numpy as np
import pytest
from datasets import DatasetDict

import cards
from finetune import RunConfig, run
from finetune.commands import shares, write_up
from finetune.data.dataset import prepare
from finetune.data.sample import digits
from finetune.errors import ConfigError, DatasetError
from finetune.settings import command
from finetune.settings.presets import epochs_for
from finetune.tasks import registry

SETTINGS = {"model": "test_efficientnet", "pretrained": False, "image_size": 32, "accelerator": "cpu", "devices": "1"}
SETTINGS |= {"workers": 0, "epochs": 1, "batch_size": 16, "precision": "32", "robustness": False}
SIZES = {25: 20, 50: 40, 100: 80}
"""A tenth is too little to train on."""


@pytest.fixture(scope="module")
def dataset():
    rows = digits().shuffle(seed=0)
    parts = {"train": range(80), "validation": range(100, 130), "test": range(200, 240)}
    return DatasetDict({name: rows.select(part) for name, part in parts.items()})


@pytest.fixture(scope="module")
def curve(dataset, tmp_path_factory):
    """A run with its curve. Do not write into it."""
    return run(RunConfig(dataset=dataset, curve=True, output=tmp_path_factory.mktemp("curve") / "run", **SETTINGS))


def rows(folder):
    return {role: part["rows"] for role, part in json.loads((folder / "splits.json").read_text()).items()}


def prepared(count, max_samples=None):
    data = DatasetDict({name: digits().select(range(of)) for name, of in (("train", count), ("validation", 20))})
    data["test"] = digits().select(range(200, 230))
    return prepare(data, registry.READING, max_samples=max_samples)


@pytest.mark.slow(seconds=25)
def test_shares_are_nested_and_stratified_and_the_other_images_are_the_same(curve, dataset):
    parts = {percent: rows(curve.folder / "curve" / str(percent)) for percent in (25, 50)}
    assert rows(curve.folder)["train"] == "all"
    assert [len(of["train"]) for of in parts.values()] == [20, 40]
    assert set(parts[25]["train"]) < set(parts[50]["train"])
    assert [of["test"] for of in parts.values()] == [of["validation"] for of in parts.values()] == ["all", "all"]
    labels = np.array(dataset["train"]["label"])
    for of in parts.values():
        counts = np.bincount(labels[of["train"]], minlength=10)
        expected = np.bincount(labels, minlength=10) * len(of["train"]) / 80
        assert np.abs(counts - expected).max() <= 1


@pytest.mark.slow(seconds=1)
def test_the_numbers_are_those_of_the_trainings_and_of_their_resamples(curve):
    found = curve.evaluation["curve"]
    assert {point["percent"]: point["images"] for point in found["points"]} == SIZES
    assert found["points"][-1]["test"] == curve.metrics["test"]
    assert [point["score"] for point in found["points"]] == [point["test"]["accuracy"] for point in found["points"]]
    low, high = curve.evaluation["intervals"]["test"]["accuracy"]
    assert found["points"][-1]["interval"] == pytest.approx([low, high], abs=0.051)  # two images of 40
    assert found["law"]["line"][-1]["images"] == 160
    assert json.loads((curve.folder / "result.json").read_text())["evaluation"]["curve"] == found


@pytest.mark.slow(seconds=1)
def test_a_line_and_a_picture_are_in_the_card(curve):
    text = cards.render(curve.folder)
    assert "### More training images\n\n| training images | test accuracy |" in text
    assert "of twice as many images." in text
    assert "(figures/shares.png)" in text
    assert (curve.folder / "model/figures/shares.png").is_file()
    assert not list((curve.folder / "curve").rglob("last.ckpt"))
    assert len(list((curve.folder / "curve").rglob("best.ckpt"))) == 2


@pytest.mark.slow(seconds=10)
def test_a_run_that_was_killed_between_two_shares_goes_on_and_comes_out_the_same(curve, dataset, tmp_path, monkeypatch):
    measured, calls = shares._measured, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(shares, "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        run(RunConfig(dataset=dataset, curve=True, output=tmp_path / "run", **SETTINGS))
    assert (tmp_path / "run/curve/50/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    monkeypatch.setattr(shares, "_measured", measured)
    monkeypatch.setattr(write_up, "finish", lambda finished, *_: finished.result)
    again = run(RunConfig(dataset=dataset, curve=True, resume=tmp_path / "run", **SETTINGS))
    assert again.metrics == curve.metrics
    points = [
        [(p["images"], p["test"], p["interval"]) for p in of.evaluation["curve"]["points"]] for of in (again, curve)
    ]
    assert points[0] == points[1]


# --- without a training -----------------------------------------------------------------------------------------------


def test_the_presets_epochs_are_those_for_so_many_images():
    config = RunConfig(dataset="x", model="resnest14d", curve=True).resolved().for_images(400)
    made = shares.plan(config, prepared(400))
    assert [(share.percent, share.images) for share in made] == [(10, 40), (25, 100), (50, 200), (100, 400)]
    assert [share.config.epochs for share in made] == [epochs_for(share.images, 32) for share in made]
    assert len({share.config.epochs for share in made}) > 1
    ratios = {share.config.warmup_epochs / share.config.epochs for share in made}
    assert max(ratios) == pytest.approx(min(ratios))


def test_epochs_that_are_given_are_those_of_all():
    config = RunConfig(dataset="x", model="resnest14d", curve=True, epochs=7).resolved().for_images(400)
    assert {share.config.epochs for share in shares.plan(config, prepared(400))} == {7}


def test_time_goes_by_the_images_that_a_training_sees():
    config = RunConfig(dataset="x", model="resnest14d", curve=True, epochs=7).resolved()
    assert [share.work for share in shares.plan(config, prepared(400))] == [280, 700, 1400, 2800]


def test_too_few_images_are_said_before_anything_is_trained():
    config = RunConfig(dataset="x", model="resnest14d", curve=True, epochs=1).resolved()
    with pytest.raises(DatasetError, match=r"--curve: 40 training images are too few: .* needs 3 sizes; leave out"):
        shares.plan(config, prepared(40))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": 2}, r"--curve cannot take --seeds 2: .*leave out one of the two"),
        ({"streaming": True}, r"--curve cannot take --streaming: .*leave out one of them"),
    ],
)
def test_what_cannot_be_with_it_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        RunConfig(dataset="x", model="resnest14d", curve=True, **given).resolved()


def test_the_card_repeats_it():
    assert "--curve" in command.words(RunConfig(dataset="digits", model="resnest14d", curve=True).resolved())
