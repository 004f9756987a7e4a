"""`--streaming` from the command line to the card: on disk and on a Hub, on two processes, stopped and gone on with."""

import itertools
import json
import os
import re
import signal

import pytest
from datasets import Dataset, DatasetDict

from finetune import RunConfig
from finetune.cli import main, parse_train
from finetune.commands.evaluate import evaluate
from finetune.commands.predict import predict
from finetune.data.splits import Splits
from finetune.errors import ConfigError, DatasetError, RunFolderError, SchemaError, SplitError
from finetune.loading import stream_source
from finetune.runs.runfolder import RunFolder
from finetune.settings.verbs import EvaluateOptions, PredictOptions
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.training.resume import identity
from tests.finetune.fits import network
from tests.finetune.ranks import ranks
from tests.finetune.streams import CLASSES, parquet, picture, tar, write
from tests.finetune.training.test_launch import srun
from tests.hub_standin import HubStandIn

NAMED = ["--train-split", "train", "--val-split", "validation", "--test-split", "test"]
RUN = "--model resnest14d --no-pretrained --image-size 32 --accelerator cpu --epochs 2 --batch-size 8".split()
RUN += ["--streaming", "--workers", "0", *NAMED]
NAMES = {"train_split": "train", "val_split": "validation", "test_split": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("parquet"))


def test_a_run_from_beginning_to_end(tmp_path, capsys, monkeypatch):
    """More steps than the stream has; a bad image of each split is left out; the run is used as any other."""
    monkeypatch.delenv("HF_HUB_OFFLINE")  # which a training sets for what has been fetched
    broken = write(tmp_path / "broken", lambda numbers: parquet(numbers, bad={3, 50, 60}))
    arguments = ["--dataset", str(broken), *RUN, "--steps-per-epoch", "20", "--output", str(tmp_path / "run")]
    assert main([*arguments, "--ema", "0.9", "--device-batch-size", "4", "--patience", "5"]) == 0
    said = capsys.readouterr().out
    assert "train: streamed from split 'train', 5 shards" in said
    assert "epoch 2: the stream ended after 5 of 20 steps; its last 4 images do not fill a batch of 8 over" in said
    assert "left out of 'train' so far: 1 images that do not decode (row 3 of shard 0" in said
    result = json.loads((tmp_path / "run/result.json").read_text())
    found, training = result["dataset"], result["training"]
    assert found["splits"] == {"train": 40, "validation": 6, "test": 12}
    assert {role: sum(counts) for role, counts in found["class_counts"].items()} == found["splits"]
    shards, epoch = {"train": 5, "validation": 2, "test": 1}, {"steps": 5, "images": 40, "left_over": 4}
    assert found["stream"] == {"shards": shards, "epochs": [epoch, epoch]}
    assert {name: len(rows) for name, rows in found["excluded"]["undecodable"].items()} == dict.fromkeys(shards, 1)
    assert (training["epochs"], training["partial_epoch"], training["steps_per_epoch"]) == (2, None, 20)
    assert training["images_per_second"] * training["seconds"] > 80  # validation takes a part of the seconds
    assert result["evaluation"]["majority_class"]["class"] in CLASSES
    assert json.loads((tmp_path / "run/splits.json").read_text())["test"] == {"source": "test", "rows": "all"}
    card = (tmp_path / "run/model/README.md").read_text()
    assert "| train | 40 | of a stream: the images of the last epoch |" in card
    assert "| test | 12 | test of the dataset |" in card
    assert {path.name for path in (tmp_path / "run/verify/images").iterdir()} == {f"{i:03}.png" for i in range(12)}
    for split in ("validation", "test"):
        options = EvaluateOptions(model=str(tmp_path / "run"), split=split, accelerator="cpu", workers=0)
        again = evaluate(options)
        assert again.images == found["splits"][split]
        assert again.metrics == pytest.approx(result["metrics"][split], abs=1e-6)
    (tmp_path / "picture.png").write_bytes(picture(1))
    options = {"model": str(tmp_path / "run"), "accelerator": "cpu"}
    ((record,),) = predict(PredictOptions(paths=(str(tmp_path / "picture.png"),), **options))
    assert record["label"] in CLASSES
    with pytest.raises(RunFolderError, match="has streamed its dataset; give --dataset"):
        next(predict(PredictOptions(split="test", **options)))
    write(broken, sizes={"train": (7,), "validation": (3, 4), "test": (14,)})
    with pytest.raises(DatasetError, match="has changed since the run: test had 12 images, and now has 14"):
        evaluate(EvaluateOptions(model=str(tmp_path / "run"), accelerator="cpu", workers=0))


