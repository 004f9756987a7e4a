"""What a dataset may make us read: files in its own folder. Its rows and its card come from strangers.

A path in a row is looked at once, when the dataset is opened, and what lies elsewhere is marked in the row itself: it
stays refused in every process that gets the row.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Dataset, DatasetDict, config
from huggingface_hub import constants

from finetune.data.columns import is_image
from finetune.data.features import leaves
from finetune.data.images import MARK, VARIABLE
from finetune.errors import DatasetError

_LONGEST = 4096
_CARDS = ("README.md", ".huggingface.yaml")


def roots_of_folder(folder: Path) -> tuple[str, ...]:
    """Where the rows of a local dataset may name files; the Hub's cache has the files of what was downloaded to it."""
    given = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return tuple(os.path.realpath(part) for part in (str(folder), constants.HF_HUB_CACHE, *given))


def roots_of_hub() -> tuple[str, ...]:
    """Where those of a dataset of the Hub may: in the caches."""
    return (*roots_of_folder(Path(constants.HF_HUB_CACHE)), os.path.realpath(config.HF_DATASETS_CACHE))


def guarded(splits: DatasetDict, column: str, roots: Sequence[str] | None) -> DatasetDict:
    """Splits whose rows name no file outside of some folders; the rows that did are refused when they are read.

    Args:
        splits: Of a dataset.
        column: Its images: encoded, or by path; a relative path is one in the first of the folders. Lists of images
            and structs that hold some, too.
        roots: The folders, without links in them; None where the dataset is the user's own, in memory.
    """
    if roots is None:
        return splits
    return DatasetDict({name: _guarded(split, column, roots) for name, split in splits.items()})


def _guarded(split: Dataset, column: str, roots: Sequence[str]) -> Dataset:
    if column not in split.column_names:
        return split
    values: Any = split.data.column(column)
    place = split.data.column_names.index(column)
    before = values.chunks  # other objects each time
    chunks = [_checked(chunk, roots) for chunk in before]
    if all(new is old for new, old in zip(chunks, before, strict=True)):
        return split
    table = split.data.set_column(place, split.data.field(place), pa.chunked_array(chunks, type=values.type))
    key = hashlib.sha256(f"{split._fingerprint} {column} {list(roots)}".encode()).hexdigest()[:16]
    return Dataset(table, info=split.info, split=split.split, indices_table=split._indices, fingerprint=key)


def _checked(chunk: Any, roots: Sequence[str]) -> Any:
    """A chunk of the column, the same object where nothing in it is changed; lists of images are looked into."""
    if hasattr(chunk.type, "value_type"):
        return _checked_list(chunk, roots)
    if pa.types.is_struct(chunk.type):
        names = [field.name for field in chunk.type]
        if "path" not in names:
            return _checked_struct(chunk, roots)
        paths = chunk.field("path")
        if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
            return chunk
        named = pc.is_valid(chunk)
        if "bytes" in names:
            named = pc.and_(named, pc.is_null(chunk.field("bytes")))
    elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
        paths, named = chunk, pc.is_valid(chunk)
    else:
        return chunk
    places = _places_of(named)
    if not places:
        return chunk
    texts = paths.to_pylist()
    changed = False
    for place in places:
        if texts[place] is not None and (new := checked(texts[place], roots)) != texts[place]:
            texts[place], changed = new, True
    if not changed:
        return chunk
    fixed = pa.array(texts, paths.type)
    if not pa.types.is_struct(chunk.type):
        return fixed
    fields = [fixed if name == "path" else chunk.field(name) for name in names]
    return pa.StructArray.from_arrays(fields, fields=list(chunk.type), mask=pc.is_null(chunk))


def _checked_list(chunk: Any, roots: Sequence[str]) -> Any:
    """The same of a list, whose texts are no files: what names one is an image."""
    if not _holds_images(chunk.type):
        return chunk
    plain = chunk.cast(pa.large_list(chunk.type.value_field))  # of whatever kind, of fixed lengths or not
    inner = plain.flatten()
    if (fixed := _checked(inner, roots)) is inner:
        return chunk
    lengths = pc.fill_null(pc.list_value_length(plain), 0).to_numpy()
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(ends, fixed, type=plain.type, mask=pc.is_null(plain)).cast(chunk.type)


