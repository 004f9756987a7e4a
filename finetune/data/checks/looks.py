"""What the images of a split are made of and look like, small enough to compare all with all, and remembered."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage

from finetune.console import log
from finetune.data import images, scan
from finetune.settings.limits import MAX_IMAGE_PIXELS

SIDE = 96
"""Of the grey pictures that are compared."""
MOST = 20_000
"""Images of a split up to which their looks are noted on the way: 9 kB each."""
_CHUNK = 32
_DIGEST = 16  # bytes

Entry = tuple[Any, ...]
"""Of one image, the fields of `Looks` in their order."""


@dataclass(frozen=True)
class Looks:
    """What N images look like, in the order of their rows.

    Attributes:
        content: uint8 `[N, 16]`, a hash of the encoded bytes.
        pixels: uint8 `[N, 16]`, a hash of the decoded RGB pixels and their shape.
        grey: uint8 `[N, SIDE, SIDE]`, the whole image, squashed.
        size: int32 `[N, 2]`, width and height in pixels, upright.
        brightness: float32 `[N]`, mean of the grey pixels, 0 to 1.
        contrast: float32 `[N]`, their standard deviation.
        mode: `<U8 [N]`, Pillow's mode before it became RGB.
    """

    content: np.ndarray
    pixels: np.ndarray
    grey: np.ndarray
    size: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    mode: np.ndarray

    def __len__(self) -> int:
        return len(self.grey)


def look(encoded: Dataset, column: str, rows: Sequence[int] | np.ndarray, max_pixels: int = MAX_IMAGE_PIXELS) -> Looks:
    """What images look like: remembered of a split, or decoded now, in parallel.

    Args:
        encoded: A split.
        column: Its images.
        rows: Which of its rows to look at; all of them decode.
        max_pixels: As when they were checked.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    cache = _cache_file(encoded, column)
    known = _read(cache)
    missing = np.setdiff1d(wanted, known.rows)
    if len(missing):
        undecoded = encoded.cast_column(column, Image(decode=False)).select_columns([column])

        def some(chunk: np.ndarray) -> list[Entry]:
            return [_one(value, max_pixels) for value in undecoded[chunk.tolist()][column]]

        found = [one for part in scan.in_parallel(missing, some, "looking at images") for one in part]
        known = known.with_more(missing, _stacked(found))
        _remember(cache, known)
    return chosen(known.looks, np.searchsorted(known.rows, wanted))


class Recorder:
    """Notes what images look like while something else decodes them, see `finetune.data.scan.Seen`."""

    def __init__(self) -> None:
        self.found: dict[int, Entry] = {}

    def __call__(self, row: int, value: Any, mode: str, picture: PILImage.Image) -> None:
        """One more."""
        self.found[row] = _seen(value, mode, picture)

    def keep(self, encoded: Dataset, column: str) -> None:
        """Remember what was noted of a split; nothing where nothing was."""
        if not self.found:
            return
        cache = _cache_file(encoded, column)
        rows = np.array(sorted(self.found), dtype=np.int64)
        known = _read(cache)
        new = np.setdiff1d(rows, known.rows)
        if len(new):
            _remember(cache, known.with_more(new, _stacked([self.found[row] for row in new.tolist()])))


def content_hashes(encoded: Dataset, column: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """uint8 `[N, 16]`, hashes of the encoded bytes alone: no image is decoded."""
    undecoded = encoded.cast_column(column, Image(decode=False)).select_columns([column])
    found = [
        _content(value)
        for start in range(0, len(rows), _CHUNK)
        for value in undecoded[np.asarray(rows[start : start + _CHUNK]).tolist()][column]
    ]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, _DIGEST)


def _hash(*parts: bytes) -> bytes:
    content = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        content.update(part)
    return content.digest()


def _content(value: Any) -> bytes:
    if isinstance(value, dict) and value.get("bytes") is not None:
        return _hash(value["bytes"])
    path = value["path"] if isinstance(value, dict) else value
    return _hash(Path(path).read_bytes()) if os.path.isfile(path) else _hash(str(path).encode())


def _one(value: Any, max_pixels: int) -> Entry:
    with images.opened(value, max_pixels) as opened:
        mode = opened.mode
        picture = images.decoded(opened)
    return _seen(value, mode, picture)


def _seen(value: Any, mode: str, picture: PILImage.Image) -> Entry:
    pixels = _hash(f"{picture.size} ".encode(), picture.tobytes())
    small = picture.convert("L").resize((SIDE, SIDE), PILImage.Resampling.BILINEAR)
    grey = np.asarray(small)
    return _content(value), pixels, grey, picture.size, grey.mean() / 255, grey.std() / 255, mode


def _stacked(found: Sequence[Entry]) -> Looks:
    content, pixels, grey, size, brightness, contrast, mode = zip(*found, strict=True) if found else ((),) * 7
    return Looks(
        np.frombuffer(b"".join(content), dtype=np.uint8).reshape(-1, _DIGEST),
        np.frombuffer(b"".join(pixels), dtype=np.uint8).reshape(-1, _DIGEST),
        np.array(grey, dtype=np.uint8).reshape(-1, SIDE, SIDE),
        np.array(size, dtype=np.int32).reshape(-1, 2),
        np.array(brightness, dtype=np.float32),
        np.array(contrast, dtype=np.float32),
        np.array(mode, dtype="<U8"),
    )


def joined(parts: Sequence[Looks]) -> Looks:
    """Those of several splits, one after the other."""
    return Looks(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Looks)))


def chosen(looks: Looks, places: np.ndarray) -> Looks:
    """Those at some places."""
    return Looks(**{field.name: getattr(looks, field.name)[places] for field in fields(Looks)})


@dataclass(frozen=True)
class _Known:
    """What is remembered of a split: int64 `[N]` rows, ascending, and what they look like."""

    rows: np.ndarray
    looks: Looks

    def with_more(self, rows: np.ndarray, looks: Looks) -> _Known:
        """With further rows, which are not among those."""
        both = np.concatenate([self.rows, rows])
        order = np.argsort(both)
        return _Known(both[order], chosen(joined([self.looks, looks]), order))


def _cache_file(encoded: Dataset, column: str) -> Path:
    """Another one once the split, its files, or what reads them, have changed."""
    answers = scan.cache_file(encoded, [column], np.arange(len(encoded)), "looks", 2, SIDE)
    return answers.parent.with_name("finetune-looks") / f"{answers.stem}.npz"


def _read(path: Path) -> _Known:
    """What is remembered; nothing where it is not there, or not whole."""
    try:
        with np.load(path) as file:
            looks = Looks(**{field.name: file[field.name] for field in fields(Looks)})
            rows = file["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _Known(np.zeros(0, dtype=np.int64), _stacked([]))
    return _Known(rows, looks)


def _remember(path: Path, known: _Known) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            values = {field.name: getattr(known.looks, field.name) for field in fields(Looks)}
            np.savez(file, rows=known.rows, **values)
        os.replace(file.name, path)
    except OSError as error:
        log.warning(f"warning: cannot remember what the images look like ({error.strerror or error}: {path.parent})")
