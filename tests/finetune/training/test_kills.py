"""What `timeout`, Slurm, Docker and the kernel do to the processes of a run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from finetune.errors import LostPeerError
from finetune.loading.workers import ignore_signals
from finetune.training.callbacks.lost_peer import NotePeers

RUN = "--model test_convnext --dataset digits --no-pretrained --image-size 32 --accelerator cpu --max-samples 200"
RUN += " --epochs 30 --batch-size 16 --save-every 2"


def start(*words):
    command = [sys.executable, "-m", "finetune", *RUN.split(), *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until_saved(process, run):
    last, deadline = run / "checkpoints/last.ckpt", time.monotonic() + 200
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert last.exists(), process.communicate()[1]


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_whole_group_saves_with_workers_too(cli, tmp_path, name):
    run = tmp_path / "run"
    process = start("--workers", 2, "--output", run)
    until_saved(process, run)
    os.killpg(process.pid, getattr(signal, name))
    err = process.communicate(timeout=100)[1]
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == f"stopped by {name}; go on with: python -m finetune --resume {run}"
    assert "Traceback" not in err
    assert "killed" not in err
    if name == "SIGTERM":
        done = cli("finetune", "--resume", run, "--max-time", "2s")
        assert "Traceback" not in done.stderr


@pytest.mark.slow(seconds=25)
def test_a_rank_that_is_killed_is_named_by_the_others(tmp_path):
    run = tmp_path / "run"
    process = start("--workers", 0, "--devices", 2, "--output", run)
    until_saved(process, run)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"finetune" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ranks[0], signal.SIGKILL)
    err = process.communicate(timeout=100)[1]
    assert process.returncode in (2, 75), err
    last = err.splitlines()[-1]
    assert f"python -m finetune --resume {run}" in last
    if process.returncode == 2:
        assert last.startswith("error: process 1 of 2 of this run is gone (counted from 0)")
    assert "Traceback" not in err


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.01)
        return index


def test_workers_outlive_the_signals_of_their_group_and_end_with_their_loader():
    loader = DataLoader(Numbers(), num_workers=2, worker_init_fn=lambda _: ignore_signals())
    batches = iter(loader)
    seen = [next(batches).item()]
    workers = batches._workers
    time.sleep(0.3)  # both have begun
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(worker.pid, number)
    seen += [batch.item() for batch in batches]
    assert seen == list(range(40))
    for worker in workers:
        worker.join(5)
        assert worker.exitcode == 0


def test_a_second_sigterm_ends_a_worker():
    """The loader sends it to one that does not end by itself."""
    code = (
        "import time; from finetune.loading.workers import ignore_signals as f; f(); print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.terminate()
    time.sleep(0.2)
    assert child.poll() is None
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM
    child.stdout.close()


def test_which_process_is_gone_is_said():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = os.uname().nodename
    noted = NotePeers()
    noted.peers = [(host, os.getpid()), (host, gone.pid), ("elsewhere", 1)]
    with (
        pytest.raises(LostPeerError, match=r"process 1 of 3 of this run is gone .*: go on so"),
        noted.watched("go on so"),
    ):
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
    noted.peers = noted.peers[::2]
    with pytest.raises(LostPeerError, match="another process of this run is gone"), noted.watched("go on so"):
        raise RuntimeError("NCCL error")
    for peers, text in ([], "gloo"), (noted.peers, "shapes do not match"):
        noted.peers = peers
        with pytest.raises(RuntimeError, match=text), noted.watched(""):
            raise RuntimeError(text)