@pytest.mark.slow(seconds=30)
def test_two_processes_train_on_webdataset_shards(tmp_path):
    """Classes are plain integers; of 7 and 6 test images, batches of 6 leave one process without a second batch."""
    data = write(tmp_path / "tars", tar, "tar")
    arguments = ["--dataset", str(data), *RUN, "--steps-per-epoch", "4", "--classes", ",".join(CLASSES)]
    arguments[arguments.index("--batch-size") + 1] = "6"
    codes = ranks(2, main, [*arguments, "--output", str(tmp_path / "run")], folder=tmp_path / "ranks", environment=srun)
    assert codes == [0, 0]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["dataset"]["classes"] == CLASSES
    assert result["dataset"]["splits"] == {"train": 24, "validation": 7, "test": 13}
    assert sum(sum(row) for row in result["evaluation"]["confusion"]["test"]) == 13
    assert result["training"]["devices"] == 2
    alone = evaluate(EvaluateOptions(model=str(tmp_path / "run"), accelerator="cpu", workers=0))
    assert alone.metrics == pytest.approx(result["metrics"]["test"], abs=1e-6)


def stopping(arguments):
    """SIGTERM in the third step of the second epoch; then the run goes on."""
    from finetune import ImageClassificationTask

    step, count = ImageClassificationTask.training_step, itertools.count()

    def counting(task, batch, index):
        if next(count) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(task, batch, index)

    ImageClassificationTask.training_step = counting
    return main(arguments), main([*arguments, "--resume", "auto"]), next(count)


@pytest.mark.slow(seconds=20)
def test_a_stopped_run_goes_on_within_the_epoch(folder, tmp_path):
    """Bit for bit: what has been seen is read again, and not trained on again."""
    arguments = ["--dataset", str(folder), *RUN, "--steps-per-epoch", "9"]
    for name, run in (("whole", main), ("stopped", stopping)):
        (found,) = ranks(1, run, [*arguments, "--output", str(tmp_path / name)], folder=tmp_path / f"{name}-ranks")
        assert found == (0 if name == "whole" else (75, 0, 10))  # two epochs of five steps, and not one more
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "stopped")]
    for key in ("metrics", "evaluation", "dataset"):
        assert results[0][key] == results[1][key]


@pytest.mark.slow(seconds=10)
def test_a_training_whose_time_is_over_counts_what_it_has_seen(folder, tmp_path, monkeypatch):
    from finetune.training.callbacks.limits import Limits

    monkeypatch.setattr(Limits, "_late", lambda self, trainer: trainer.global_step >= 3)
    arguments = ["--dataset", str(folder), *RUN, "--steps-per-epoch", "5", "--max-time", "1h"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["training"]["partial_epoch"] == 0.6
    assert result["training"]["stopped_by"] == "max-time"
    assert result["dataset"]["splits"]["train"] == sum(result["dataset"]["class_counts"]["train"]) == 24


@pytest.mark.slow(seconds=20)
def test_shards_are_read_from_a_hub_and_none_is_kept(cli, folder, tmp_path):
    asked = ["--dataset", "owner/shards", *RUN, "--steps-per-epoch", "3", "--workers", "2"]
    with HubStandIn() as hub:
        hub.add_dataset("owner/shards", folder)
        done = cli("finetune", *asked, "--output", tmp_path / "run", env=hub.environment(tmp_path / "home"))
        ranges = [r for r in hub.requests if r.method == "GET" and ".parquet" in r.path]
    assert done.returncode == 0, done.stderr
    assert ranges
    assert all("range" in request.headers for request in ranges)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.suffix in (".parquet", ".arrow")]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert len(result["dataset"]["revision"]) == 40
    assert result["dataset"]["splits"] == {"train": 24, "validation": 7, "test": 13}


