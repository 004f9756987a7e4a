"""Masks that a table or an annotation names by their paths: which files they are, and that they are no photographs."""

from __future__ import annotations

import dataclasses
import json
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.data import outside
from finetune.data.folder import names, tables
from finetune.data.folder.tree import File, Tree, image_suffixes
from finetune.errors import DatasetError

_KEY = re.compile(r".*(mask|segment)", re.IGNORECASE)
_TEXT = re.compile(rb'(mask|segment)\w*"*\s*:\s*\[?\s*"+[^"\n]{1,1000}\.\w{2,5}"', re.IGNORECASE)
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")


def is_key(name: str) -> bool:
    """Whether paths under this name may be those of masks of objects."""
    return _KEY.match(name) is not None


def is_path(value: Any) -> bool:
    """Whether a value is the path of an image, by its suffix."""
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or "://" in value:
        return False
    return Path(value).suffix.lower() in image_suffixes()


def resolved(path: str, starts: Sequence[Path], root: Path, roots: Sequence[str] | None = None) -> str:
    """The file that a path means: from the first folder in which it is there; else from the root.

    Args:
        path: As it is written, perhaps on another system.
        starts: Folders that it may start from; those above them up to the root may be it, too.
        root: The dataset's folder.
        roots: Folders in which files may be read; of `root` when not given.

    Returns:
        The path; marked as `finetune.data.outside` does where it may not be read.
    """
    plain = path.replace("\\", "/")
    for start in (*starts, root):
        for folder in (start, *(above for above in start.parents if above.is_relative_to(root))):
            if (folder / plain).is_file():
                return outside.checked(str(folder / plain), roots or outside.roots_of_folder(root))
    return outside.checked(str(root / plain), roots or outside.roots_of_folder(root))


def without(found: Tree) -> Tree:
    """The same tree without the masks of objects that its tables and annotations name: they are no photographs."""
    named = {part for file in (*found.tables, *found.others) for part in _named(file)}
    if not named:
        return found
    by_name: dict[str, list[str]] = {}
    for path in named:
        plain = path.replace("\\", "/").removeprefix("./")
        by_name.setdefault(plain.rsplit("/", 1)[-1], []).append(plain)
    masks = {image for image in found.images if any(_ends(image.path, path) for path in by_name.get(image.name, ()))}
    # Beside them lie those of images without an object, which nobody names.
    folders = {image.folders for image in masks if image.folders and names.kind(image.folders[-1]) == "masks"}
    kept = [image for image in found.images if image not in masks and image.folders not in folders]
    return dataclasses.replace(found, images=kept)


def _ends(path: str, end: str) -> bool:
    end = end.removeprefix("/")
    return path == end or path.endswith(f"/{end}") or end.endswith(f"/{path}")


def _named(file: File) -> Iterator[str]:
    """Paths of masks of objects in a file; one mask an image alone is another thing, to be learnt as classes."""
    if not file.name.lower().endswith(_SUFFIXES) or not _may_name(file):
        return
    try:
        table = tables.read(file)
        rows: Any = [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in _rows(table)]
        if table is None:
            held = json.loads(Path(file.place).read_text("utf-8-sig"))
            rows = held.get("annotations", []) if isinstance(held, dict) else []
            rows = [{"annotations": rows}]
    except (DatasetError, ValueError):  # said where it is read
        return
    for row in rows:
        parts = {name: _parsed(value) for name, value in row.items()}
        if any(isinstance(value, list | dict) for value in parts.values()):
            yield from _paths(parts, False)


def _rows(table: tables.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*table.columns.values(), strict=True)


def _may_name(file: File) -> bool:
    try:
        with open(file.place, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _TEXT.search(content) is not None
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _parsed(value: Any) -> Any:
    """JSON in text, as csv has it."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _paths(value: Any, under: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, under or is_key(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, under)
    elif under and is_path(value):
        yield value
