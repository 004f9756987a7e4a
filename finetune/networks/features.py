"""Features of a frozen backbone on the disk: which ones they are, and files that are whole or not there.

A file is a `.npy` of float32 `[N, ...]`, one row per image, and after it the CRC-32 of its values: `np.load` reads and
maps it as it is. It lies beside what else is remembered of a dataset, in the datasets cache; removing it costs a pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import config
from torch import nn

from finetune.data.dataset import LabelledImages
from finetune.errors import OutputError

# What decodes and resizes an image, and what computes with it.
_LIBRARIES = ("resnest-timm", "torch", "torchvision", "timm", "pillow")
_CRC = struct.Struct("<I")


def backbone_hash(model: nn.Module, classifier: nn.Module) -> str:
    """Of all that a model's features depend on besides the image: its kind, and every weight but the classifier's."""
    described: Any = model
    kind = [type(model).__qualname__, getattr(described, "pretrained_cfg", {}).get("architecture")]
    kind += [getattr(model, "_model_args", {}), str(model).replace(str(classifier), "")]
    content = hashlib.sha256(repr(kind).encode())
    head = {id(value) for value in (*classifier.parameters(), *classifier.buffers())}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if id(value) in head:
            continue
        content.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:32]


def cache_file(data: LabelledImages, role: str, data_config: Mapping[str, Any], backbone: str, device: str) -> Path:
    """Where the features of a split's images lie, if they have been computed.

    Args:
        data: The dataset.
        role: The split: its images count, not its name.
        data_config: timm's, from which the evaluation's transform is made.
        backbone: See `backbone_hash`.
        device: Kind of device; a GPU's float32 is not bit for bit a CPU's.
    """
    part = data.splits.parts[role]
    source: Any = data.source.splits[part.source]
    versions = {name: version(name) for name in _LIBRARIES}
    words = [source._fingerprint, data.schema.image_column, data_config, backbone, device, versions]
    key = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    key.update(part.rows.astype("<i8").tobytes())
    return Path(config.HF_DATASETS_CACHE) / "finetune-features" / f"{key.hexdigest()[:32]}.npy"


def write(path: Path, count: int, batches: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write a file whole or not at all.

    Args:
        path: Its place.
        count: Rows in all.
        batches: First row and float32 `[B, ...]`; each row once, in any order.

    Raises:
        OutputError: It cannot be written; nothing is left of it.
    """
    temporary = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            for start, rows in batches:
                if file.tell() == 0:
                    shape = (count, *rows.shape[1:])
                    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    first = file.tell()
                # Not through a memory map: there a full disk is a SIGBUS, here it is an error.
                file.seek(first + start * rows[0].nbytes)
                file.write(np.ascontiguousarray(rows, dtype="<f4").data)
            file.flush()
            file.seek(0, os.SEEK_END)
            file.write(_CRC.pack(zlib.crc32(np.load(temporary, mmap_mode="r").data)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # of whatever gave the batches
            raise
        raise OutputError(
            f"cannot keep the features of the frozen backbone in {path.parent}: {error.strerror or error}; name a "
            "folder with room by HF_DATASETS_CACHE, or ask for some augmentation, such as --hflip 0.5: then none are "
            "kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: Path) -> np.ndarray | None:
    """Map a file, float32 `[N, ...]`; None where it is missing or not what was written. Every byte is looked at."""
    try:
        values: np.ndarray = np.load(path, mmap_mode="r")
        with path.open("rb") as file:
            file.seek(-_CRC.size, os.SEEK_END)
            (expected,) = _CRC.unpack(file.read())
    except (OSError, ValueError, EOFError):
        return None
    return values if zlib.crc32(values.data) == expected else None
