"""What a model said of validation and test, on the disk: the figures are drawn from it, again if need be."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.runs.runfolder import save_tensors


def save(path: Path, predictions: Mapping[str, Any]) -> bool:
    """Write predictions whole or not at all, as safetensors: `ROLE.FIELD`.

    Args:
        path: The file.
        predictions: By role; dataclasses.

    Returns:
        Whether they could be: their fields are tensors. Nothing is written of others, nor of none.

    Raises:
        OSError: The disk is full.
        SafetensorError: The same.
    """
    tensors = {
        f"{role}.{field.name}": getattr(found, field.name)
        for role, found in predictions.items()
        for field in dataclasses.fields(found)
    }
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        path.unlink(missing_ok=True)
        return False
    temporary = path.with_name(f"{path.name}.part")
    try:
        save_tensors({name: value.contiguous() for name, value in tensors.items()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def load(path: Path, kind: Callable[..., Any]) -> dict[str, Any] | None:
    """Read what `save` wrote; None where it is missing or not whole.

    Args:
        path: The file.
        kind: Makes the predictions of their fields, by name.
    """
    try:
        tensors = load_file(path)
        fields: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            role, _, field = name.partition(".")
            fields.setdefault(role, {})[field] = value
        return {role: kind(**values) for role, values in fields.items()}
    except (OSError, SafetensorError, TypeError):
        return None
