"""A hash of what is written of the objects in rows: their boxes, classes and masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

_CHUNK = 256  # rows that are in memory at a time


def digest(encoded: Dataset, columns: Sequence[str], rows: np.ndarray) -> str:
    """16 hexadecimal digits, the same wherever the dataset lies.

    Args:
        encoded: A split.
        columns: All that an object is read from.
        rows: int64 `[n]`, which of its rows, in order.

    Raises:
        OSError: A mask's file is gone.
    """
    known = [name for name in columns if name in encoded.column_names]
    table, content = encoded.select_columns(known).with_format("arrow"), hashlib.sha256()
    for start in range(0, len(rows), _CHUNK):
        for row in table[rows[start : start + _CHUNK].tolist()].to_pylist():
            content.update(json.dumps(_plain(row), sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    return content.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """As JSON has it; a picture is what its file holds, wherever that lies."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"}:
            return _plain(value["bytes"] or (Path(value["path"]).read_bytes() if value["path"] else b""))
        return {name: _plain(of) for name, of in value.items()}
    if isinstance(value, list):
        return [_plain(of) for of in value]
    return value
