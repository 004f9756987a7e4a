"""Several seeds of one training: the same as single runs, on one split; what is exported, and a kill at any moment."""

import csv
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from torch import nn

from finetune import ImageClassificationTask, RunConfig, run
from finetune.cli import parse_train
from finetune.commands import seeds
from finetune.commands.report import table
from finetune.data.sample import digits
from finetune.data.splits import Splits
from finetune.errors import ConfigError, ResumeError
from finetune.evaluation import spread
from finetune.evaluation.metrics import SCORES
from finetune.networks import linear_probe
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, find
from finetune.settings import command
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.training.callbacks.limits import Limits

FIRST, COUNT = 3, 2
EPOCHS = 2
SETTINGS = {"model": "resnest14d", "pretrained": False, "image_size": 32, "accelerator": "cpu", "devices": "1"}
SETTINGS |= {"workers": 0, "epochs": EPOCHS, "batch_size": 16}
MEASURED = ("seconds", "images_per_second", "memory_mb", "data_wait")


def splits(sizes):
    """A dataset with splits of its own, which no seed decides on."""
    data = digits().shuffle(seed=0)
    ends = np.cumsum([0, *sizes])
    names = ("train", "validation", "test")
    return DatasetDict({name: data.select(range(*ends[i : i + 2])) for i, name in enumerate(names)})


@pytest.fixture(scope="module")
def dataset():
    return splits([48, 24, 24])


@pytest.fixture(scope="module")
def several(dataset, tmp_path_factory):
    """A run of two seeds. Do not write into it."""
    folder = tmp_path_factory.mktemp("seeds") / "run"
    return run(RunConfig(dataset=dataset, seed=FIRST, seeds=COUNT, output=folder, **SETTINGS))


def averages(*_):
    """In place of `spread.choose`."""
    return None, "so that there is an average"


@pytest.fixture(scope="module")
def averaged(dataset, tmp_path_factory):
    """The same, its average exported. Do not write into it."""
    folder = tmp_path_factory.mktemp("average") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "choose", averages)
        return run(RunConfig(dataset=dataset, seed=FIRST, seeds=COUNT, output=folder, **SETTINGS))


def rows(folder):
    """metrics.csv without the columns that may differ."""
    found = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found]


def weights(folder):
    state = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def folder_of(result, seed):
    """Where a seed's files are in the end."""
    exported = result.evaluation["seeds"]["exported"] == seed
    return result.folder if exported else result.folder / "seeds" / str(seed)


def timeless(entry):
    """`evaluation.seeds` without what may differ."""
    each = [{name: value for name, value in one.items() if name != "seconds"} for one in entry["each"]]
    return entry | {"each": each}


# --- the runs --------------------------------------------------------------------------------------------------------


def test_each_seed_is_the_run_that_it_would_be_alone(several, dataset, tmp_path):
    """The second, so that nothing of the first is left in it."""
    seed = FIRST + 1
    alone = run(RunConfig(dataset=dataset, seed=seed, output=tmp_path / "run", **SETTINGS))
    entry = several.evaluation["seeds"]["each"][1]
    assert entry["seed"] == seed
    assert {role: entry[role] for role in alone.metrics} == alone.metrics
    assert [entry[name] for name in ("epochs", "best_epoch")] == [EPOCHS, alone.training["best_epoch"]]
    assert_equal(weights(folder_of(several, seed)), weights(alone.folder))
    assert rows(folder_of(several, seed)) == rows(alone.folder)
    assert "seeds" not in alone.evaluation
    assert not (alone.folder / "seeds").exists()


