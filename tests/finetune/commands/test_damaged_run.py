"""A run folder that is damaged, or not all there: one line names the file, and what can go on goes on."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from finetune import cli
from finetune.commands import write_up
from finetune.errors import CheckpointError, ResumeError
from finetune.runs import claim, reading
from finetune.runs.runfolder import RunFolder
from finetune.training import resume

ON_CPU = ("--accelerator", "cpu", "--workers", "0")


@pytest.fixture
def run(digits_run, tmp_path):
    """A copy; what a test damages is written anew, and the rest is linked."""
    return shutil.copytree(digits_run, tmp_path / "run", copy_function=os.link)


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "seven.png"
    Image.fromarray(np.arange(64 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    return path


def said(capsys, *argv):
    """Exit code and the last lines of standard error."""
    capsys.readouterr()
    code = cli.main([str(word) for word in argv])
    return code, capsys.readouterr().err


def put(path, content):
    """In the place of a file that may be linked to others."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    put(path, json.dumps(content))


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def test_a_run_ends_with_the_names_and_hashes_of_all_its_files(digits_run):
    files = json.loads((digits_run / "complete.json").read_text())["files"]
    there = {path.relative_to(digits_run).as_posix() for path in digits_run.rglob("*") if path.is_file()}
    assert set(files) == there - {"complete.json"}
    assert {"result.json", "splits.json", "lock.json", "model/README.md", "checkpoints/best.ckpt"} <= set(files)
    assert all(reading.sha256(digits_run / name) == digest for name, digest in files.items())
    assert max(there, key=lambda name: (digits_run / name).stat().st_mtime_ns) == "complete.json"


def test_the_lock_says_what_a_run_was_made_from(digits_run):
    lock = json.loads((digits_run / "lock.json").read_text())
    assert lock["packages"]["torch"] == torch.__version__.partition("+")[0] or lock["packages"]["torch"]
    assert sorted(lock["data"]) == ["test split", "train split", "validation split"]
    assert lock["weights"]["model_sha256"] == reading.sha256(digits_run / "model/model.safetensors")
    assert len(lock["weights"]["begin_sha256"]) == 64
    assert lock["settings"]["model"] == "resnest14d"


# --- damage that is named --------------------------------------------------------------------------------------------

