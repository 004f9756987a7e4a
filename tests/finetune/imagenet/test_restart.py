"""`prepare-imagenet` that is killed, stopped or refused, and what the next one makes of it."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from finetune.errors import DatasetError, Interrupted, OutputError
from finetune.imagenet.folder import OutputFolder
from finetune.imagenet.prepare import prepare
from finetune.imagenet.workers import Workers
from tests.finetune.imagenet.originals import DEVKIT, TRAIN, VALIDATION, Originals, long_call, md5sums, tree

SIZE = 0.004  # megabytes: about four images a shard


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored():
    """A suite that a shell runs in the background would hand on that it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Tars of enough images that a run of tiny shards can be stopped in its middle."""
    return Originals(fewest=20).write(tmp_path_factory.mktemp("many") / "tars")


@pytest.fixture(scope="module")
def expected(many, tmp_path_factory):
    """What an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("many") / "out"
    assert run(many, folder).returncode == 0
    return tree(folder)


def command(tars, folder, *more, size=SIZE):
    arguments = ["prepare-imagenet", "--tars", tars, "--output", folder, "--no-verify", "--shard-size", size, *more]
    return [sys.executable, "-m", "finetune", *map(str, arguments)]


def run(tars, folder, *more, size=SIZE):
    return subprocess.run(command(tars, folder, *more, size=size), capture_output=True, text=True, check=False)


@contextmanager
def half_done(tars, folder, processes=2):
    """A run that has written a few shards and is at the next; its workers' numbers too."""
    with subprocess.Popen(
        command(tars, folder, "--processes", processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while len(list((folder / ".unfinished" / "records").glob("*.json"))) < 4:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        yield process, [int(pid) for pid in children.read_text().split()] if children.exists() else []


def wait_for_end(pids):
    """Wait until none of the processes lives; a zombie, which nobody here can reap, does not."""
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive the main process"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def finished(folder):
    """Inode and time of every complete shard."""
    records = (folder / ".unfinished" / "records").glob("*.json")
    paths = [folder / ".unfinished" / "data" / record.stem for record in records]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def check_restart(tars, folder, expected):
    """The same command again writes what is missing, nothing else, and the same bytes."""
    assert not (folder / "data").exists()  # no reader takes it for the whole
    done = finished(folder)
    count = sum(name.startswith("data/") for name in expected)
    assert 4 <= len(done) < count
    again = run(tars, folder)
    assert again.returncode == 0, again.stderr
    assert f"going on: {len(done)} of {count} shards are there already" in again.stdout
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "data").iterdir()}
    assert done.items() <= after.items()
    assert tree(folder) == expected


def test_after_kill_9_the_same_command_makes_the_same_bytes(many, tmp_path, expected):
    folder = tmp_path / "out"
    with half_done(many, folder) as (process, children):
        process.kill()
    assert len(children) >= 2
    wait_for_end(children)
    (folder / ".unfinished" / "data" / "train-00000-of-99999.parquet.1234.part").write_bytes(b"half a shard")
    check_restart(many, folder, expected)


def test_ctrl_c_stops_every_process_at_once_and_leaves_no_half_shard(many, tmp_path, expected):
    folder = tmp_path / "out"
    with half_done(many, folder) as (process, children):
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert err == "stopped; the same command goes on after the last complete shard\n"
    assert "wrote" not in out
    wait_for_end(children)
    assert not list(folder.rglob("*.part"))
    check_restart(many, folder, expected)


def test_a_shard_that_was_cut_or_whose_record_was_is_written_again(many, tmp_path, expected, monkeypatch):
    folder = almost_done(many, tmp_path, monkeypatch)
    data, records = folder / ".unfinished" / "data", folder / ".unfinished" / "records"
    cut, unrecorded, gone = sorted(data.iterdir())[:3]
    cut.write_bytes(cut.read_bytes()[:-1])
    (records / f"{unrecorded.name}.json").write_text('{"name": "tra')
    gone.unlink()
    (folder / "README.md").write_text("of a run that was killed while it put everything into its place")
    again = run(many, folder)
    count = sum(name.startswith("data/") for name in expected)
    assert f"going on: {count - 3} of {count} shards are there already" in again.stdout
    assert tree(folder) == expected