def test_the_run_has_what_is_exported_and_the_others_lie_beside(several):
    entry = several.evaluation["seeds"]
    numbers = [one["seed"] for one in entry["each"]]
    assert numbers == [FIRST, FIRST + 1]
    first, second = (weights(folder_of(several, seed)) for seed in numbers)
    assert not torch.equal(first["conv1.0.weight"], second["conv1.0.weight"])
    assert entry["exported"] in numbers
    others = [str(seed) for seed in numbers if seed != entry["exported"]]
    assert [path.name for path in (several.folder / "seeds").iterdir()] == others
    exported = load_file(several.folder / "model/model.safetensors")
    assert_equal(exported, weights(several.folder))
    assert several.metrics == {role: entry["each"][numbers.index(entry["exported"])][role] for role in several.metrics}
    assert sorted(path.name for path in (several.folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    read = json.loads((several.folder / "result.json").read_text())
    assert (read["evaluation"]["seeds"], read["seed"]) == (entry, FIRST)
    words = command.words(RunConfig(dataset="digits", seed=FIRST, seeds=COUNT, **SETTINGS).resolved())
    assert " ".join(words).endswith(f"--seed {FIRST} --seeds {COUNT}")


def test_mean_and_spread_are_printed_and_on_the_card(several):
    entry = several.evaluation["seeds"]
    scores = [one["test"]["accuracy"] for one in entry["each"]]
    mean, spread_of = f"{np.mean(scores):.4f}", f"{np.std(scores, ddof=1):.4f}"
    lines = table(several, CLASSIFICATION, SCORES).splitlines()
    assert lines[1].endswith("test, 2 seeds")
    assert next(line for line in lines if line.startswith("accuracy ")).endswith(f"{mean} +- {spread_of}")
    (said,) = [line for line in lines if line.startswith("2 seeds: ")]
    assert all(f"{one['test']['accuracy']:.4f} ({one['seed']})" in said for one in entry["each"])
    assert f"exported: seed {entry['exported']}" in said
    card = (several.folder / "model/README.md").read_text()
    assert f"a mean test accuracy of {mean} with a standard deviation of {spread_of}: " in card
    assert f"This model is that of seed {entry['exported']}, chosen on validation" in card


class Killed(Exception):
    """In place of SIGKILL, at a place of our choice."""


def killed(*_):
    raise Killed


KILLS = {
    "in the second seed": ("finetune.training.callbacks.limits.Limits.on_train_batch_end", None),
    "when all are trained": ("finetune.commands.seeds.average", killed),
    "between two files": ("finetune.commands.seeds.write_text", killed),
    "while it exports": ("finetune.export.model_folder.save", killed),
}


@pytest.mark.slow(seconds=12)
@pytest.mark.parametrize("average", [False, True], ids=["seed", "average"])
@pytest.mark.parametrize("place", KILLS)
def test_a_killed_run_goes_on_to_the_same_end(dataset, several, averaged, tmp_path, monkeypatch, place, average):
    name, fail = KILLS[place]
    whole = averaged if average else several
    if average:
        monkeypatch.setattr(spread, "choose", averages)
    elif place == "between two files":
        name = "finetune.commands.seeds.spread.summary"
    config = {**SETTINGS, "dataset": dataset, "seed": FIRST, "seeds": COUNT}
    folder = tmp_path / "run"
    calls = []

    def in_second(self, trainer, *args):
        calls.append(trainer.global_step)
        if len(calls) == 3 * EPOCHS + 4:  # 3 steps an epoch: the first of the second seed's second
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(name, fail or in_second)
        with pytest.raises(Killed):
            run(RunConfig(output=folder, save_every=2, **config))
    assert not (folder / "result.json").exists()
    again = run(RunConfig(resume=folder, **config))
    assert_equal(load_file(folder / "model/model.safetensors"), load_file(whole.folder / "model/model.safetensors"))
    assert again.metrics == whole.metrics
    assert timeless(again.evaluation["seeds"]) == timeless(whole.evaluation["seeds"])
    for seed in (FIRST, FIRST + 1):
        assert rows(folder_of(again, seed)) == rows(folder_of(whole, seed))
    names = [sorted(str(path.relative_to(of.folder)) for path in of.folder.rglob("*")) for of in (again, whole)]
    assert names[0] == names[1]


@pytest.mark.slow(seconds=1)
def test_an_exported_average_is_the_mean_and_has_its_own_numbers(averaged):
    found, numbers = averaged, range(FIRST, FIRST + COUNT)
    both = [weights(found.folder / "seeds" / str(seed)) for seed in numbers]
    exported = load_file(found.folder / "model/model.safetensors")
    assert_equal(exported, weights(found.folder))
    for name, value in exported.items():
        mean = np.mean([of[name].double().numpy() for of in both], axis=0)
        np.testing.assert_allclose(value.numpy(), mean, rtol=1e-6, atol=1e-9, err_msg=name)
    entry = found.evaluation["seeds"]
    assert (entry["exported"], entry["average"], found.model["weights"]) == (
        "average",
        found.metrics,
        "averaged over seeds",
    )
    assert all(found.metrics["test"]["loss"] != one["test"]["loss"] for one in entry["each"])
    assert found.training["best_epoch"] is None
    assert found.training["seconds"] == pytest.approx(sum(one["seconds"] for one in entry["each"]), abs=1e-3)
    losses = [[float(row["val_loss"]) for row in rows(found.folder / "seeds" / str(seed))] for seed in numbers]
    shown = [float(row["val_loss"]) for row in rows(found.folder)]
    assert shown == pytest.approx(list(map(statistics.mean, zip(*losses, strict=True))), rel=1e-12)
    card = (found.folder / "model/README.md").read_text()
    assert "This model is the average of their weights, chosen on validation" in card


@pytest.mark.slow(seconds=10)
def test_each_seed_has_a_record_of_its_own(dataset, tmp_path):
    pytest.importorskip("tensorboard")
    config = SETTINGS | {"epochs": 1, "logger": "tensorboard"}
    found = run(RunConfig(dataset=dataset, seeds=COUNT, output=tmp_path / "run", **config))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for one in found.evaluation["seeds"]["each"]:
        events = EventAccumulator(str(found.folder / "tensorboard" / f"seed{one['seed']}")).Reload()
        (event,) = events.Scalars("result/test_loss")
        assert event.value == pytest.approx(one["test"]["loss"], rel=1e-6)
        assert (event.step, len(events.Scalars("val_loss"))) == (3, 1)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("more", [{}, {"freeze": "backbone"}], ids=["whole", "frozen"])
def test_pretrained_weights_are_probed_once(digits_run, tmp_path, monkeypatch, more):
    fits, original = [], linear_probe.fit
    monkeypatch.setattr(linear_probe, "fit", lambda *arguments: fits.append(1) or original(*arguments))
    config = SETTINGS | {"pretrained": True, "model": f"local-dir:{digits_run / 'model'}", "head_init": "zero", **more}
    found = run(RunConfig(dataset="digits", max_samples=1300, seeds=COUNT, output=tmp_path / "run", **config))
    assert fits == [1]
    entry = found.evaluation["seeds"]
    assert found.dataset["splits"]["validation"] >= 100
    ranks = [(one["validation"]["accuracy"], -one["validation"]["loss"]) for one in entry["each"]]
    mean = (entry["average"]["validation"]["accuracy"], -entry["average"]["validation"]["loss"])
    expected = "average" if mean > max(ranks) else ranks.index(max(ranks))
    assert entry["exported"] == expected
    probes, trained = zip(*(rows(folder_of(found, seed))[:2] for seed in range(COUNT)), strict=True)
    assert trained[0]["val_loss"] != trained[1]["val_loss"]
    assert probes[0] == probes[1]
    assert probes[0]["epoch"] == "0"
    assert float(probes[0]["val_loss"]) == found.evaluation["probe"]["validation"]["loss"]
    assert (found.metrics["validation"]["accuracy"], -found.metrics["validation"]["loss"]) >= max(ranks)


@pytest.mark.slow(seconds=10)
def test_the_time_is_for_all(dataset, tmp_path, monkeypatch):
    """The first takes 10 of 60 minutes, so that the second may take 50."""
    shares = []
    monkeypatch.setattr(Limits, "_late", lambda self, trainer: shares.append(self.seconds) or False)
    monkeypatch.setattr(Limits, "elapsed", 600.0)
    config = SETTINGS | {"epochs": 1, "max_time": "1h"}
    run(RunConfig(dataset=dataset, seeds=COUNT, output=tmp_path / "run", **config))
    assert set(shares[: len(shares) // 2]) == {1800.0}
    assert set(shares[len(shares) // 2 :]) == {3000.0}


def start(*arguments):
    words = [sys.executable, "-m", "finetune", *map(str, arguments)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process, path, newer_than=0):
    deadline = time.monotonic() + 300
    while not (path.exists() and path.stat().st_mtime_ns > newer_than):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return path.stat().st_mtime_ns


@pytest.mark.slow(seconds=90)
@pytest.mark.parametrize("devices", [1, 2])
def test_stopped_and_killed_in_the_second_seed(cli, tmp_path, devices):
    words = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", 32, "--workers", 0]
    words += ["--accelerator", "cpu", "--devices", devices, "--max-samples", 160, "--epochs", 2, "--batch-size", 16]
    words += ["--seeds", 2]
    run, whole = tmp_path / "run", tmp_path / "whole"
    done = cli("finetune", *words, "--output", whole)
    assert done.returncode == 0, done.stderr
    last = run / "seeds/1/checkpoints/last.ckpt"
    process = start(*words, "--save-every", 2, "--output", run)
    seen = wait_for(process, last)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 75, errors
    assert f"stopped by SIGTERM; go on with: python -m finetune --resume {run}\n" in errors
    seen = max(seen, last.stat().st_mtime_ns)
    process = start("--resume", run, "--save-every", 1)
    wait_for(process, last, seen)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = cli("finetune", *words, "--output", run, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert rows(run) == rows(whole)
    found, expected = (RunResult.load(folder / "result.json") for folder in (run, whole))
    assert found.metrics == expected.metrics
    assert found.training["devices"] == devices
    assert timeless(found.evaluation["seeds"]) == timeless(expected.evaluation["seeds"])
    again = cli("finetune", "evaluate", run, "--json")
    assert json.loads(again.stdout)["metrics"] == pytest.approx(found.metrics["test"], abs=1e-6)


# --- what is refused -------------------------------------------------------------------------------------------------

GIVEN = {"model": "resnest14d", "dataset": "digits"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "--seeds must be at least 1 and at most 1000, got 0"),
        (
            {"freeze": "backbone"},
            "--seeds 2: the classifier of --freeze backbone is solved for, and comes out the same",
        ),
        ({"freeze": "backbone", "epochs": 3, "pretrained": False}, "each seed would have another random backbone"),
        ({"streaming": True}, "--seeds 2 cannot take --streaming"),
        ({"seed": 2**32 - 1}, "the last would be above 4294967295"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**{**GIVEN, "seeds": 2, **options}).resolved()


@pytest.mark.parametrize(
    "options", [{"freeze": "backbone", "epochs": 3}, {"freeze": "backbone", "hflip": 0.5, "pretrained": False}]
)
def test_a_classifier_that_is_trained_has_seeds(options):
    assert RunConfig(**GIVEN, seeds=2, **options).resolved().seeds == 2
    assert parse_train(["--model", "resnest14d", "--dataset", "digits", "--seeds", "2"]).seeds == 2


@pytest.mark.parametrize(("begun", "now"), [(1, 2), (2, 1), (2, 3), (None, 2)])
def test_a_run_goes_on_with_as_many_seeds_as_it_was_begun_with(tmp_path, begun, now):
    settings = "" if begun is None else f"seeds: {begun}\n"
    (tmp_path / "config.yaml").write_text(f"model: resnest14d\ndataset: digits\nseed: 0\n{settings}")
    folder = RunFolder(tmp_path)
    with pytest.raises(ResumeError, match=f"was begun with --seeds {begun or 1}, not {now}"):
        seeds.check(RunConfig(**GIVEN, seeds=now), folder)
    seeds.check(RunConfig(**GIVEN, seeds=begun or 1), folder)
    seeds.check(RunConfig(**GIVEN, seeds=now), RunFolder(tmp_path / "new"))


def test_repeating_a_command_finds_runs_of_as_many_seeds_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(**GIVEN, seeds=2).resolved()
    RunFolder(tmp_path / "runs/two").create(config, Splits({}))
    assert find(config).path == tmp_path / "runs/two"
    one = RunConfig(**GIVEN).resolved()
    assert find(one) is None
    RunFolder(tmp_path / "runs/one").create(one, Splits({}))
    text = (tmp_path / "runs/one/config.yaml").read_text()
    (tmp_path / "runs/one/config.yaml").write_text(text.replace("seeds: 1\n", ""))  # of an earlier version
    assert find(one).path == tmp_path / "runs/one"


# --- the choice ------------------------------------------------------------------------------------------------------


def scores(accuracy, loss):
    return {"accuracy": accuracy, "loss": loss}


BY_ACCURACY = "validation accuracy, then loss"
SEEDS = [scores(0.8, 0.6), scores(0.9, 0.7), scores(0.9, 0.5), scores(0.9, 0.5)]  # on average 0.875, 0.575


@pytest.mark.parametrize(
    ("average", "enough", "chosen"),
    [
        (scores(0.89, 0.1), True, 2),
        (scores(0.9, 0.5), True, 2),
        (scores(0.9, 0.49), True, None),
        (scores(0.91, 0.9), True, None),
        (scores(math.nan, math.nan), True, 2),
        (scores(0.9, 0.57), False, None),
        (scores(0.95, 0.58), False, 2),
        (scores(0.87, 0.1), False, 2),
        (scores(0.9, math.nan), False, 2),
    ],
)
def test_the_average_is_exported_only_where_it_is_better(average, enough, chosen):
    place, rule = spread.choose(SEEDS, average, enough)
    assert place == chosen
    few = "validation loss and accuracy better than the seeds' mean: too few images to tell seeds apart"
    rules = {True: (spread.BETTER_THAN_EACH, BY_ACCURACY), False: (few, "validation loss")}
    assert rule == rules[enough][chosen is not None]


def test_the_average_of_checkpoints(tmp_path):
    """Against numpy, in float64; three equal models are their average to the last bit."""
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
        model(torch.randn(5, 3, 8, 8))
        model[1].num_batches_tracked += seed
        task = ImageClassificationTask(model, 2)
        made.append(task.model.state_dict())
        torch.save({"state_dict": task.state_dict()}, tmp_path / f"{seed}.ckpt")
    found = seeds.average([tmp_path / f"{seed}.ckpt" for seed in range(3)])
    assert found.keys() == made[0].keys()
    for name, value in found.items():
        stacked = np.stack([state[name].numpy() for state in made])
        if name.endswith("num_batches_tracked"):
            assert value == stacked[0]
        else:
            expected = stacked.astype(np.float64).mean(0).astype(np.float32)
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-7, err_msg=name)
    assert_equal(seeds.average([tmp_path / "1.ckpt"] * 3), made[1])


def test_mean_and_standard_deviation_are_those_of_a_sample():
    values = np.random.default_rng(0).random((3, 2, 2))  # seed, split, score
    each = [
        {role: scores(*of) for role, of in zip(("validation", "test"), one, strict=True)} for one in values.tolist()
    ]
    found = spread.summary(each, {"validation": scores(0.5, 1.0)}, 1, BY_ACCURACY)
    for place, role in enumerate(("validation", "test")):
        for column, name in enumerate(("accuracy", "loss")):
            assert found["mean"][role][name] == pytest.approx(values[:, place, column].mean())
            assert found["sd"][role][name] == pytest.approx(values[:, place, column].std(ddof=1))
    assert (found["exported"], found["chosen_by"]) == (1, BY_ACCURACY)


def test_the_mean_of_metrics_has_the_epochs_that_all_have(tmp_path):
    texts = ["epoch,lr,val_loss\n0,,2.0\n1,0.5,1.0\n2,0.25,0.5\n", "epoch,lr,val_loss\n0,,2.0\n1,0.5,0.5\n"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
    found = seeds.mean_rows([tmp_path / "0.csv", tmp_path / "1.csv"])
    assert found.splitlines() == ["epoch,lr,val_loss", "0,,2.0", "1,0.5,0.75"]
