"""The search for images that do not decode: all of them, once, before anything is trained on them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, config
from PIL import Image as PILImage
from tqdm.auto import tqdm

from finetune.console import interactive, is_main_process, log
from finetune.data import images
from finetune.settings.limits import MAX_IMAGE_PIXELS

T = TypeVar("T")

_PIXELS_AT_ONCE = 2**27  # over all threads; with a converted copy of them about 1 GB
_LONGEST = 1000  # characters of a path that is shown
_CHUNK = 64  # images that a thread looks at in one go


@dataclass(frozen=True)
class BadImage:
    """An image that does not decode.

    Attributes:
        row: In the source's split.
        reason: Why.
        path: Its file, where it has one of its own.
        beside: Whether it decodes, and what stands beside it cannot be used.
    """

    row: int
    reason: str
    path: str | None = None
    beside: bool = False


@dataclass(frozen=True)
class Scan:
    """What was found.

    Attributes:
        bad: Images that do not decode, by row.
        animated: How many of the others have several frames or pages.
    """

    bad: list[BadImage]
    animated: int = 0


Seen = Callable[[int, images.Encoded, str, PILImage.Image], None]
"""Is told of each image that decodes: its row, its encoded form, its mode before it became RGB, and it itself."""


def scan(
    dataset: Dataset,
    column: str,
    rows: Sequence[int] | np.ndarray,
    max_pixels: int = MAX_IMAGE_PIXELS,
    seen: Seen | None = None,
) -> Scan:
    """Decode every image once, in parallel; the answer is cached.

    However many threads there are, at most `_PIXELS_AT_ONCE` pixels are decoded at a time (or a single larger image).

    Args:
        dataset: A split.
        column: Its images.
        rows: Which of its rows to look at.
        max_pixels: Larger images count as bad, without being decoded.
        seen: Looks at the images meanwhile, in any order and from several threads; not where the answer is known.
    """
    looked_at = np.asarray(rows, dtype=np.int64)
    cache = cache_file(dataset, [column], looked_at, max_pixels)
    if (known := _read(cache)) is not None:
        return known
    alone = dataset.select_columns([column])  # a mask beside it would be decoded with each row
    found = _scan(alone.cast_column(column, Image(decode=False)), column, looked_at, max_pixels, seen)
    remember(cache, asdict(found))
    return found


def _read(cache: Path) -> Scan | None:
    """What was found before; None where there is nothing, or nothing whole."""
    try:
        entry = json.loads(cache.read_text(encoding="utf-8"))
        return Scan([BadImage(**image) for image in entry["bad"]], int(entry["animated"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(cache: Path, found: Any) -> None:
    """Keep an answer as JSON; where that cannot be, the images are checked again another time, and one line says so."""
    temporary: Path | None = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{cache.stem}.", dir=cache.parent)  # other processes have their own
        temporary = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(found, stream)
        temporary.replace(cache)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        log.warning(
            f"warning: cannot remember which images decode ({error.strerror or error}: {cache.parent}); they are "
            "checked again the next time, unless HF_DATASETS_CACHE names a folder that can be written"
        )


def _scan(encoded: Dataset, column: str, rows: np.ndarray, max_pixels: int, seen: Seen | None) -> Scan:
    gate = Gate()

    def look(chunk: np.ndarray) -> Scan:
        # Rows are read from an Arrow table and Pillow decodes outside the interpreter's lock: threads are enough.
        bad, animated = [], 0
        for row in chunk.tolist():
            value = encoded[row][column]
            try:
                animated += _decodes(value, max_pixels, gate, None if seen is None else partial(seen, row, value))
            except Exception as error:  # Pillow's decoders raise whatever they like on broken input
                bad.append(BadImage(row, images.reason(error), path_of(value)))
        return Scan(bad, animated)

    parts = list(in_parallel(rows, look, "checking images"))
    bad = [image for part in parts for image in part.bad]
    return Scan(sorted(bad, key=lambda image: image.row), sum(part.animated for part in parts))


def in_parallel(rows: np.ndarray, look: Callable[[np.ndarray], T], doing: str) -> Iterator[T]:
    """What `look` makes of the rows, some at a time, in their order; by threads, with a bar where somebody watches.

    Args:
        rows: int64 `[N]`.
        look: Some of them -> what was found.
        doing: For the bar.
    """
    quiet = not (interactive() and is_main_process())
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(rows), desc=doing, disable=quiet, leave=False) as progress,
    ):
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        for chunk, part in zip(chunks, pool.map(look, chunks), strict=True):
            yield part
            progress.update(len(chunk))


def _decodes(
    value: images.Encoded, max_pixels: int, gate: Gate, seen: Callable[[str, PILImage.Image], None] | None
) -> bool:
    """Decode an image as training will; whether it has several frames."""
    with images.opened(value, max_pixels) as image, gate.of(image.width * image.height):
        mode, picture = image.mode, images.to_rgb(images.upright(image))
        if seen is not None:
            seen(mode, picture)
        with contextlib.suppress(Exception):  # the frames after the first may be damaged
            # A phone's MPO is a photo with its depth or preview.
            return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


class Gate:
    """Holds threads back while others decode too many pixels; one image is always let through."""

    def __init__(self) -> None:
        self.limit = self.free = _PIXELS_AT_ONCE
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """While so many pixels are decoded."""
        pixels = min(pixels, self.limit)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


def path_of(value: Any) -> str | None:
    """The file of an encoded image, where it has one of its own whose name can be shown."""
    path = value["path"] if isinstance(value, dict) and value["bytes"] is None else None
    return None if path is None or len(path) >= _LONGEST else path.removeprefix(images.MARK)


def cache_file(dataset: Dataset, columns: Sequence[str], rows: np.ndarray, *more: object) -> Path:
    """Where an answer about rows is kept; another file once they, or what reads them, have changed.

    Args:
        dataset: A split.
        columns: That were looked at.
        rows: int64 `[N]`.
        more: What the answer depends on besides.
    """
    reader = f"Pillow {PIL.__version__} {importlib.util.find_spec('pillow_heif') is not None}"
    asked = " ".join(map(str, (*columns, *more)))
    key = hashlib.sha256(f"{dataset._fingerprint} {asked} {reader} ".encode())
    key.update(rows.tobytes())
    for column in columns:
        for path in _files(dataset, column, rows):
            key.update(_state(path))
    return Path(config.HF_DATASETS_CACHE) / "finetune-checked-images" / f"{key.hexdigest()[:32]}.json"


def _files(dataset: Dataset, column: str, rows: np.ndarray) -> Iterator[str]:
    """Paths of the images that the dataset does not hold itself; their bytes are not in its fingerprint."""
    values = dataset.data.column(column)
    paths = values
    if pa.types.is_struct(values.type):
        fields = {field.name for field in values.type}
        if "path" not in fields:
            return
        paths = pc.struct_field(values, "path")
        if "bytes" in fields:
            paths = pc.if_else(pc.is_valid(pc.struct_field(values, "bytes")), None, paths)
    if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)) or paths.null_count == len(paths):
        return
    indices = rows if dataset._indices is None else dataset._indices.column(0).to_numpy()[rows]
    for path in paths.take(indices).to_pylist():
        if path is not None and "://" not in path and not path.startswith(images.MARK):
            yield path


def _state(path: str) -> bytes:
    try:
        state = os.stat(path)
    except OSError:
        return b"absent "
    return f"{state.st_size} {state.st_mtime_ns} ".encode()