def almost_done(tars, tmp_path, monkeypatch):
    """A folder with all its shards, left at the very last step."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "finish", stop)
        with pytest.raises(Interrupted, match="the same command goes on"):
            prepare(tars, tmp_path / "out", processes=2, shard_size=SIZE, sums=None)
    return tmp_path / "out"


def test_a_shard_of_another_number_of_images_is_found_at_the_end(many, tmp_path, monkeypatch):
    folder = almost_done(many, tmp_path, monkeypatch)
    data, records = folder / ".unfinished" / "data", folder / ".unfinished" / "records"
    last, first = data / "validation-00000-of-00009.parquet", sorted(data.glob("train-*"))[0]
    last = sorted(data.glob("validation-*"))[-1]  # has fewer images than the others
    shutil.copy(first, last)
    record = json.loads((records / f"{last.name}.json").read_text()) | {"bytes": last.stat().st_size}
    (records / f"{last.name}.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=rf"{last.name} holds \d+ images in \d+ bytes, expected \d+ in"):
        prepare(many, folder, processes=1, shard_size=SIZE, sums=None)
    assert not (folder / "data").exists()


@pytest.mark.parametrize("complete", [False, True])
def test_other_tars_or_settings_in_the_same_folder_are_refused(tars, tmp_path, monkeypatch, complete):
    mine = shutil.copytree(tars, tmp_path / "mine")  # with the times of the files
    if complete:
        folder = tmp_path / "out"
        prepare(mine, folder, processes=1, shard_size=0.1, sums=None)
    else:
        monkeypatch.setitem(globals(), "SIZE", 0.1)
        folder = almost_done(mine, tmp_path, monkeypatch)
    before = tree(folder)
    with pytest.raises(OutputError, match=r"was begun with --shard-size 0.1, now 0.2\. Give what it was begun with"):
        prepare(mine, folder, processes=1, shard_size=0.2, sums=None)
    os.utime(mine / VALIDATION, ns=(0, 0))
    with pytest.raises(OutputError, match=f"another {VALIDATION}, which was changed since"):
        prepare(mine, folder, processes=1, shard_size=0.1, sums=None)
    shutil.copy2(tars / VALIDATION, mine / VALIDATION)
    Originals(fewest=4).write(mine)
    size = (tars / TRAIN).stat().st_size
    with pytest.raises(OutputError, match=rf"{TRAIN} of {size} bytes, now {(mine / TRAIN).stat().st_size};"):
        prepare(mine, folder, processes=1, shard_size=0.1, sums=None)
    assert tree(folder) == before


def test_a_complete_folder_is_left_alone(tars, prepared, tmp_path, cli):
    folder = shutil.copytree(prepared[0], tmp_path / "out")
    before = tree(folder)
    done = cli("finetune", "prepare-imagenet", "--tars", tars, "--output", folder, "--no-verify", "--shard-size", 0.02)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder} is complete already, from the same tars\n"
    assert tree(folder) == before


def test_known_checksums_survive_a_copy_of_the_tars(tars, tmp_path, monkeypatch):
    """Verified tars are known by their sums, not by their times; files that were not touched are not read again."""
    sums = {name: md5 for md5, name in (line.split("  ") for line in md5sums(tars).splitlines())}
    mine, folder = shutil.copytree(tars, tmp_path / "mine"), tmp_path / "out"
    prepare(mine, folder, processes=1, sums=sums)
    opened = []
    plain_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *a, **k: opened.append(path.name) or plain_open(path, *a, **k))
        assert prepare(mine, folder, processes=1, sums=sums) is None
        assert not {TRAIN, VALIDATION, DEVKIT} & set(opened)
        os.utime(mine / VALIDATION, ns=(0, 0))
        assert prepare(mine, folder, processes=1, sums=sums) is None
        assert {TRAIN, VALIDATION, DEVKIT} & set(opened) == {VALIDATION}
    changed = bytearray((mine / VALIDATION).read_bytes())
    changed[700] ^= 1
    (mine / VALIDATION).write_bytes(changed)
    with pytest.raises(DatasetError, match=f"{VALIDATION} is not the expected file"):
        prepare(mine, folder, processes=1, sums=sums)


def test_two_at_once_are_refused(tars, tmp_path):
    folder = tmp_path / "out"
    (folder / ".unfinished").mkdir(parents=True)
    with filelock.FileLock(folder / ".unfinished" / "lock"):
        done = run(tars, folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: another process is preparing {folder}: wait for it, or end it\n"
    assert run(tars, folder, size=1).returncode == 0


def test_a_full_disk_is_said_and_the_same_command_goes_on(many, tmp_path, expected):
    folder = tmp_path / "out"
    # The shell's limit on a file's size, in KiB, takes the place of a disk's: only the last, small shards fit.
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command(many, folder)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: cannot write {folder}/.unfinished/data/")
    assert "File too large" in done.stderr
    assert "make room, or mend the disk, and give the same command again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(folder.rglob("*.part"))
    assert run(many, folder).returncode == 0
    assert tree(folder) == expected


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(tars, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(total=10**9, used=10**9 - 1000, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"has 0\.0 GB free, 0\.0 GB are needed: make room"):
        prepare(tars, tmp_path / "out", processes=1, sums=None)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_killed_is_no_riddle():
    with Workers(1) as workers, pytest.raises(DatasetError, match="a worker process was killed, perhaps for lack of"):
        workers.run([functools.partial(os._exit, 3)], "test", "calls", total=1)


def test_a_long_call_is_given_up_when_another_fails():
    began = time.monotonic()
    calls = [functools.partial(long_call, 60), functools.partial(os.stat, "/nowhere/at/all")]
    with pytest.raises(FileNotFoundError, match="No such file"), Workers(2) as workers:
        workers.run(calls, "test", "calls", total=1)
    assert time.monotonic() - began < 30


def test_workers_never_get_ctrl_c_and_the_main_process_does():
    blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    with Workers(1) as workers:
        (mask,) = workers.run([blocked], "test", "calls", total=1)
        assert signal.SIGINT in mask
        assert signal.SIGINT not in blocked()
