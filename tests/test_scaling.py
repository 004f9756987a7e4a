"""docs/scaling.md: its flags exist, its scripts are scripts."""

import re
import shlex
import subprocess

import pytest

from finetune.cli import parse_train
from finetune.networks import model_names
from tests.examples import ROOT, example

DOCUMENT = "docs/scaling.md"
TEXT = (ROOT / DOCUMENT).read_text(encoding="utf-8")
NAMES = re.findall(r"<!-- example: (.+) -->", TEXT)


def commands(name):
    """The arguments after `-m finetune` in each command of an example."""
    lines = example(name, DOCUMENT).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split("-m finetune")[1]) for line in lines if "-m finetune" in line]


def test_every_block_is_an_example():
    assert TEXT.count("```") == 2 * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_commands_can_be_parsed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = commands(name)
    assert found
    for arguments in found:
        model_names.check_name(parse_train(arguments).model)


def test_the_job_script_requeues_what_was_stopped_and_nothing_else(tmp_path):
    """With stand-ins for srun and scontrol."""
    script = tmp_path / "job.sh"
    script.write_text(example("slurm", DOCUMENT))
    for name, code in (("srun", 'exit "$CODE"'), ("scontrol", f'echo "$@" >> {tmp_path}/requeued')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    for code in (0, 2, 75):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(code), "SLURM_JOB_ID": "7"}
        environment["SLURM_CPUS_PER_TASK"] = "8"
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")
        assert (tmp_path / "requeued").exists() == (code == 75)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
