"""Training on several devices, stopping and going on."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow(seconds=40)

RUN = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", "32", "--accelerator", "cpu"]


def test_two_processes_train_one_model(cli, digits_run, tmp_path):
    arguments = [
        *RUN,
        "--epochs",
        1,
        "--max-samples",
        400,
        "--workers",
        0,
        "--devices",
        2,
        "--output",
        tmp_path / "run",
    ]
    done = cli("finetune", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["training"]["devices"] == 2
    assert done.stdout.count("task: image-classification") == 1  # the second process says nothing
    assert (tmp_path / "run/splits.json").read_text() == (digits_run / "splits.json").read_text()
    again = cli("finetune", "evaluate", tmp_path / "run", "--json")
    recorded = result["metrics"]["test"]
    assert json.loads(again.stdout)["metrics"] == pytest.approx(recorded, abs=1e-6)


def test_stopped_by_a_signal_and_resumed(cli, tmp_path):
    run = tmp_path / "run"
    arguments = [*RUN, "--epochs", "2", "--max-samples", "200", "--workers", "0", "--output", str(run)]
    process = subprocess.Popen([sys.executable, "-m", "finetune", *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM" in errors
    assert f"--resume {run}" in errors
    assert not (run / "result.json").exists()
    assert not (run / "model").exists()

    taken = cli("finetune", *arguments)
    assert taken.returncode == 2
    assert "already holds a run" in taken.stderr

    done = cli("finetune", "--resume", run)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert json.loads((run / "result.json").read_text())["training"]["epochs"] == 2
