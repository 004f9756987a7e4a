"""What a stopped run goes on from, and whether it is still the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.console import log
from finetune.data.dataset import TARGETS, LabelledImages
from finetune.errors import CheckpointError, ResumeError, listing
from finetune.runs.runfolder import RunFolder
from finetune.settings.config import RunConfig
from finetune.settings.options import ModelOptions, TrainingOptions, flag
from finetune.training import checkpoint_io
from finetune.training.callbacks.checkpoints import Checkpoints

_NEEDED = {
    "global_step": int,
    "state_dict": dict,
    "optimizer_states": list,
    "loops": dict,
    "callbacks": {Checkpoints.__qualname__: {"identity": dict}},
}
"""What a checkpoint has, at the least, that a run can go on from."""


def identity(config: RunConfig, data: LabelledImages, model: nn.Module) -> dict[str, Any]:
    """What must not change when a run goes on: JSON values by a name that a message can use.

    Model, optimisation and seed by their flags; the data by what it holds (classes, which images are in which split,
    their labels, and the bytes of some), so that it may have moved. Hardware, precision, workers and the interval of
    checkpoints may change.
    """
    options = [f.name for group in (ModelOptions, TrainingOptions) for f in dataclasses.fields(group)]
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    parts = data.fingerprints()
    return {
        **{flag(name): getattr(config, name) for name in (*options, "seed")},
        "classes": list(data.schema.classes),
        **parts,
        "shapes of the model's weights": _hash(json.dumps(shapes).encode()),
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def weights(model: nn.Module) -> str:
    """SHA-256 of all weights and statistics of a model, by name."""
    content = hashlib.sha256()
    for name, value in model.state_dict().items():
        content.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def checkpoint(folder: RunFolder, current: Mapping[str, Any]) -> Path | None:
    """The newest whole checkpoint of a run, or None where there is nothing to go on from yet.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged.
        ResumeError: The run was begun with something else than `current`, see `identity`.
    """
    candidates = [folder.last_checkpoint, folder.previous_checkpoint]
    if not any(path.exists() for path in candidates):
        return None
    found = {path: checkpoint_io.damage(path) or checkpoint_io.foreign(path, _NEEDED) for path in candidates}
    whole = next((path for path, problem in found.items() if problem is None), None)
    problems = [f"{path.name} is {problem}" for path, problem in found.items() if problem]
    if whole is None:
        raise CheckpointError(
            f"no checkpoint in {folder.checkpoints} can be read: {'; '.join(problems)}; start again with another "
            "--output"
        )
    if whole != candidates[0]:
        log.warning(f"{problems[0]}: going on from {whole.name}, the one before")
    recorded = checkpoint_io.load(whole, mmap=True)["callbacks"][Checkpoints.__qualname__]["identity"]
    changed = list(_differences(recorded, current))
    if changed:
        raise ResumeError(
            f"--resume: the run in {folder.path} was begun with {'; '.join(changed)}: give what it was begun with, or "
            "start another run with --output"
        )
    return whole


def _differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    for name in current:
        if name in recorded and _placed(recorded[name]) != _placed(current[name]):
            if name == "classes":
                yield from _classes(recorded[name], current[name])
            elif name.startswith("shapes"):
                yield f"other {name}"
            elif name.endswith("split") and recorded[name].split(",")[0] == current[name].split(",")[0]:
                yield f"other images or labels in its {name.removeprefix(TARGETS)}"
            else:
                before, now = (str(values[name]) for values in (recorded, current))
                if name.endswith("split"):  # without the sum
                    before, now = before.split(",")[0], now.split(",")[0]
                yield f"{name} {before}, not {now}"


def _placed(value: Any) -> Any:
    """A model's folder by its place: config.yaml has it absolute, the command line perhaps not."""
    if isinstance(value, str) and value.startswith("local-dir:"):
        return f"local-dir:{Path(value.removeprefix('local-dir:')).expanduser().resolve()}"
    return value


def _classes(recorded: list[str], current: list[str]) -> Iterator[str]:
    gone = [name for name in recorded if name not in current]
    new = [name for name in current if name not in recorded]
    if gone:
        yield f"classes that are not there now: {listing(gone)}"
    if new:
        yield f"classes other than {listing(new)}"
    if not gone and not new:
        yield f"classes in another order: {listing(recorded)}, not {listing(current)}"