CUT, EMPTY, RANDOM = (lambda text: text[: len(text) // 2]), (lambda text: b""), (lambda text: os.urandom(300))
WEIGHTS = {
    "cut": (CUT, "expected safetensors"),
    "emptied": (EMPTY, "expected safetensors, got an empty file"),
    "random": (lambda text: b"\xff" * 8 + os.urandom(300), "expected safetensors, got a file of another kind"),
    "a pickle": (lambda text: pickle.dumps({"a": print}), "got a pickle or an archive of PyTorch, which can hold code"),
    "one bit": (lambda text: flipped(text, -100), "is not the file that the run has written: its SHA-256 begins with"),
}
CONFIG = {
    "cut": (CUT, "is damaged: expected JSON"),
    "emptied": (EMPTY, "expected JSON, got an empty file"),
    "no text": (lambda text: b"\xff\xfe\x00" * 9, "27 bytes that are no text"),
    "nothing in it": (lambda text: b"{}", "it has no 'architecture'"),
    "a list": (lambda text: b"[]", "it must be an object, got a list"),
    "another type": (lambda text: b'{"architecture": 3}', "'architecture' must be text, got a whole number"),
    "11 names": (
        lambda text: json.dumps(json.loads(text) | {"label_names": list("abcdefghijk")}).encode(),
        "it has 11 label_names for 10 outputs",
    ),
}


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [("model/model.safetensors", *case) for case in WEIGHTS.values()]
    + [("model/config.json", *case) for case in CONFIG.values()],
    ids=[*(f"weights {name}" for name in WEIGHTS), *(f"config {name}" for name in CONFIG)],
)
def test_a_damaged_model_is_named(run, picture, capsys, verb, name, damage, reason):
    put(run / name, damage((run / name).read_bytes()))
    code, err = said(capsys, verb, run, *([picture] if verb == "predict" else []), *ON_CPU)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{run / name}" in err
    assert reason in err


def test_arguments_that_the_architecture_does_not_have_are_named(run, picture, capsys):
    edited(run / "model/config.json", lambda config: config["model_args"].update(wings=2))
    (run / "complete.json").unlink()  # nobody knows the hash
    code, err = said(capsys, "predict", run, picture, *ON_CPU)
    assert code == 2
    assert f"cannot build local-dir:{run / 'model'}" in err
    assert "wings" in err


def without(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


RUN_FILES = {
    "result cut": ("result.json", CUT, "expected JSON"),
    "result emptied": ("result.json", EMPTY, "got an empty file"),
    "result random": ("result.json", RANDOM, "is damaged"),
    "result without metrics": ("result.json", without("metrics"), "it has no 'metrics'"),
    "result without classes": ("result.json", without("dataset", "classes"), "'dataset' has no 'classes'"),
    "result with text for counts": (
        "result.json",
        lambda c: c["dataset"]["splits"].update(test="40"),
        "'dataset.splits.test' must be a whole number, got text",
    ),
    "splits cut": ("splits.json", CUT, "expected JSON"),
    "splits emptied": ("splits.json", EMPTY, "got an empty file"),
    "splits without test": ("splits.json", without("test"), "it has no 'test'"),
    "rows of -1": ("splits.json", lambda c: c["test"]["rows"].__setitem__(0, -1), "'test.rows' has the row -1"),
    "rows twice": (
        "splits.json",
        lambda c: c["test"]["rows"].__setitem__(0, c["test"]["rows"][1]),
        "'test.rows' names a row twice",
    ),
    "rows of text": ("splits.json", lambda c: c["test"].update(rows=["1"]), "must be 'all' or a list of row numbers"),
    "other rows": (
        "splits.json",
        lambda c: c["test"]["rows"].__setitem__(0, c["train"]["rows"][0]),
        "is not the file that the run has written",
    ),
    "config emptied": ("config.yaml", EMPTY, "it must be an object, got null"),
    "config cut": ("config.yaml", lambda text: b"dataset: [", "expected YAML"),
    "config without dataset": ("config.yaml", lambda text: b"model: x", "it has no 'dataset'"),
    "config of numbers": ("config.yaml", lambda text: b"dataset: 3", "'dataset' must be text or null, got a whole"),
}


@pytest.mark.parametrize(("name", "damage", "reason"), RUN_FILES.values(), ids=RUN_FILES)
def test_a_damaged_file_of_the_run_is_named(run, capsys, name, damage, reason):
    try:
        put(run / name, damage((run / name).read_bytes()))
    except (TypeError, AttributeError):
        edited(run / name, damage)
    code, err = said(capsys, "evaluate", run, *ON_CPU)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{run / name} is" in err
    assert reason in err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xff"])
def test_a_run_with_a_damaged_result_predicts_nothing(run, picture, capsys, content):
    """Which task it was is not known any more."""
    put(run / "result.json", content)
    code, err = said(capsys, "predict", run, picture, *ON_CPU)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{run / 'result.json'} is damaged" in err


# --- what goes on ----------------------------------------------------------------------------------------------------


def test_what_is_missing_after_the_numbers_is_made_again(digits_run, run, capsys):
    for name in ("complete.json", "model/README.md", "model/figures/curves.png", "verify/inputs.safetensors"):
        (run / name).unlink()
    before = {name: (run / name).stat().st_mtime_ns for name in ("model/model.safetensors", "checkpoints/last.ckpt")}
    code, err = said(capsys, "--resume", run)
    assert code == 0, err
    assert RunFolder(run).complete
    assert not (run / claim.NAME).exists()
    assert before == {name: (run / name).stat().st_mtime_ns for name in before}  # nothing was trained or exported
    files, again = (json.loads((of / "complete.json").read_text())["files"] for of in (digits_run, run))
    assert set(again) == set(files)
    # A network in another layout of memory rounds differently.
    assert {name for name in files if files[name] != again[name]} <= {"verify/inputs.safetensors"}
    logits = [load_file(of / "verify/inputs.safetensors")["logits"] for of in (digits_run, run)]
    assert torch.allclose(*logits, atol=1e-4)
    code, err = said(capsys, "--resume", run)
    assert (code, "is complete" in err) == (2, True)


@pytest.mark.parametrize("name", ["result.json", "model/model.safetensors"])
def test_a_run_whose_last_files_are_damaged_is_evaluated_again(digits_run, run, capsys, name):
    if name != "result.json":
        (run / "complete.json").unlink()
    put(run / name, (run / name).read_bytes()[:100])
    code, err = said(capsys, "--resume", run)
    assert code == 0, err
    for file in ("model/model.safetensors", "splits.json", "predictions.safetensors"):
        assert (run / file).read_bytes() == (digits_run / file).read_bytes(), file
    results = [json.loads((of / "result.json").read_text()) for of in (digits_run, run)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert RunFolder(run).complete


def test_a_run_of_an_earlier_version_is_complete_where_its_numbers_are_whole(run):
    folder = RunFolder(run)
    for name in ("complete.json", "lock.json", "predictions.safetensors"):
        (run / name).unlink()
    assert folder.complete
    put(folder.result, folder.result.read_text()[:200])
    assert not folder.complete


def test_other_settings_are_not_finished_in_silence(run, capsys):
    (run / "complete.json").unlink()
    code, err = said(capsys, "--resume", run, "--lr", "0.5")
    assert code == 2
    assert "was begun with --lr" in err


def test_other_images_are_not_finished_in_silence(run, capsys):
    (run / "complete.json").unlink()
    edited(run / "lock.json", lambda lock: lock["data"].update({"test split": "40 images, 0123"}))
    code, err = said(capsys, "--resume", run)
    assert code == 2
    assert "the dataset has changed since the run" in err
    assert "in its test split" in err


@pytest.mark.slow(seconds=10)
def test_a_full_disk_at_the_end_is_an_error_that_resumes(run, capsys, monkeypatch):
    (run / "complete.json").unlink()
    write = Path.write_text

    def full(path, *args, **kwargs):
        if path.name.startswith("README.md"):
            raise OSError(28, "No space left on device", str(path))
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    code, err = said(capsys, "--resume", run)
    assert (code, err.count("\n")) == (2, 1), err
    assert "No space left on device" in err
    assert f"go on with: python -m finetune --resume {run}" in err
    monkeypatch.undo()
    assert said(capsys, "--resume", run)[0] == 0


# --- checkpoints -----------------------------------------------------------------------------------------------------


def foreign(path):
    path.unlink(missing_ok=True)
    torch.save({"weights": torch.ones(3)}, path)


def harmful(path):
    path.unlink(missing_ok=True)
    torch.save({"state_dict": Path("x")}, path)


def folder_there(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (foreign, r"last.ckpt is no checkpoint of a run \(it has no 'global_step'"),
        (harmful, "last.ckpt is no checkpoint: PyTorch cannot read it without running code"),
        (folder_there, "last.ckpt is no file"),
        (lambda path: put(path, b""), "last.ckpt is damaged"),
        (lambda path: put(path, os.urandom(500)), "last.ckpt is damaged"),
        (lambda path: put(path, path.read_bytes()[:-5000]), "last.ckpt is damaged"),
    ],
    ids=["foreign", "harmful", "a folder", "empty", "random", "cut"],
)
def test_a_last_checkpoint_that_is_none_is_named(run, damage, reason):
    damage(run / "checkpoints/last.ckpt")
    with pytest.raises(CheckpointError, match=reason):
        resume.checkpoint(RunFolder(run), {})


@pytest.mark.slow(seconds=10)
def test_the_best_checkpoint_is_taken_from_the_last_one_where_they_are_the_same(digits_run, run, capsys):
    """The training is at its end: no later epoch would write another one."""
    (run / "complete.json").unlink()
    (run / "result.json").unlink()
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Checkpoints"]
    put(run / "checkpoints/best.ckpt", b"damaged")
    code, err = said(capsys, "--resume", run)
    if last["is_best"]:
        assert code == 0, err
        weights = [(of / "model/model.safetensors").read_bytes() for of in (digits_run, run)]
        assert weights[0] == weights[1]
    else:
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{run / 'checkpoints/best.ckpt'} is missing or damaged" in err


def test_settings_that_changed_are_named_before_a_damaged_best_is(run):
    with pytest.raises(ResumeError, match="--lr"):
        resume.checkpoint(RunFolder(run), {"--lr": 7.0})


@pytest.mark.parametrize("content", [os.urandom(300), b"a,b\n1,2\n", b"epoch,lr\nx,1\n", b"epoch,lr\n1\n"])
def test_a_damaged_table_of_epochs_is_named(tmp_path, content):
    from finetune.errors import RunFolderError
    from finetune.training.callbacks.epoch_log import read_rows

    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"metrics.csv is damaged: expected a table with a column 'epoch'"):
        read_rows(tmp_path / "metrics.csv")
    assert read_rows(tmp_path / "none.csv") == []


def test_unfinished_asks_for_all_that_is_needed(run):
    from finetune.cli import parse_train

    config = parse_train(["--resume", str(run)])
    assert not write_up.unfinished(config, RunFolder(run))  # complete
    (run / "complete.json").unlink()
    assert write_up.unfinished(config, RunFolder(run))
    (run / "predictions.safetensors").unlink()
    assert not write_up.unfinished(config, RunFolder(run))
