"""The folder of a run: its name, its files, and how each process of a run gets to know it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune.console import is_main_process
from finetune.errors import RunFolderError
from finetune.runs import claim, reading
from finetune.settings.config import RunConfig
from finetune.settings.options import GROUPS, RESUME_AUTO, DataOptions, ModelOptions, TrainingOptions

if TYPE_CHECKING:
    from finetune.data.splits import Splits  # with `datasets`; paths and names need none of it

# Where Lightning runs the same command again for each further process, these learn the name, which holds the time,
# from here; under torchrun and srun `finetune.training.launch` tells it.
_ENVIRONMENT = "FINETUNE_RUN_FOLDER"

ELSEWHERE = ("output", "resume", "publish", "private")
"""Flags that say where a run goes, not what it is; config.yaml leaves them out."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder, or inside that of one of several trainings of it.

    Those are `RUN/seeds/S` (`commands.seeds`), and `RUN/curve/PERCENT` (`commands.shares`), which has other images and
    perhaps epochs, and hence settings and splits of its own.

    Attributes:
        path: Where checkpoints and metrics go.
        run: The run, where `path` is that of a seed or share.
        seed: Which one it is.
        share: Percent of the training images.
    """

    path: Path
    run: Path | None = None
    seed: int | None = None
    share: int | None = None

    def of_seed(self, seed: int) -> RunFolder:
        """Where one of the run's seeds is trained."""
        return RunFolder(self.seeds / str(seed), self.path, seed)

    def of_share(self, percent: int) -> RunFolder:
        """Where the training on a part of the training images goes."""
        return RunFolder(self.curve / str(percent), self.path, share=percent)

    @property
    def root(self) -> Path:
        """The run's own, which `--resume` takes."""
        return self.run or self.path

    @property
    def title(self) -> str:
        """What a logger calls it."""
        return f"{self.root.name}-{self.part}" if self.part else self.root.name

    @property
    def part(self) -> str:
        """Which of several trainings it is; empty where there is one."""
        if self.share is not None:
            return f"share{self.share}"
        return "" if self.seed is None else f"seed{self.seed}"

    @property
    def _own(self) -> Path:
        """Where settings and splits are."""
        return self.root if self.share is None else self.path

    @property
    def seeds(self) -> Path:
        """The trainings that are not the exported one's, by seed."""
        return self.root / "seeds"

    @property
    def curve(self) -> Path:
        """The trainings on parts of the training images, by percent."""
        return self.root / "curve"

    @property
    def config(self) -> Path:
        """Resolved flags."""
        return self._own / "config.yaml"

    @property
    def result(self) -> Path:
        """Every number."""
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """What the run was made from: versions, data, weights, flags."""
        return self._own / "lock.json"

    @property
    def completed(self) -> Path:
        """Names and hashes of all files, written last."""
        return self.root / "complete.json"

    @property
    def predictions(self) -> Path:
        """What the model said of validation and test, from which the figures are drawn."""
        return self.root / "predictions.safetensors"

    @property
    def splits(self) -> Path:
        """Which image belongs to which split."""
        return self._own / "splits.json"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def logger(self) -> Path:
        """Ids of the logger runs that this run is recorded in."""
        return self.root / "logger.json"

    @property
    def checkpoints(self) -> Path:
        """Lightning checkpoints."""
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        """The epoch that is evaluated and exported."""
        return self.checkpoints / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The last state that was saved, also within an epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before, while training goes on."""
        return self.checkpoints / "previous.ckpt"

    @property
    def begun(self) -> bool:
        """Whether there is a run in it."""
        return self.config.is_file()

    @property
    def complete(self) -> bool:
        """Whether the run in it has come to its end: all of it is there.

        Runs of earlier versions have neither lock.json nor complete.json, and are where their numbers are whole.
        """
        if self.lock.is_file() or self.completed.is_file():
            if not reading.whole(self.completed, reading.COMPLETE):
                return False
        return reading.whole(self.result, reading.RESULT)

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def verify(self) -> Path:
        """Test images and the live model's logits of them, which the certificate is made from."""
        return self.path / "verify"

    def settings(self) -> dict[str, Any]:
        """What config.yaml says, with the seed's own number.

        Raises:
            RunFolderError: It is missing or damaged.
        """
        settings = reading.settings(self.config)
        return settings if self.seed is None else settings | {"seed": self.seed}

    def create(self, config: RunConfig, splits: Splits) -> None:
        """Make the folder and write what is known before training; in the first process only."""
        if not is_main_process():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(settings_of(config), sort_keys=False))
        write_text(self.splits, json.dumps({role: part.to_json() for role, part in splits.parts.items()}) + "\n")
        self.checkpoints.mkdir(exist_ok=True)

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Processes that Lightning starts meanwhile learn which folder it is; those of a later run do not."""
        os.environ[_ENVIRONMENT] = str(self.root)
        try:
            yield
        finally:
            os.environ.pop(_ENVIRONMENT, None)


def choose(config: RunConfig) -> RunFolder:
    """The folder of a run that is about to start, made where it is missing and claimed for this process.

    Raises:
        RunFolderError: It holds a run already, or other files, cannot be written, or another process writes to it; or
            there is nothing to resume.
    """
    if not is_main_process():
        given = os.environ.get(_ENVIRONMENT) or (config.output if config.resume == RESUME_AUTO else config.resume)
        given = given or config.output
        if given is None:
            raise RunFolderError(
                "name the run folder by --output: this process was started neither by torchrun nor by srun, and cannot "
                "ask the first one"
            )
        return RunFolder(Path(given))
    if config.resume == RESUME_AUTO:
        unfinished = find(config)
        if unfinished:
            return unfinished if unfinished.complete else _claimed(unfinished)
    elif config.resume is not None:
        return _claimed(_resumable(RunFolder(config.resume.absolute())))
    if config.output is None:
        return RunFolder(claim.fresh(_fresh_names(config)))
    path = config.output.expanduser().absolute()
    if (path / "config.yaml").exists():
        raise RunFolderError(f"{path} already holds a run: give another --output, or go on with it by --resume {path}")
    if isinstance(config.dataset, str | os.PathLike) and path == Path(config.dataset).absolute():
        raise RunFolderError(f"--output {config.output} is what --dataset names too: give another --output")
    if path.is_dir() and [one.name for one in path.iterdir()] == [claim.NAME]:
        return _claimed(RunFolder(path))  # of a run that is about to begin, or was killed before it did
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise RunFolderError(f"{path} is not an empty folder: give another --output")
    return _claimed(RunFolder(path))


def _claimed(folder: RunFolder) -> RunFolder:
    claim.take(folder.path)
    return folder


def find(config: RunConfig) -> RunFolder | None:
    """What `--resume auto` goes on with, if there is something.

    Returns:
        The run in `config.output`, complete or not; without `--output` the newest unfinished run under `runs/` whose
        data, model, optimisation and seed are those of `config`, where that names them.
    """
    known = config.output if is_main_process() else os.environ.get(_ENVIRONMENT) or config.output
    if known:
        folder = RunFolder(Path(known).expanduser().absolute())
        return folder if folder.begun else None
    unfinished = [run for path in Path("runs").glob("*") if (run := RunFolder(path.absolute())).begun]
    same = [run for run in unfinished if not run.complete and _same(config, run)]
    return max(same, key=lambda run: run.config.stat().st_mtime, default=None)


def _same(config: RunConfig, run: RunFolder) -> bool:
    try:
        recorded = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    settings = settings_of(config)
    options = [f.name for group in (DataOptions, ModelOptions, TrainingOptions) for f in dataclasses.fields(group)]
    asked = {name: settings[name] for name in (*options, "seed", "seeds", "curve") if settings[name] is not None}
    if not isinstance(recorded, dict):
        return False
    recorded = {"seeds": 1, "curve": False} | recorded  # runs of earlier versions have one training
    return all(recorded.get(name) == value for name, value in asked.items())


def _resumable(folder: RunFolder) -> RunFolder:
    if not folder.begun:
        raise RunFolderError(f"--resume: {folder.path} holds no run (no config.yaml)")
    if folder.complete:
        raise RunFolderError(f"--resume: the run in {folder.path} is complete; see its result.json")
    return folder


def _fresh_names(config: RunConfig) -> Iterator[Path]:
    in_memory = not isinstance(config.dataset, str | os.PathLike)
    # The name of `.`, `..` and `~` is that of the folder they stand for.
    dataset = "memory" if in_memory else os.path.basename(os.path.abspath(os.path.expanduser(config.dataset)))
    model = config.model.rstrip("/").split("/")[-1]
    stem = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("_") for part in (dataset, model))
    base = (Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    yield base
    yield from (base.with_name(f"{base.name}-{n}") for n in range(2, 100))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All flags but those of `ELSEWHERE`, paths absolute, so that the file repeats the run from anywhere."""
    names = [f.name for group in GROUPS.values() for f in dataclasses.fields(group)]
    settings = {name: getattr(config, name) for name in names if name not in ELSEWHERE}
    if not isinstance(config.dataset, str | os.PathLike):
        settings["dataset"] = None
    if settings["dataset"] not in (None, "digits") and Path(settings["dataset"]).expanduser().exists():
        settings["dataset"] = str(Path(settings["dataset"]).expanduser().resolve())
    if config.classes and Path(config.classes).expanduser().is_file():
        settings["classes"] = str(Path(config.classes).expanduser().resolve())
    if config.model.startswith("local-dir:"):
        settings["model"] = f"local-dir:{Path(config.model.removeprefix('local-dir:')).resolve()}"
    return settings


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, which would let nobody but the user read the file; as any other file of the run.

    Args:
        tensors: Contiguous, on the CPU.
        path: Of the file.
        metadata: Its own.
    """
    from safetensors.torch import save_file  # with torch

    save_file(dict(tensors), path, metadata=metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
