"""The command that repeats a run, for its card: no folder of this machine in it, and nothing of the hardware."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from finetune.settings.config import RunConfig
from finetune.settings.options import DataOptions, ModelOptions, TrainingOptions, flag

_GROUPS = (DataOptions, ModelOptions, TrainingOptions)
_HARDWARE = ("precision", "device_batch_size", "grad_checkpointing", "compile", "sync_bn")
_OTHERS = (*_HARDWARE, "seed", "seeds", "curve", "max_time")
"""Of the other groups, what may change the numbers, or adds some."""


def words(config: RunConfig) -> list[str]:
    """Arguments of `python -m finetune`: the flags whose values are not what that command takes by itself.

    Args:
        config: Resolved, with what was inferred.

    Returns:
        A flag and its value are two words, or one where the value looks like a flag. A local folder or file is
        `PATH/TO/NAME`, for where it lies is nobody's business. Empty for a dataset in memory.
    """
    if isinstance(config.dataset, Dataset | DatasetDict):
        return []
    chosen = ["model", "dataset", "pretrained", "freeze", "unfreeze_every", "epochs"]  # these decide on the others
    plain = RunConfig(**{name: getattr(config, name) for name in chosen}).resolved()
    names = [f.name for group in _GROUPS for f in dataclasses.fields(group)]
    found = ["--model", _model(config.model), "--dataset", _dataset(config.dataset)]
    for name in (*names, *_OTHERS):
        value = getattr(config, name)
        default = getattr(_DEFAULTS if name in chosen else plain, name)
        if name == "exclude" and value is not None:
            found += [flag(name), _placeholder(value)]
        elif name not in ("model", "dataset") and value != default:
            found += _flag(name, value)
    return found


_DEFAULTS = RunConfig()


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no_{name}")]
    text = str(value)
    return [f"{flag(name)}={text}"] if text.startswith("-") else [flag(name), text]


def _dataset(name: str | os.PathLike[str]) -> str:
    return _placeholder(name) if Path(name).expanduser().exists() else str(name)


def _model(name: str) -> str:
    local = "local-dir:"
    return local + _placeholder(name.removeprefix(local)) if name.startswith(local) else name


def _placeholder(path: str | os.PathLike[str]) -> str:
    return f"PATH/TO/{Path(path).expanduser().resolve().name}"
