"""What somebody meets in the first hour: on a terminal, in a notebook, with paths as text."""

import dataclasses
import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest

from finetune import PredictOptions, RunConfig, console
from finetune.cli import ELSEWHERE, main
from finetune.errors import ConfigError
from finetune.runs.result import RunResult
from finetune.settings.help import SHOWN
from tests.examples import ROOT


def on_a_terminal(*words):
    """What `python -m finetune` shows where standard output and error are a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # else no bar has room
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.environ["PYTHONPATH"], "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=300) == 0, shown.decode()
    return shown.decode()


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"resnest-timm {version('resnest-timm')}\n"


def test_paths_may_be_text():
    config = RunConfig(model="resnest50", dataset="x", output="runs/mine", resume="auto")
    assert (config.output, config.resume) == (Path("runs/mine"), Path("auto"))
    assert config.resolved().output == Path("runs/mine")


def test_one_path_instead_of_several_is_refused():
    with pytest.raises(ConfigError, match=r"paths must be a sequence of paths, got the text 'photo.jpg': write \['pho"):
        PredictOptions(model="x", paths="photo.jpg").check()


@pytest.fixture
def no_logging(monkeypatch):
    monkeypatch.setattr(console.log, "handlers", [])
    monkeypatch.setattr(console.log, "propagate", True)
    monkeypatch.setattr(console.log, "level", logging.NOTSET)


def test_a_program_without_logging_is_shown_what_a_run_says(no_logging, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest has put its own there
    console.show_in_notebooks()
    console.log.info("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


def test_a_program_that_has_set_up_logging_keeps_its_own(no_logging, monkeypatch):
    own = logging.NullHandler()
    monkeypatch.setattr(logging.root, "handlers", [own])
    console.show_in_notebooks()
    assert console.log.handlers == []


def test_a_result_is_one_line_and_in_a_notebook_a_table_with_the_figures(digits_run):
    result = RunResult.load(digits_run / "result.json")
    assert repr(result).startswith("RunResult(resnest14d on digits: test accuracy ")
    assert "\n" not in repr(result)
    page = result._repr_html_()
    assert f"<td>{result.metrics['test']['accuracy']:.4f}</td>" in page
    assert page.count("<img ") == len(result.evaluation["figures"]) > 0


def test_predictions_are_a_table_on_a_terminal_and_json_elsewhere(digits_run, cli):
    picture = next((digits_run / "verify/images").iterdir())
    words = ["predict", digits_run, picture, "--accelerator", "cpu", "--workers", 0, "--top-k", 2]
    (record,) = map(json.loads, cli("finetune", *words).stdout.splitlines())
    best = record["top"][0]
    shown = on_a_terminal(*words).splitlines()
    assert any(line.startswith(f"{picture}  {best['label']} {best['probability']:.3f}, ") for line in shown), shown


@pytest.mark.slow(seconds=30)
def test_a_terminal_shows_what_a_pipe_shows_and_counts_epochs_from_one(tmp_path):
    words = "--model resnest14d --dataset digits --no-pretrained --image-size 32 --epochs 2 --max-samples 200"
    shown = on_a_terminal(*words.split(), "--accelerator", "cpu", "--workers", 0, "--output", tmp_path / "run")
    assert f"run folder: {tmp_path / 'run'}" in shown
    assert "on cpu, precision " in shown
    assert ": 2 epochs from random weights, batches of 32, adamw at 0.002" in shown
    assert "epoch 1/2: train loss " in shown
    assert set(re.findall(r"(epoch \d/\d): +\d+%", shown)) == {"epoch 1/2", "epoch 2/2"}
    assert "Epoch 0" not in shown
    assert "v_num" not in shown
    assert f"python -m finetune predict {tmp_path / 'run'} IMAGES" in shown


def test_the_short_help_fits_on_a_screen_and_names_what_most_people_need(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["-h"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 48
    assert max(map(len, lines)) <= 140
    known = {line.split()[0] for line in lines if line.startswith("  --")}
    assert known == {f"--{name.replace('_', '-')}" for name in SHOWN}
    assert "python -m finetune --help" in lines[-1]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["--gpus", "1"], "--devices"),
        (["--learning-rate", "1e-3"], "--lr"),
        (["--learning_rate=1e-3"], "--lr"),
        (["--output_dir", "x"], "--output"),
    ],
)
def test_what_other_tools_call_a_flag_is_translated(words, ours, capsys):
    assert main(["--model", "resnest50", "--dataset", "x", *words]) == 2
    assert capsys.readouterr().err == f"error: unknown flag {words[0]}: here it is {ours}\n"


def test_every_translation_is_to_a_flag_that_there_is():
    flags = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(RunConfig)}
    assert set(ELSEWHERE.values()) <= flags
    assert not set(ELSEWHERE) & flags
