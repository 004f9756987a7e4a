"""Processes that torchrun or srun starts: on one machine that plays several."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from finetune.cli import main
from finetune.errors import ConfigError, PeerError, RunFolderError
from finetune.runs.runfolder import RunFolder
from finetune.training import hardware, launch
from finetune.training import peers as peers_module
from finetune.training.peers import Placement
from tests.examples import example
from tests.finetune.ranks import free_port, ranks, torchrun

RUN = "--model resnest14d --dataset digits --no-pretrained --image-size 32 --max-samples 100".split()
RUN += "--workers 0 --epochs 1 --batch-size 16".split()


def srun(rank, world, port):
    """What srun sets in a job of `world` machines with one task each; all of them are this one."""
    numbers = {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0, "SLURM_NTASKS": world}
    numbers |= {"SLURM_NTASKS_PER_NODE": 1, "SLURM_NNODES": world, "SLURM_JOB_ID": 7000, "MASTER_PORT": port}
    names = {"SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NODELIST": "127.0.0.1"}
    return {name: str(value) for name, value in (numbers | names).items()}


def two_machines(rank, world, port):
    """torchrun with two processes on each machine."""
    local = {"LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": str(rank // 2)}
    return torchrun(rank, world, port) | local


def test_alone(monkeypatch):
    peers = launch.connect()
    assert launch.placement() is None
    assert (peers.in_turn(lambda: 1), peers.from_first(lambda: 2), peers.exchange(3)) == (1, 2, [3])
    with pytest.raises(KeyError, match="mine"):
        peers.in_turn(lambda: {}["mine"])


def entering(diary):
    """Each process says when it begins and when it ends."""
    peers = launch.connect()

    def work():
        for event in ("begin", "end"):
            with diary.open("a") as file:
                file.write(f"{peers.here.rank} {event}\n")
            time.sleep(0.1)
        return peers.here

    here = peers.in_turn(work)
    return here, peers.from_first(lambda: f"of {peers.here.rank}"), os.environ["LOCAL_WORLD_SIZE"]


def test_the_first_process_then_one_of_each_machine_then_the_rest(tmp_path):
    diary = tmp_path / "diary"
    found = ranks(4, entering, diary, folder=tmp_path, environment=two_machines)
    assert [here for here, _, _ in found] == [Placement(rank, rank % 2, 2, 2) for rank in range(4)]
    assert {(value, local) for _, value, local in found} == {("of 0", "2")}
    lines = diary.read_text().splitlines()
    assert lines[:4] == ["0 begin", "0 end", "2 begin", "2 end"]
    assert sorted(lines[4:6]) == ["1 begin", "3 begin"]  # nobody holds these two up


def failing():
    peers = launch.connect()

    def work():
        if peers.here.rank == 0:
            raise ConfigError("no such thing")
        raise AssertionError("not reached")

    try:
        peers.in_turn(work)
    except (ConfigError, PeerError) as error:
        return repr(error)


def test_a_failure_of_the_first_ends_all_and_nobody_waits(tmp_path):
    said = ranks(2, failing, folder=tmp_path)
    assert said == ["ConfigError('no such thing')", "PeerError('process 0 has failed, see its message')"]


def agreeing(folder, what):
    peers_module.PATIENCE = 0.3
    peers = launch.connect()
    rank = peers.here.rank
    run = RunFolder(folder / ("elsewhere" if rank and what == "folder" else "run"))
    start = run.last_checkpoint if what == "checkpoint" and not rank else None
    try:
        peers.agree(run, {"--lr": 0.1 + rank * (what == "--lr")}, start)
    except (ConfigError, RunFolderError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", None),
        ("folder", "process 1 does not see what is in .*: the run folder must lie on a file system that all machines"),
        ("checkpoint", "process 1 does not see what is in .*share; name one by --output"),
        ("--lr", "process 1 differs from the first in --lr: start all with the same command"),
    ],
)
def test_processes_that_do_not_see_the_same_are_refused(tmp_path, what, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    said = ranks(2, agreeing, tmp_path, what, folder=tmp_path / "ranks")
    assert said == [None, None] if message is None else all(re.match(message, text) for text in said), said


def training_on_other_hardware(folder):
    hardware.has_fast_bf16 = lambda device: os.environ["RANK"] == "0"
    output = io.StringIO()
    with contextlib.redirect_stderr(output):
        code = main([*RUN, "--accelerator", "cpu", "--output", str(folder / "run")])
    return code, output.getvalue()


def test_machines_that_would_train_in_unlike_precision_are_refused(tmp_path):
    said = ranks(2, training_on_other_hardware, tmp_path, folder=tmp_path / "ranks")
    for code, text in said:
        assert code == 2
        assert "process 1 differs from the first in what --precision auto takes (name one): start all with" in text


def threads(path):
    launch.connect()
    return torch.get_num_threads()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, max(1, launch.cores() // 2)), ({"SLURM_CPUS_PER_TASK": "3"}, 3), ({"OMP_NUM_THREADS": "5"}, 1)],
)
def test_threads_are_shared_among_the_processes_of_a_machine(monkeypatch, tmp_path, variables, expected):
    """`ranks` begins with one thread."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks(2, threads, tmp_path, folder=tmp_path) == [expected] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--num-nodes", "2"],
            "--num-nodes 2: nothing has started processes on the other machines; start this command on",
        ),
        (
            ["--strategy", "deepspeed"],
            "--strategy deepspeed: of those that split a model over devices only fsdp is known here; take that, or",
        ),
        (["--strategy", "dpp"], "--strategy: unknown 'dpp'; did you mean ddp"),
    ],
)
def test_what_would_wait_for_ever_or_was_never_tried_is_refused(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--accelerator", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unequal_machines_are_refused(monkeypatch):
    for name, value in {**torchrun(0, 3, 1), "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="3 processes on machines of 2: start equally many on each machine"):
        launch.placement()


def training(folder):
    """`srun python -m finetune ...` twice, in the processes that srun started: stopped by SIGUSR1, and repeated."""
    os.chdir(folder)
    arguments = [*RUN, "--accelerator", "cpu", "--epochs", "2", "--save-every", "1", "--resume", "auto"]
    last = "runs/*/checkpoints/last.ckpt"
    if os.environ["SLURM_PROCID"] == "1":  # any process may get the signal

        def send():
            while not list(Path().glob(last)):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGUSR1)

        threading.Thread(target=send, daemon=True).start()
    codes = [main(arguments)]
    if codes != [75]:  # it has said why on standard error
        return codes
    torch.distributed.destroy_process_group()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]  # another job
    return [*codes, main(arguments)]


