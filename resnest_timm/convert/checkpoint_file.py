"""A checkpoint's file -> its tensors, without ever running code that the file brings."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from resnest_timm.convert import ndarray_list
from resnest_timm.errors import ConversionError

_OLD_TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # pickled first in a file of torch before 1.6
_MAX_PARAMS_BYTES = 4 << 30  # the largest released file has 0.45 GB

_RESAVE = (
    "Where you trust it, load it and save its tensors alone with safetensors.torch.save_file, then convert that file"
)


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds.

    Attributes:
        path: The file.
        sha256: Of the whole file, 64 digits.
        kind: Its format, for people.
        tensors: By the file's own names.
        member_sha1: SHA-1 of the MXNet parameters, in a zip or bare; None for other formats.
    """

    path: Path
    sha256: str
    kind: str
    tensors: dict[str, Tensor]
    member_sha1: str | None = None


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file, as lower-case digits.

    Raises:
        ConversionError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}; give the path of a checkpoint's file") from error


def read(path: Path, sha256: str) -> CheckpointFile:
    """Read safetensors, PyTorch files that need no code, MXNet `.params`, and zips of one of those.

    The format is told by the content, not by the name.

    Args:
        path: The file.
        sha256: Its hash, see `digest`.

    Raises:
        ConversionError: Another format, a damaged file, or one that only unpickling code could read.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(ndarray_list.MAGIC):
        return _from_params(path, sha256, "MXNet parameters", path.read_bytes())
    if head[:4] == b"PK\x03\x04":
        return _from_zip(path, sha256)
    if _OLD_TORCH_MAGIC in head:
        return CheckpointFile(path, sha256, "PyTorch (old format)", _load_torch(path))
    if head[:1] == b"\x80":
        raise ConversionError(
            f"{path} is refused: it is a plain pickle, as detectron2's .pkl, which only unpickling code could read. "
            f"{_RESAVE}"
        )
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        try:
            return CheckpointFile(path, sha256, "safetensors", safetensors.torch.load_file(path))
        except (SafetensorError, OSError) as error:
            raise ConversionError(f"{path} is truncated or damaged, or not safetensors: {_line(error)}") from error
    kinds = "safetensors, PyTorch .pth, MXNet .params or a zip of .params"
    raise ConversionError(f"{path} is none of {kinds}; it begins with {head[:8]!r}")


def _from_zip(path: Path, sha256: str) -> CheckpointFile:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                _refuse_unsafe(path, member.filename)
            names = [PurePosixPath(member.filename) for member in members]
            if any(name.name == "data.pkl" for name in names):
                return CheckpointFile(path, sha256, "PyTorch", _load_torch(path))
            found = [member for member in members if member.filename.endswith(".params")]
            if len(found) != 1:
                inside = ", ".join(map(str, names[:5])) or "nothing"
                raise ConversionError(f"{path}: expected a zip with one .params file, it holds {inside}")
            if found[0].file_size > _MAX_PARAMS_BYTES:
                raise ConversionError(f"{path}: {found[0].filename} would take {found[0].file_size:,} bytes; refused")
            data = archive.read(found[0])
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ConversionError(f"{path} is truncated or damaged: {_line(error)}. Fetch it again") from error
    return _from_params(path, sha256, "MXNet parameters in a zip", data)


def _refuse_unsafe(path: Path, member: str) -> None:
    posix, windows = PurePosixPath(member), PureWindowsPath(member)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ConversionError(f"{path}: its member {member!r} points outside the archive; refused, do not unpack it")


def _from_params(path: Path, sha256: str, kind: str, data: bytes) -> CheckpointFile:
    if data[:4] == b"PK\x03\x04":
        raise ConversionError(f"{path} holds MXNet 2's numpy archive; expected MXNet 1.x's list of arrays. {_RESAVE}")
    try:
        arrays = ndarray_list.parse(data)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return CheckpointFile(path, sha256, kind, tensors, hashlib.sha1(data, usedforsecurity=False).hexdigest())


def _load_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's hints about what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(f"{path} is refused: {_why_code(error)}. {_RESAVE}") from error
    except Exception as error:  # a damaged pickle fails in every way there is
        if "TorchScript" in str(error):
            raise ConversionError(f"{path} is refused: it is a TorchScript program, not weights. {_RESAVE}") from error
        raise ConversionError(f"{path} is truncated or damaged: {_line(error)}") from error
    return _state_dict(path, content)


def _why_code(error: Exception) -> str:
    text = str(error)
    name = re.search(r"GLOBAL (\S+)|type[^.\n]*?<class '([^']+)'>|Trying to call[^.\n]*?(\S+)", text)
    if name and (found := next(filter(None, name.groups()), None)):
        return f"it holds {found}, which only unpickling code from the file could make"
    return "it is a pickle of more than tensors, which only unpickling code from the file could make"


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """The mapping of names to tensors, out of the wrappings `state_dict` and `model`."""
    for wrapping in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping):
        raise ConversionError(
            f"{path}: expected a dict of tensors, or one under 'state_dict' or 'model', got {type(content).__name__}"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise ConversionError(f"{path}: expected tensors alone in the state dict, got others: {', '.join(others[:5])}")
    named: dict[str, Any] = {str(name): value for name, value in content.items()}
    if named and all(name.startswith("module.") for name in named):  # from DataParallel
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
