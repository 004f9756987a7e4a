"""One pass over the images of a split: what each is made of and looks like, small enough to compare all with all."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from datasets import Dataset, Image, config
from PIL import Image as PILImage

from finetune.console import log
from finetune.data import images
from finetune.settings.limits import MAX_IMAGE_PIXELS

SIDE = 96
"""Of the grey pictures that are compared."""
_CHUNK = 32
_DIGEST = 16  # bytes


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
    """Decode every image once, in parallel; the answer is remembered where a dataset says what it is.

    Args:
        encoded: A split.
        column: Its images.
        rows: Which of its rows to look at; all of them decode.
        max_pixels: As when they were checked.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    cache = _cache_file(encoded, column, wanted)
    if (known := _read(cache, len(wanted))) is not None:
        return known
    undecoded = encoded.cast_column(column, Image(decode=False)).select_columns([column])

    def some(chunk: np.ndarray) -> list[tuple[Any, ...]]:
        return [_one(value, max_pixels) for value in undecoded[chunk.tolist()][column]]

    chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        found = [one for part in pool.map(some, chunks) for one in part]
    made = _stacked(found)
    _remember(cache, made)
    return made


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


def _one(value: Any, max_pixels: int) -> tuple[Any, ...]:
    with images.opened(value, max_pixels) as opened:
        mode = opened.mode
        picture = images.decoded(opened)
    pixels = _hash(f"{picture.size} ".encode(), picture.tobytes())
    small = picture.convert("L").resize((SIDE, SIDE), PILImage.Resampling.BILINEAR)
    grey = np.asarray(small)
    return _content(value), pixels, grey, picture.size, grey.mean() / 255, grey.std() / 255, mode


def _stacked(found: Sequence[tuple[Any, ...]]) -> Looks:
    if not found:
        found = [(bytes(_DIGEST), bytes(_DIGEST), np.zeros((SIDE, SIDE)), (0, 0), 0.0, 0.0, "")][:0]
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


def _cache_file(encoded: Dataset, column: str, rows: np.ndarray) -> Path:
    key = hashlib.sha256(f"1 {encoded._fingerprint} {column} {PIL.__version__} {SIDE} ".encode() + rows.tobytes())
    return Path(config.HF_DATASETS_CACHE) / "finetune-looks" / f"{key.hexdigest()[:32]}.npz"


def _read(path: Path, count: int) -> Looks | None:
    try:
        with np.load(path) as file:
            made = Looks(**{field.name: file[field.name] for field in fields(Looks)})
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return made if len(made) == count else None


def _remember(path: Path, made: Looks) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.savez(file, **{field.name: getattr(made, field.name) for field in fields(Looks)})
        os.replace(file.name, path)
    except OSError as error:
        log.warning(f"warning: cannot remember what the images look like ({error.strerror or error}: {path.parent})")