@pytest.mark.slow(seconds=40)
def test_slurm_trains_one_model_saves_on_its_signal_and_goes_on(tmp_path):
    """Nobody names the run folder, and nobody says how many nodes there are: srun has said it."""
    second = str(free_port())
    codes = ranks(
        2, training, tmp_path, folder=tmp_path / "ranks", environment=lambda *a: srun(*a) | {"SECOND_PORT": second}
    )
    assert codes == [[75, 0], [75, 0]]
    assert_one_run(tmp_path, epochs=2)
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own handler has not run


def assert_one_run(folder, epochs):
    runs = list((folder / "runs").iterdir())
    assert len(runs) == 1
    result = json.loads((runs[0] / "result.json").read_text())
    assert result["training"]["devices"] == 2
    assert result["training"]["epochs"] == epochs
    assert len((runs[0] / "metrics.csv").read_text().splitlines()) == 1 + epochs
    assert sum(result["dataset"]["splits"].values()) == 100
    assert (runs[0] / "model/model.safetensors").is_file()


@pytest.mark.slow(seconds=40)
def test_torchrun_on_two_machines_trains_one_model(tmp_path):
    """The command of docs/how-to/resume.md, with both machines here; nobody names the run folder."""
    commands = [line for line in example("torchrun", "docs/how-to/resume.md").splitlines() if line]
    assert len(commands) == 2
    port = str(free_port())
    processes = []
    for line in commands:
        words = shlex.split(
            line.replace("HOST:29500", f"127.0.0.1:{port}").replace("--nproc-per-node 8", "--nproc-per-node 1")
        )
        at = words.index("finetune") + 1
        assert words[:1] == ["torchrun"]
        assert words[at:] == ["--model", "resnest50", "--dataset", "food101"]
        command = [sys.executable, "-m", "torch.distributed.run", *words[1:at], *RUN, "--accelerator", "cpu"]
        processes.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_one_run(tmp_path, epochs=1)
    assert sum(output.count("task: image-classification") for output in outputs) == 1
