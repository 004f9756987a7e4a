"""config.json and model.safetensors of a model's folder, looked at before anything is built from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.runs import reading

CONFIG, WEIGHTS, CERTIFICATE, SEAL = "config.json", "model.safetensors", "verify.json", "complete.json"
OURS = "finetune.json"
"""What is ours of a model in another library's form than timm's: its task, its classes, how to prepare an image."""
_KEYS = {WEIGHTS: "weights_sha256", CONFIG: "config_sha256"}
_ADVICE = "put back a copy of it, or export the model again"


def check(folder: Path) -> None:
    """Raise where a model's folder cannot be used, or is not what its certificate or run says; its weights stay unread.

    Args:
        folder: With config.json, and model.safetensors where the weights are in that form.

    Raises:
        ModelError: A file is damaged, or config.json names more or fewer classes than there are outputs.
        RunFolderError: A file is another than the one that was verified or written.
    """
    if is_ours(folder):
        ours(folder)
        config = reading.read(folder / CONFIG, dict, _ADVICE, ModelError)
    else:
        config = reading.read(folder / CONFIG, reading.MODEL, _ADVICE, ModelError)
    names, outputs = config.get("label_names"), config.get("num_classes")
    if names is not None and outputs is not None and len(names) != outputs:
        raise ModelError(
            f"{folder / CONFIG} is damaged: it has {len(names)} label_names for {outputs} outputs (num_classes); "
            f"{_ADVICE}"
        )
    if (folder / WEIGHTS).exists():
        _check_weights(folder / WEIGHTS)
    compare(folder)


def is_ours(folder: Path) -> bool:
    """Whether a model's folder is in another library's form than timm's, as its task has written it."""
    return (folder / OURS).is_file()


def ours(folder: Path) -> dict[str, Any]:
    """What finetune.json says.

    Raises:
        ModelError: It is damaged.
    """
    found: dict[str, Any] = reading.read(folder / OURS, reading.OURS, _ADVICE, ModelError)
    return found


def _check_weights(path: Path) -> None:
    """Whether it is a safetensors file from its first to its last byte."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        kind = "an empty file" if not head else "a file of another kind, or one that is cut short"
        if head.startswith((b"\x80", b"PK\x03\x04")):
            kind = "a pickle or an archive of PyTorch, which can hold code and is never read"
        raise ModelError(f"{path} is damaged: expected safetensors, got {kind}; {_ADVICE}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def compare(folder: Path) -> None:
    """Compare with the hashes that are at hand: of the certificate, and where it has none of the run's complete.json.

    Raises:
        RunFolderError: A file is another one.
    """
    certificate, seal = _hashes(folder / CERTIFICATE), _hashes(folder.parent / SEAL).get("files", {})
    advice = "put back a copy of it; if it was changed on purpose, `python -m cards verify RUN` certifies what is there"
    for name, key in _KEYS.items():
        if not (folder / name).is_file():
            continue
        if key in certificate:
            reading.compare(folder / name, certificate, key, CERTIFICATE, advice)
        elif isinstance(seal, dict):
            reading.compare(folder / name, seal, f"{folder.name}/{name}", SEAL, advice)


def _hashes(path: Path) -> dict[str, Any]:
    """What a file of hashes says; nothing where there is none, or it is of no use."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_splits(run: Path) -> dict[str, Any]:
    """A run's splits.json, which is the one that the run has written where that can be told.

    Raises:
        RunFolderError: It is not, is missing or damaged.
    """
    path = run / "splits.json"
    found = reading.read(path, reading.SPLITS)
    seal = _hashes(run / SEAL).get("files", {})
    if isinstance(seal, dict):
        reading.compare(path, seal, path.name, SEAL, "put back a copy of it, or make the run again by its config.yaml")
    return found
