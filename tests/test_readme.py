"""The README's examples run as they are written."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.examples import ROOT, example

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_parts_work_in_a_trainer_of_ones_own(tmp_path):
    (tmp_path / "example.py").write_text(example("trainer"))
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"test_accuracy\D+(0\.\d+)", done.stdout)
    assert accuracy, done.stdout
    assert 0 < float(accuracy[1]) <= 1


@pytest.mark.slow(seconds=15)
def test_parts_work_with_lightning_cli(tmp_path):
    (tmp_path / "cli.py").write_text(example("cli.py"))
    command = shlex.split(example("cli command").replace("\\\n", " "))
    command[0] = sys.executable
    command += ["--trainer.limit_train_batches", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = next(tmp_path.rglob("config.yaml")).read_text()
    assert "resnest14d" in config


def test_measured_numbers_have_their_command():
    """A table of results without the command that makes it would be a claim."""
    measured = README.split("## Measured")[1].split("\n## ")[0]
    assert "python -m finetune" in measured
