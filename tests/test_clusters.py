"""The how-tos for several devices and for streams: their flags exist, their scripts are scripts."""

import shlex
import subprocess

import pytest

from finetune.cli import parse_train
from finetune.networks import model_names
from tests.examples import blocks, example

RESUME = "docs/how-to/resume.md"
EXAMPLES = [block for name in ("devices", "resume", "streaming") for block in blocks(f"docs/how-to/{name}.md")]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.name)
def test_commands_can_be_parsed(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block.code.replace("\\\n", " ").splitlines() if "-m finetune" in line]
    assert lines
    for line in lines:
        if "--resume RUN" not in line:
            model_names.check_name(parse_train(shlex.split(line.split("-m finetune")[1])).model)


def test_the_job_script_requeues_what_was_stopped_and_nothing_else(tmp_path):
    """With stand-ins for srun and scontrol."""
    script = tmp_path / "job.sh"
    script.write_text(example("slurm", RESUME))
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
