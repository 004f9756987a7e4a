"""complete.json, a run's last file, with the hashes of all others; and lock.json, its first: what it was made from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune.runs import claim, reading
from finetune.runs.runfolder import RunFolder, write_text

VERSION = 1
PACKAGES = (
    "resnest-timm",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "datasets",
    "huggingface_hub",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
)


def lock(folder: RunFolder, data: Mapping[str, str], weights: str, settings: Mapping[str, Any]) -> None:
    """Write lock.json at the start of a run; one that goes on keeps the lock that it was begun with.

    Args:
        folder: Of the run.
        data: What identifies the images and labels of each split.
        weights: Hash of the network's weights before the first step.
        settings: The resolved flags.
    """
    if folder.lock.is_file() and reading.whole(folder.lock, reading.LOCK):
        return
    content = {
        "version": VERSION,
        "packages": packages(),
        "data": dict(data),
        "weights": {"begin_sha256": weights, "model_sha256": None},
        "settings": dict(settings),
    }
    write_text(folder.lock, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def packages() -> dict[str, str]:
    """Versions of Python and of what a run's numbers depend on, as installed now."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # used from a checkout, or not installed
            continue
    return found


def complete(folder: RunFolder, without: Path | None = None) -> None:
    """Write lock.json's last line, the exported weights' hash, and then complete.json: now the run is complete.

    Args:
        folder: Of the run.
        without: A folder in it whose files are about to be deleted.
    """
    content = reading.read(folder.lock, reading.LOCK)
    weights = folder.model / "model.safetensors"
    content["weights"]["model_sha256"] = reading.sha256(weights) if weights.is_file() else None
    write_text(folder.lock, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    root = folder.root
    skipped = (folder.completed.name, claim.NAME)
    files = {
        path.relative_to(root).as_posix(): reading.sha256(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and path.suffix != ".part"
        and path.name not in skipped
        and not (without and path.is_relative_to(without))
    }
    write_text(folder.completed, json.dumps({"version": VERSION, "files": files}, indent=2, ensure_ascii=False) + "\n")
