""".ci/run, with stand-ins for make and chromium: its stages, what it says of their seconds, and when it fails."""

import os
import re
import shutil
import subprocess

import pytest

from tests.examples import ROOT

STAGES = [".venv/.test", "check", "test", "test-slow"]


@pytest.fixture
def ci(tmp_path):
    """Runs the script in a copy of the project that has a Makefile alone; `make` notes its target and does `does`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("check:\n\ttrue\n")
    (tmp_path / "bin").mkdir()

    def call(does=":", limit=4800):
        for name, code in (("make", f'echo "$1" >> targets\n{does}'), ("chromium", "exit 1")):
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\n{code}\n")
            path.chmod(0o755)
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CI_LIMIT_SECONDS": str(limit)}
        command = [tmp_path / ".ci" / "run"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        return done, (tmp_path / "targets").read_text().split()

    return call


def test_every_stage_is_run_and_its_seconds_are_said(ci):
    done, targets = ci()
    assert (done.returncode, done.stderr) == (0, "")
    assert targets == STAGES
    for name in ("install", "check", "test", "test-slow"):
        assert re.search(rf"^CI: {name} took \d+ s \(budget \d+ s\)$", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"in all +\d+ s of  4800", done.stdout.splitlines()[-1])


def test_the_documentation_is_built_where_there_is_a_target_for_it(ci, tmp_path):
    (tmp_path / "docs").mkdir()  # a folder of that name is no target
    assert ci()[1] == STAGES
    (tmp_path / "targets").unlink()
    (tmp_path / "Makefile").write_text("docs: .venv/.test  ## build it\n\ttrue\n")
    assert ci()[1] == [*STAGES, "docs"]


def test_a_stage_that_fails_ends_the_run_and_is_named(ci):
    done, targets = ci('[ "$1" != test ] || exit 2')
    assert done.returncode == 2
    assert targets == STAGES[:3]
    assert "CI: test failed (exit code 2)" in done.stderr
    assert "CI: seconds by stage" in done.stdout


def test_a_run_that_takes_too_long_is_interrupted_and_fails(ci):
    done, targets = ci('[ "$1" != check ] || exec sleep 30', limit=2)
    assert done.returncode == 1
    assert targets == STAGES[:2]
    assert "above the 2 s that are allowed: failed in check" in done.stderr


def test_the_targets_and_budgets_are_those_of_the_makefile_and_of_ninety_minutes():
    script = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    stages = re.findall(r"\bstage [\w-]+ (\d+) make ([^\s;]+)", script)
    assert [target for _, target in stages] == [*STAGES, "docs"]
    for target in STAGES:
        assert f"\n{target}:" in makefile
    assert sum(int(minutes) for minutes, _ in stages) * 60 <= 4800
