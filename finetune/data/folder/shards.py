"""Files that hold images themselves: which of a folder's are the data set, and of which split each is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.folder import names
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

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

    The split is what the name of a file, or of a folder above, begins with or is; where these words are not in all of
    them, they are parts of one set, `train`: `datasets` would read but those with a word in it.

    Args:
        files: Of one suffix.

    Raises:
        DatasetError: Parquet files of one split have other columns.
    """
    roles = {file: _role(file) for file in files}
    known = {role for role in roles.values() if role}
    left: list[str] = []
    splits: dict[str, list[str]] = {}
    for file, role in roles.items():
        if role is None and len(known) > 1:
            left.append(file.path)
        else:
            # One word in some of the names alone says nothing of the others.
            all_named = all(roles.values())
            splits.setdefault((role if all_named or len(known) > 1 else None) or "train", []).append(file.place)
    suffix = os.path.splitext(files[0].name)[1].lower()
    if suffix == ".parquet":
        _check_columns(splits)
    ordered = {name: splits[name] for name in names.SPLIT_WORDS if name in splits}
    return Shards(READERS[suffix], ordered, tuple(left))


def _role(file: File) -> str | None:
    stem = os.path.splitext(file.name)[0]
    for name in (stem, *reversed(file.folders)):
        if (role := names.split_name(name.replace("of", "")) or names.role(name)) is not None:
            return role
    return None


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
