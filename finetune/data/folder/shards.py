"""Files that hold images themselves: which of a folder's are the data set, and of which split each is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.folder import names
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_NUMBERED = re.compile(r"(\w+)-\d+-of-\d+(?:-\w+)?\.\w+")
READERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


@dataclass(frozen=True)
class Shards:
    """Files for a reader of `datasets`.

    Attributes:
        reader: Its name.
        files: Paths by split.
        left: Files that belong to no split.
    """

    reader: str
    files: dict[str, list[str]]
    left: tuple[str, ...] = ()


def holds_images(parquet: str) -> bool:
    """Whether a parquet file has a column of encoded images.

    Args:
        parquet: Its path.
    """
    try:
        schema = pq.read_schema(parquet)
    except (OSError, pa.ArrowException):
        return True  # its reader says what is wrong
    if b'"Image"' in (schema.metadata or {}).get(b"huggingface", b""):
        return True
    return any(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and "bytes" in {f.name for f in kind})
        for kind in schema.types
    )


def plan(files: Sequence[File]) -> Shards:
    """Lay files of one kind out by split.

    A file that is called as a split, or lies in a folder that is, belongs to it; so does one with the word of a split
    in its name where all files have one. All others are `train`, or left out where train and another are there.

    Args:
        files: Of one suffix.

    Raises:
        DatasetError: Parquet files of one split have other columns.
    """
    numbered = {file: match[1] for file in files if (match := _NUMBERED.fullmatch(file.name))}
    if len(numbered) == len(files):  # as the Hub names them, whatever the split is called
        roles = {file: names.split_name(name) or name for file, name in numbered.items()}
    else:
        strict = {file: _role(file, names.split_name) for file in files}
        loose = {file: strict[file] or _role(file, names.role) for file in files}
        found = loose if all(loose.values()) else strict
        known = set(found.values()) - {None}
        # One word in some of the names says nothing of the others: they are all one set.
        other = "" if "train" in known and len(known) > 1 else "train"
        roles = {file: role or other for file, role in found.items()}
    left = tuple(file.path for file, role in roles.items() if not role)
    splits: dict[str, list[str]] = {}
    for file, role in roles.items():
        if role:
            splits.setdefault(role, []).append(file.place)
    suffix = os.path.splitext(files[0].name)[1].lower()
    if suffix == ".parquet":
        _check_columns(splits)
    order = [*names.SPLIT_WORDS, *sorted(splits.keys() - names.SPLIT_WORDS.keys())]
    return Shards(READERS[suffix], {name: splits[name] for name in order if name in splits}, left)


def _role(file: File, read: Callable[[str], str | None]) -> str | None:
    stem = os.path.splitext(file.name)[0]
    return next((role for name in (stem, *reversed(file.folders)) if (role := read(name)) is not None), None)


def _check_columns(splits: dict[str, list[str]]) -> None:
    for name, paths in splits.items():
        known: list[str] | None = None
        for path in paths:
            try:
                columns = pq.read_schema(path).names
            except (OSError, pa.ArrowException):
                return  # the reader of `datasets` says what is wrong
            if known is not None and set(columns) != set(known):
                raise DatasetError(
                    f"parquet files of the {name} split have other columns: {os.path.basename(paths[0])} has "
                    f"{listing(known)}, {os.path.basename(path)} has {listing(columns)}: give --dataset a folder or "
                    "file of one kind"
                )
            known = columns if known is None else known
