"""Runs that are killed, stopped, damaged or changed, and go on: the real command line on tiny data."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
from safetensors.torch import load_file

from finetune.commands.report import table
from finetune.evaluation.metrics import SCORES
from finetune.runs.result import RunResult
from finetune.tasks.classification.task import CLASSIFICATION

pytestmark = pytest.mark.slow(seconds=90)

# All that draws random numbers is on, and two processes decode.
RUN = [*"--model resnest14d --dataset digits --no-pretrained --image-size 32 --accelerator cpu".split()]
RUN += [*"--workers 2 --max-samples 200 --epochs 2 --batch-size 16".split()]
RUN += [*"--clip-grad 1 --device-batch-size 6".split()]  # 3 parts on one device, 2 on two
RUN += [*"--mixup 0.2 --cutmix 0.5 --dropout 0.2 --drop-path 0.1 --drop-block 0.1 --random-erasing 0.2".split()]
EMA = ["--ema", "0.9"]
MEASURED = ("seconds", "images_per_second", "memory_mb", "data_wait")
STEPS = 10  # an epoch: 160 images in batches of 16


def start(*arguments):
    """The command line in a process group of its own, as a terminal or a batch system starts it."""
    command = [sys.executable, "-m", "finetune", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def after_checkpoints(process, run, count):
    """Wait until the run has saved `count` times; every save is another file."""
    last, seen = run / "checkpoints/last.ckpt", set()
    deadline = time.monotonic() + 300
    while len(seen) < count and time.monotonic() < deadline and process.poll() is None:
        if last.exists():
            status = last.stat()
            seen.add((status.st_ino, status.st_mtime_ns))
        time.sleep(0.002)
    assert len(seen) == count, process.communicate()[1] if process.poll() is not None else "too slow"


def step_of(checkpoint):
    return torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]


def rows(run):
    """metrics.csv without the columns that may differ."""
    found = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found]


def assert_same(run, reference):
    assert (run / "model/model.safetensors").read_bytes() == (reference / "model/model.safetensors").read_bytes()
    assert rows(run) == rows(reference)
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, reference)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["training"]["best_epoch"] == results[1]["training"]["best_epoch"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.fixture(scope="module")
def uninterrupted(cli, tmp_path_factory):
    """By number of devices, a run that nothing happened to. Do not write into it."""
    made = {}

    def run(devices):
        if devices not in made:
            made[devices] = tmp_path_factory.mktemp("uninterrupted") / str(devices)
            done = cli("finetune", *RUN, *EMA, "--devices", devices, "--output", made[devices])
            assert done.returncode == 0, done.stderr
        return made[devices]

    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run on one device that SIGTERM stopped within its second epoch. Copy it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    process = start(*RUN, *EMA, "--devices", 1, "--save-every", 4, "--output", run)
    after_checkpoints(process, run, 4)  # steps 4, 8, 10 (the epoch's end), 12
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    assert f"stopped by SIGTERM; go on with: python -m finetune --resume {run}" in errors
    return run


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.mark.parametrize("devices", [1, 2])
def test_killed_at_a_random_step_and_repeated_by_a_batch_system(cli, uninterrupted, tmp_path, devices):
    run = tmp_path / "run"
    command = [*RUN, *EMA, "--devices", devices, "--output", run, "--resume", "auto"]
    saves = random.Random(devices).randrange(1, 2 * STEPS - 2)
    process = start(*command, "--save-every", 1)
    after_checkpoints(process, run, saves)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert saves <= step_of(run / "checkpoints/last.ckpt") <= saves + 1 < 2 * STEPS
    done = cli("finetune", *command)
    assert done.returncode == 0, done.stderr
    assert_same(run, uninterrupted(devices))
    if devices > 1:
        return
    again = cli("finetune", *command)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"the run in {run} is complete"), again.stderr


def test_a_model_that_is_split_over_two_processes_goes_on_after_a_kill_too(cli, tmp_path):
    runs = [tmp_path / name for name in ("killed", "whole")]
    # The later flag counts: an epoch of 5 steps.
    command = [*RUN, "--devices", 2, "--strategy", "fsdp", "--epochs", 1, "--max-samples", 100]
    process = start(*command, "--save-every", 1, "--output", runs[0])
    after_checkpoints(process, runs[0], 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 2 <= step_of(runs[0] / "checkpoints/last.ckpt") < 5
    for flags in (["--resume", runs[0]], [*command, "--output", runs[1]]):
        done = cli("finetune", *flags)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    assert_same(*runs)
    stock = timm.create_model(f"local-dir:{runs[0] / 'model'}", pretrained=True)
    weights = load_file(runs[0] / "model/model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in stock.state_dict().items())


def test_the_averaged_weights_are_chosen_evaluated_and_exported(uninterrupted):
    run = uninterrupted(1)
    result = RunResult.load(run / "result.json")
    assert (result.model["weights"], result.training["ema"]) == ("averaged", 0.9)
    assert "weights             averaged over the steps (--ema 0.9)" in table(result, CLASSIFICATION, SCORES)
    best = rows(run)[result.training["best_epoch"] - 1]
    for name in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
        assert float(best[f"val_{name}"]) == pytest.approx(result.metrics["validation"][name], rel=1e-6)
    exported = load_file(run / "model/model.safetensors")
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    averaged, raw = (
        {name.removeprefix("model."): value for name, value in saved[key].items()}
        for key in ("state_dict", "current_model_state")
    )
    assert exported.keys() == averaged.keys() == raw.keys()
    assert all(torch.equal(exported[name], averaged[name]) for name in exported)
    assert not torch.equal(exported["fc.weight"], raw["fc.weight"])


def test_a_signal_saves_at_the_step_it_comes_in(cli, uninterrupted, stopped, copy):
    assert not (stopped / "result.json").exists()
    content = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)
    assert STEPS < content["global_step"] < 2 * STEPS
    assert content["ImageDataModule"] == {"epoch": 1, "step": content["global_step"] - STEPS}
    before = content["callbacks"]["EpochLog"]
    assert before["partial"] > 0
    done = cli("finetune", "--resume", copy)
    assert done.returncode == 0, done.stderr
    assert_same(copy, uninterrupted(1))
    training = json.loads((copy / "result.json").read_text())["training"]
    seconds = [float(row["seconds"]) for row in csv.DictReader((copy / "metrics.csv").read_text().splitlines())]
    assert training["seconds"] == pytest.approx(sum(seconds), abs=0.01)
    assert seconds[0] == pytest.approx(before["seconds"], abs=0.01)  # of the part before the signal
    assert seconds[1] > before["partial"]


def test_one_process_gets_the_signal_and_all_stop_at_the_same_step(cli, tmp_path):
    run = tmp_path / "run"
    process = start(*RUN, "--devices", 2, "--save-every", 3, "--output", run)
    after_checkpoints(process, run, 1)
    process.send_signal(signal.SIGUSR1)  # to the first process alone
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    assert errors.count("stopped by") == 1
    assert "Traceback" not in errors
    stopped_at = step_of(run / "checkpoints/last.ckpt")
    assert 3 < stopped_at < STEPS
    done = cli("finetune", "--resume", run, "--devices", 1, "--workers", 0, "--precision", "32")  # other hardware
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    assert step_of(run / "checkpoints/last.ckpt") == 2 * STEPS


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(cli, uninterrupted, copy):
    last = copy / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    done = cli("finetune", "--resume", copy)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "last.ckpt" in line]
    assert len(said) == 1
    assert said[0].startswith("last.ckpt is damaged (")
    assert said[0].endswith("): going on from previous.ckpt, the one before")
    assert_same(copy, uninterrupted(1))


def test_a_full_disk_is_an_error_and_the_last_checkpoint_stays(copy):
    before = (copy / "checkpoints/last.ckpt").read_bytes()

    def limit():  # files of 50 MB at most: what torch is told then is a full disk in all but the number
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))

    command = [sys.executable, "-m", "finetune", "--resume", str(copy), "--save-every", "1"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert f"error: cannot write a checkpoint to {copy / 'checkpoints'}: File too large; those written" in done.stderr
    assert f"go on with: python -m finetune --resume {copy}" in done.stderr
    assert "Traceback" not in done.stderr
    assert (copy / "checkpoints/last.ckpt").read_bytes() == before
    assert not [path.name for path in (copy / "checkpoints").iterdir() if path.suffix == ".part"]


def test_another_model_and_other_images_are_refused(cli, copy):
    config = (copy / "config.yaml").read_bytes()
    done = cli("finetune", "--resume", copy, "--model", "resnest26d", "--max-samples", 100, "--lr", 1e-3)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --resume: the run in {copy} was begun with --model resnest14d, not resnest26d;"
    )
    for part in ("--lr 0.002, not 0.001", "train split 160 images, not 80", "other shapes of the model's weights"):
        assert part in done.stderr
    assert done.stderr.rstrip().endswith("give what it was begun with, or start another run with --output")
    assert (copy / "config.yaml").read_bytes() == config
