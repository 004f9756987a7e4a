"""Run folders that an earlier version left go on, are evaluated and predict: tests/fixtures/interrupted."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "interrupted"
ON_CPU = ("--accelerator", "cpu", "--workers", 0)
STEPS = 20  # an epoch: 400 images in batches of 20


@pytest.fixture
def old(tmp_path):
    """A copy; the runs name their model relative to it."""
    return shutil.copytree(FIXTURE, tmp_path / "old")


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def result(run):
    return json.loads((run / "result.json").read_text())


def global_step(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_an_interrupted_run_goes_on_within_its_epoch(cli, old):
    run, reference = old / "run", old / "finished"
    before = rows(run)
    assert (len(before), global_step(run / "checkpoints/last.ckpt")) == (1, STEPS + 5)
    done = cli("finetune", "--resume", "run", cwd=old)
    assert done.returncode == 0, done.stderr
    said = [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert said == ["epoch 2/3", "epoch 3/3"]
    after = rows(run)
    assert after[:1] == before  # with the seconds that it took then
    assert [row["epoch"] for row in after] == ["1", "2", "3"]
    assert global_step(run / "checkpoints/last.ckpt") == 3 * STEPS
    training = result(run)["training"]
    assert (training["epochs"], training["planned_epochs"], training["partial_epoch"]) == (3, 3, None)
    # The same steps on the same images. What rounding differs by, on other threads or processors, grows with the steps:
    # one thread in place of two moved losses by 2e-6, then by 7e-4; averaged weights that are lost, by 2.5e-4.
    for new, recorded, rounding in zip(after[1:], rows(reference)[1:], (1e-4, 5e-3), strict=True):
        for name in ("train_loss", "val_loss"):
            assert float(new[name]) == pytest.approx(float(recorded[name]), rel=rounding), (new["epoch"], name)
        assert float(new["lr"]) == pytest.approx(float(recorded["lr"]), abs=1e-9)


def test_a_finished_run_is_evaluated_as_it_was(cli, old):
    done = cli("finetune", "evaluate", "finished", *ON_CPU, "--json", cwd=old)
    assert done.returncode == 0, done.stderr
    said, recorded = json.loads(done.stdout), result(old / "finished")
    assert said["images"] == recorded["dataset"]["splits"]["test"] == 50
    for name, value in recorded["metrics"]["test"].items():
        assert said["metrics"][name] == pytest.approx(value, abs=1e-6), name
    for name, ends in recorded["evaluation"]["intervals"]["test"].items():
        assert said["intervals"][name] == pytest.approx(ends), name
    assert said["calibration"]["temperature"] == recorded["evaluation"]["calibration"]["temperature"]


@pytest.mark.parametrize(("images", "count"), [("images", 10), ("images/3.png", 1)])
def test_a_finished_run_predicts_what_it_did(cli, old, images, count):
    """Many images run through the inference form, one through the model as it is."""
    done = cli("finetune", "predict", "finished", images, "--top-k", 10, *ON_CPU, cwd=old)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == count
    expected = json.loads((old / "expected.json").read_text())
    for record in records:
        found = {top["label"]: top["probability"] for top in record["top"]}
        assert found == pytest.approx(expected[Path(record["image"]).name], abs=1e-4), record["image"]
