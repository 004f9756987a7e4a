"""`python tests/old_runs.py [COMMIT]`: run folders that COMMIT makes are resumed, evaluated and predict as there.

COMMIT's code, in a temporary worktree, makes three runs of `digits`: an ordinary one, one with `--freeze backbone` from
its weights, and one that SIGTERM stops. Then the present code goes on with them. Both are used by their command lines
alone. It takes three minutes of processor time.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "c11dcff6a2419101905f499bcac31faf2f702150"  # the last one before the modules were moved into packages
CPU = ["--accelerator", "cpu", "--devices", "1", "--workers", "0"]
DATA = [*"--dataset digits --max-samples 200 --image-size 32 --precision 32".split(), *CPU]
ORDINARY = [*"--model resnest14d --no-pretrained --epochs 2 --batch-size 16".split(), *DATA]
INTERRUPTED = [*ORDINARY, *"--ema 0.9 --mixup 0.2 --drop-path 0.1 --save-every 4".split()]
SAVES = 4  # at steps 4, 8, 10 (the end of the first epoch) and 12, of 20
TEMPORARY_FAILURE = 75  # what a run that was stopped exits with


class Problem(Exception):
    """A command, or what it said, is not what it should be."""


class Code:
    """The command line of one version of the package, called in the folder that holds the runs."""

    def __init__(self, root, folder):
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "FINETUNE_VERIFY": "0"}
        self.environment["OMP_NUM_THREADS"] = "1"  # sums in one order, however many cores are free
        used = self._python("-c", "import finetune; print(finetune.__file__)").stdout.strip()
        if not Path(used).is_relative_to(root):
            raise Problem(f"{used} would be used, not what is in {root}")

    def _python(self, *arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )

    def __call__(self, *arguments):
        """What `python -m finetune ...` prints."""
        done = self._python("-m", "finetune", *arguments)
        if done.returncode != 0:
            raise Problem(f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def stopped(self, run, *arguments):
        """Begin a run, and stop it by SIGTERM when it has saved a few times."""
        command = [sys.executable, "-m", "finetune", *arguments, "--output", run]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        last, seen, deadline = self.folder / run / "checkpoints/last.ckpt", set(), time.monotonic() + 300
        while len(seen) < SAVES and process.poll() is None and time.monotonic() < deadline:
            if last.exists():
                seen.add(last.stat().st_mtime_ns)
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        try:
            errors = process.communicate(timeout=300)[1]
        finally:
            process.kill()  # where it has not ended by itself
        if process.returncode != TEMPORARY_FAILURE:
            raise Problem(f"exit code {process.returncode}, not {TEMPORARY_FAILURE}: {errors.strip()[-1000:]}")

    def scores(self, run):
        """What `evaluate` says of the test images."""
        said = json.loads(self("evaluate", run, *CPU, "--json"))
        return {name: value for name, value in said.items() if name != "run"}

    def predictions(self, run):
        """What `predict` says of each test image."""
        lines = self("predict", run, "--split", "test", "--top-k", 10, "--accelerator", "cpu", "--workers", 0)
        return [json.loads(line) for line in lines.splitlines()]


@contextmanager
def checked_out(commit, folder):
    """The files of a commit, in a worktree that is removed in the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    if subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=False).returncode:
        sys.exit(f"{commit} cannot be checked out: this needs a clone with its whole history")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def same(found, expected, tolerance=1e-5):
    """Equal but for rounding, at any depth."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[name], expected[name], tolerance) for name in expected)
        )
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=False) if isinstance(found, list) else ()
        return isinstance(found, list) and len(found) == len(expected) and all(same(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, float):
        return isinstance(found, int | float) and math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)
    return found == expected


def compare(found, expected):
    if not same(found, expected):
        raise Problem(f"found {json.dumps(found)[:500]}, expected {json.dumps(expected)[:500]}")


def without_order(predictions):
    """Classes by name: rounding may turn round those that are equally probable."""
    return [
        {name: value for name, value in record.items() if name != "top"}
        | {"top": {entry["label"]: entry["probability"] for entry in record["top"]}}
        for record in predictions
    ]


def results(folder, run):
    return json.loads((folder / run / "result.json").read_text(encoding="utf-8"))


def make(old):
    """The runs; of the interrupted one also a copy that the same code goes on with."""
    old(*ORDINARY, "--output", "ordinary")
    weights = f"local-dir:{old.folder / 'ordinary/model'}"
    old("--model", weights, "--freeze", "backbone", *DATA, "--output", "frozen")
    old.stopped("interrupted", *INTERRUPTED)
    shutil.copytree(old.folder / "interrupted", old.folder / "reference")
    old("--resume", "reference")


def resume(old, new):
    """The same epochs and scores as the old code came to, and the first part's row as it was."""
    metrics = [old.folder / run / "metrics.csv" for run in ("interrupted", "reference")]
    before = metrics[0].read_text(encoding="utf-8")
    said = new("--resume", "interrupted")
    if "epoch 1/2" in said or not metrics[0].read_text(encoding="utf-8").startswith(before):
        raise Problem("it has begun anew")
    found, expected = (results(old.folder, run) for run in ("interrupted", "reference"))
    compare(found["metrics"], expected["metrics"])
    for name in ("epochs", "planned_epochs", "best_epoch"):
        compare(found["training"][name], expected["training"][name])


def steps(old, new):
    """What is checked: a name, and a function that raises where it fails."""
    yield "resume interrupted", lambda: resume(old, new)
    for run, reference in (("ordinary",) * 2, ("frozen",) * 2, ("interrupted", "reference")):
        yield f"evaluate {run}", lambda r=run, e=reference: compare(new.scores(r), old.scores(e))
        yield (
            f"predict {run}",
            lambda r=run, e=reference: compare(*(without_order(c.predictions(n)) for c, n in ((new, r), (old, e)))),
        )


def reported(name, step):
    """Whether a step succeeds; one line says so."""
    begun = time.monotonic()
    try:
        step()
    except (Problem, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
        print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"ok      {name} ({time.monotonic() - begun:.0f} s)", flush=True)
    return True


def main(commit):
    with tempfile.TemporaryDirectory(prefix="old-runs-") as temporary:
        folder = Path(temporary).resolve()
        runs = folder / "runs"
        runs.mkdir()
        with checked_out(commit, folder / "code") as code:
            old, new = Code(code, runs), Code(ROOT, runs)
            if not reported(f"make three runs by {commit[:7]}", lambda: make(old)):
                return 1
            return 0 if all([reported(name, step) for name, step in steps(old, new)]) else 1


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python tests/old_runs.py [COMMIT]")
    sys.exit(main(*(sys.argv[1:] or [COMMIT])))
