"""Checkpoint files: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from finetune.errors import CheckpointError
from finetune.runs import reading


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, makes sure that it is on the disk, and moves it there.

    Attributes:
        error: Why the last checkpoint could not be written. It is kept, not raised: the first process alone writes,
            and the others wait for it; `Checkpoints` lets all of them raise.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`."""
        target = Path(path)
        buffer = io.BytesIO()  # torch.save to a file of Python's loses the operating system's error
        torch.save(checkpoint, buffer)
        temporary = target.with_name(f"{target.name}.part")
        self.error = None
        try:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self.error = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is ever executed.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return load(Path(path))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None: every byte of it is read and compared with its CRC-32.

    torch.save writes a ZIP archive with the sums of its members, and torch.load does not look at them.
    """
    if not path.is_file():
        return "no file" if path.exists() else "missing"
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        return f"damaged ({error})"
    return f"damaged ({bad} does not have its checksum)" if bad else None


def foreign(path: Path, needed: Mapping[str, Any]) -> str | None:
    """What an undamaged file lacks to be a checkpoint of ours, or None.

    Args:
        path: The file.
        needed: As `finetune.runs.reading.problem` takes it.
    """
    try:
        content: Any = load(path, mmap=True)
    except CheckpointError:
        return "no checkpoint: PyTorch cannot read it without running code"
    found = reading.problem(content, needed)
    return f"no checkpoint of a run ({found})" if found else None


def load(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without executing anything; with `mmap` tensors are read when they are used.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch and pickle raise many kinds for bytes that are not what they should be
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from error
    return content


def _reason(error: Exception) -> str:
    """In our words where it needs code to be read: PyTorch's own tell how to run it."""
    if "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors, numbers and text; it may run code, and is refused"
    return (str(error).splitlines() or [type(error).__name__])[0]


def same_content(source: Path, target: Path) -> None:
    """Let `target` have `source`'s content, at once and without a copy of the bytes where the file system allows.

    Raises:
        OSError: Neither a link nor a copy can be made; `target` is as it was.
    """
    temporary = target.with_name(f"{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        try:
            shutil.copyfile(source, temporary)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # it stays where both were names of one file already


def _sync_folder(folder: Path) -> None:
    """Make a rename last, where folders can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