def _checked_struct(chunk: Any, roots: Sequence[str]) -> Any:
    """The same of a struct."""
    before = [chunk.field(place) for place in range(chunk.type.num_fields)]
    after = [_checked(inner, roots) if _holds_images(inner.type) else inner for inner in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return chunk
    return pa.StructArray.from_arrays(after, fields=list(chunk.type), mask=pc.is_null(chunk))


def _holds_images(kind: Any) -> bool:
    """Whether an Arrow type has images somewhere in it."""
    if pa.types.is_struct(kind):
        fields = list(kind)
        return {"path", "bytes"} <= {field.name for field in fields} or any(_holds_images(f.type) for f in fields)
    return hasattr(kind, "value_type") and _holds_images(kind.value_type)


def _places_of(mask: Any) -> list[int]:
    """Places at which a mask is true."""
    found: list[int] = pc.indices_nonzero(mask).to_pylist()
    return found


def checked(path: str, roots: Sequence[str]) -> str:
    """A path that may be read, absolute; of one that may not, with `MARK` before it. Addresses are judged elsewhere."""
    if "://" in path or path.startswith(MARK) or len(path) > _LONGEST:  # which no file system takes for a path
        return path
    whole = os.path.normpath(os.path.join(roots[0], path))
    return path if whole == path and _within(whole, roots) else whole if _within(whole, roots) else MARK + path


def _within(path: str, roots: Sequence[str]) -> bool:
    folder, name = os.path.split(path)
    real = os.path.join(_real(folder), name)
    if os.path.islink(real):
        real = os.path.realpath(real)
    return any(real.startswith(os.path.join(root, "")) for root in roots)


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def of_stream(value: Any) -> Any:
    """A value of a stream; one that is named by a path of this machine is marked, for no shard has such files."""
    if isinstance(value, str):
        value = {"bytes": None, "path": value}
    if isinstance(value, dict) and value.get("bytes") is None and "://" not in (value.get("path") or "://"):
        return {"bytes": None, "path": f"{MARK}{value['path']}"}
    return value


def check_card(folder: Path) -> None:
    """Raise where a folder's card would make `datasets` fetch an address, or read what lies elsewhere.

    Raises:
        DatasetError: It names what.
    """
    for name in _CARDS:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if name.endswith(".md"):
            parts = text.lstrip("\ufeff").split("---", 2)
            text = parts[1] if len(parts) == 3 and not parts[0].strip() else ""
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # `datasets` says so
        for place in _places(found):
            if "://" in place or "::" in place or os.path.isabs(place) or ".." in Path(place).parts:
                raise DatasetError(
                    f"{folder / name} names {place!r} as data: only files in the folder are read; put them there, or "
                    "take the line out"
                )


def _places(found: Any, within: bool = False) -> Iterator[str]:
    """What stands under `data_files`, `data_dir` and `path` of them, at any depth."""
    if isinstance(found, str) and within:
        yield found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _places(value, (within and key != "split") or key in ("data_files", "data_dir"))
    elif isinstance(found, list):
        for value in found:
            yield from _places(value, within)


def all_guarded(splits: DatasetDict, columns: Sequence[str], roots: Sequence[str] | None) -> DatasetDict:
    """The same for several columns: the first one's values are images, of the others those that are declared so."""
    for column in dict.fromkeys(columns):
        kinds = [split.features[column] for split in splits.values() if column in split.features]
        if column == columns[0] or any(is_image(leaf.feature) for of in kinds for leaf in leaves((column,), of)):
            splits = guarded(splits, column, roots)
    return splits


def of_source(opened: Any, *columns: str) -> Any:
    """A `finetune.data.source.Source` with guarded rows, see `all_guarded`."""
    return dataclasses.replace(opened, splits=all_guarded(opened.splits, columns, opened.roots))
