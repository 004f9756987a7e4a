"""Files of images -> a column that names them, whatever bytes their names are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from finetune.data.folder.tree import File
from finetune.errors import DatasetError

_EMBEDDED = 2**31  # bytes of images whose names no string can hold


def of(files: Sequence[File]) -> pa.Array:
    """Paths of images; the bytes of those whose path is not UTF-8, or cannot be opened by it in this locale."""
    paths: list[str | None] = []
    held: list[bytes | None] = []
    size = 0
    for file in files:
        path, content = _spelled(file.place), None
        if path is None:
            content = _content(file.place)
            size += len(content)
            path = file.path
        if size > _EMBEDDED:
            raise DatasetError(
                f"too many images under names that are not UTF-8 ({file.path}): rename them (convmv -f latin1 -t "
                "utf8 -r)"
            )
        paths.append(path)
        held.append(content)
    arrays = [pa.array(held, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(arrays, ["bytes", "path"])


def some(files: Sequence[File | None]) -> pa.Array:
    """As `of`, with nothing where there is no file."""
    known = of([file for file in files if file is not None])
    places = iter(range(len(known)))
    return known.take(pa.array([None if file is None else next(places) for file in files], pa.int64()))


def _spelled(place: str) -> str | None:
    """A path as Arrow holds it, if it opens the same file."""
    raw = os.fsencode(place)
    try:
        text = raw.decode("utf-8")
        return text if os.fsencode(text) == raw else None
    except UnicodeError:
        return None


def _content(place: str) -> bytes:
    try:
        return Path(place).read_bytes()
    except OSError:
        return b""  # counted as an image that does not decode
