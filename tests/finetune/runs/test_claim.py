"""Two processes, one place: a run's folder is one process's, and a place that cannot be written is said at once."""

import os
import subprocess
import sys

import pytest

from finetune.errors import RunFolderError
from finetune.runs import claim

TAKE = "import sys, pathlib; from finetune.runs import claim; claim.take(pathlib.Path(sys.argv[1])); print('taken')"


def another_process(path):
    return subprocess.run([sys.executable, "-c", TAKE, str(path)], capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def _given_back():
    yield
    for path in list(claim._HELD):
        claim.release(path)


def test_a_second_process_is_refused_until_the_first_one_is_done(tmp_path):
    folder = tmp_path / "runs" / "mine"
    claim.take(folder)
    done = another_process(folder)
    assert done.returncode == 1
    assert f"another run is writing to {folder} (process {os.getpid()} on " in done.stderr
    claim.release(folder)
    assert list(tmp_path.iterdir()) == []
    assert another_process(folder).stdout == "taken\n"
    claim.take(folder)  # what a process that is gone has left holds nobody back


def test_of_two_runs_in_one_second_each_has_a_folder(tmp_path):
    names = [tmp_path / "runs" / name for name in ("a", "a-2", "a-3")]
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert [claim.fresh(names), claim.fresh(names)] == names[1:]
    with pytest.raises(RunFolderError, match="name this one by --output"):
        claim.fresh(names)


def test_what_has_files_stays(tmp_path):
    claim.take(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("x")
    claim.release(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("make", [claim.take, lambda path: claim.fresh([path])], ids=["take", "fresh"])
def test_a_place_that_cannot_be_written_is_said(tmp_path, monkeypatch, make):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(RunFolderError, match=rf"cannot write to {tmp_path}/x/run: Permission denied; give --output"):
        make(tmp_path / "x" / "run")


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match=r"cannot write to .*: (Not a directory|File exists)"):
        claim.take(tmp_path / "file" / "run")