REFUSED = {
    "--max-samples 3": "--max-samples cannot be drawn from a stream",
    "--imbalance class-weights": "--imbalance class-weights needs the number of images of each class, which a stream",
    "--freeze backbone --pretrained": "--freeze backbone computes features of images once, and a stream is not kept",
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.items())
def test_what_needs_the_images_before_the_training_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        parse_train(["--dataset", "x/y", *RUN, "--steps-per-epoch", "3", *flags.split()])


def test_a_stream_needs_its_splits_and_its_steps():
    needs = re.escape("--streaming needs --val-split, --test-split, --steps-per-epoch: a stream is not read to find")
    with pytest.raises(ConfigError, match=needs):
        parse_train(["--model", "resnest14d", "--dataset", "x/y", "--streaming", "--train-split", "train"])
    with pytest.raises(ConfigError, match="--classes and --steps-per-epoch: only with --streaming"):
        parse_train(["--model", "resnest14d", "--dataset", "digits", "--classes", "3", "--steps-per-epoch", "3"])
    flags = ["--freeze", "backbone", "--hflip", "0.5"]
    assert parse_train(["--dataset", "x/y", *RUN, "--steps-per-epoch", "3", *flags]).streaming


def test_what_a_stream_needs_is_in_the_config_and_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("a\nb\n")
    config = parse_train(["--dataset", "x/y", *RUN, "--steps-per-epoch", "3", "--classes", "names.txt"])
    assert (config.streaming, config.steps_per_epoch, config.classes) == (True, 3, "names.txt")
    RunFolder(tmp_path / "run").create(config, Splits({}))
    again = parse_train(["--config", "run/config.yaml"])
    assert (again.streaming, again.steps_per_epoch, again.classes) == (True, 3, str(tmp_path / "names.txt"))


def test_a_stream_of_other_images_is_another_run(folder, tmp_path):
    config = RunConfig(model="resnest14d", dataset=str(folder))
    first, same = (
        identity(config, stream_source.prepare(str(folder), CLASSIFICATION, **NAMES), network()) for _ in range(2)
    )
    assert first == same
    write(tmp_path, lambda numbers: parquet([n + 1 for n in numbers]))
    other = identity(config, stream_source.prepare(str(tmp_path), CLASSIFICATION, **NAMES), network())
    assert {name for name in first if first[name] != other[name]} == {f"{role} split" for role in stream_source.ROLES}
    assert first["train split"].startswith("5 shards, ")


def test_classes_that_are_not_declared_are_asked_for(tmp_path, folder):
    write(tmp_path, lambda numbers: parquet(numbers, declared=False))
    with pytest.raises(SchemaError, match=r"column 'label' \(integer\) does not declare its classes.*give --classes"):
        stream_source.prepare(str(tmp_path), CLASSIFICATION, **NAMES)
    (tmp_path / "names, all.txt").write_text("a\nb\n\nc\n")
    for given, names in (
        ("3", ("0", "1", "2")),
        ("x, y,z", ("x", "y", "z")),
        (tmp_path / "names, all.txt", ("a", "b", "c")),
    ):
        found = stream_source.prepare(str(tmp_path), CLASSIFICATION, classes=str(given), **NAMES)
        assert found.schema.classes == names
        assert found.schema.encode([2, 0]).tolist() == [2, 0]
    for wrong, message in (("1", "at least 2 different classes"), ("a,a", "at least 2"), ("/no", "expected a number")):
        with pytest.raises(SchemaError, match=message):
            stream_source.prepare(str(tmp_path), CLASSIFICATION, classes=wrong, **NAMES)
    with pytest.raises(SchemaError, match="--classes: column 'label' names its 3 classes itself"):
        stream_source.prepare(str(folder), CLASSIFICATION, classes="3", **NAMES)


def test_what_cannot_be_streamed_is_refused(folder):
    memory = DatasetDict(train=Dataset.from_dict({"image": [picture(0)], "label": [0]}))
    for dataset in ("digits", memory):
        with pytest.raises(DatasetError, match=r"--streaming reads parquet and WebDataset files.* is none of these"):
            stream_source.prepare(dataset, CLASSIFICATION, **NAMES)
    with pytest.raises(SplitError, match="--val-split: no split 'val'"):
        stream_source.prepare(str(folder), CLASSIFICATION, **NAMES | {"val_split": "val"})
