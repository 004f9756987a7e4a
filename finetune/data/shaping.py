"""What a dataset says in other words, as plain columns: formats, a column of splits, JSON, paths, base64."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image, IterableDataset, Value
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from finetune.console import log
from finetune.data.columns import is_image, is_mask_name
from finetune.data.folder import mask_columns, names
from finetune.data.folder.matching import split_of
from finetune.data.folder.tree import image_suffixes
from finetune.errors import listing

_OBJECTS = re.compile(r"box|annot|object|polygon|segment|rle|labels|categories|classes", re.IGNORECASE)
_LOOKED_AT = 100  # values by which a column of paths is told
_MAGIC = (
    "iVBORw0KGgo",
    "/9j/",
    "R0lGOD",
    "UklGR",
    "Qk0",
    "SUkq",
    "TU0A",
)  # of PNG, JPEG, GIF, WebP, BMP, TIFF in base64


def plain(splits: Any, folder: Path | None = None, roots: Sequence[str] | None = None) -> Any:
    """The same dataset in plain columns, as far as it is at hand; of a stream see `streamed`.

    Args:
        splits: A `DatasetDict`, or what streams.
        folder: That paths in its columns start from.
        roots: Folders in which its rows may name files, see `finetune.data.outside`.
    """
    if not isinstance(splits, DatasetDict):
        return splits
    made = {name: _unformatted(name, split) for name, split in splits.items()}
    made = {name: _with_objects(_with_json(split)) for name, split in made.items()}
    made = {name: _with_masks(_with_images(split, folder), folder) for name, split in made.items()}
    made = {name: mask_columns.read(split, folder, roots) for name, split in made.items()}
    made = _by_column(made)
    same = made.keys() == splits.keys() and all(made[name] is splits[name] for name in made)
    return splits if same else DatasetDict(made)


def _unformatted(name: str, split: Dataset) -> Dataset:
    if split.format["type"] is None and split.format["columns"] == split.column_names:
        return split
    log.info(f"the format {split.format['type']!r} of {name!r} is taken off: images are read as they are stored")
    return split.with_format(None)


def _with_json(split: Dataset) -> Dataset:
    """Fields of the JSON beside each image of a WebDataset, as columns."""
    heads = _json_heads(split.features)
    values = split["json"][:] if heads else []
    for field, head in heads.items():
        split = split.add_column(head, _json_values(values, field), feature=split.features["json"][field])
    return split.remove_columns("json") if heads else split


def streamed(stream: IterableDataset) -> IterableDataset:
    """A stream with the fields of a WebDataset's JSON as columns; nothing is read for it, and no image decoded."""
    heads = _json_heads(stream.features or {})
    if not heads:
        return stream
    fields = {head: stream.features["json"][field] for field, head in heads.items()}
    features = Features({name: of for name, of in stream.features.items() if name != "json"} | fields)
    columns = functools.partial(_json_columns, heads=heads, schema=features.arrow_schema)  # other processes are sent it
    # One row at a time: tables of rows in which a field is missing and of others cannot be joined.
    arrow = stream.with_format("arrow")
    return arrow.map(columns, batched=True, batch_size=1, remove_columns="json", features=features)


def _json_heads(features: Mapping[str, Any]) -> dict[str, str]:
    """By field of the JSON beside each image of a WebDataset, the name of its column; nothing of other datasets."""
    fields = features.get("json")
    if "__key__" not in features or not isinstance(fields, dict):
        return {}
    return {field: field if field not in features else f"json.{field}" for field in fields}


def _json_columns(table: pa.Table, heads: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """Of the types of the whole stream: a value that is missing in all these rows would be of none."""
    values = table["json"].to_pylist()
    fields = {head: pa.array(_json_values(values, field), schema.field(head).type) for field, head in heads.items()}
    return pa.table({name: fields[name] if name in fields else table[name] for name in schema.names}).cast(schema)


def _json_values(values: list[dict[str, Any] | None], field: str) -> list[Any]:
    return [None if value is None else value.get(field) for value in values]


def _with_objects(split: Dataset) -> Dataset:
    """Text that is JSON of boxes, or of what belongs to them, as columns; other text stays as it is."""
    for head, feature in split.features.items():
        if not (isinstance(feature, Value) and feature.dtype in ("string", "large_string") and _OBJECTS.search(head)):
            continue
        some = [text for text in split[head][:_LOOKED_AT] if text]
        if not some or any(_parsed(text) is None for text in some):
            continue
        texts = split[head][:]
        values = [None if not text else _parsed(text) for text in texts]
        if any(value is None and text for value, text in zip(values, texts, strict=True)):
            continue
        try:
            column = pa.array(values)
        except pa.ArrowException:  # of mixed kinds
            continue
        split = split.remove_columns(head).add_column(head, column)
        log.info(f"column {head!r} holds JSON, which is read")
    return split


def _parsed(text: str) -> Any:
    """What JSON says; None of other text."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list | dict) else None


def _with_images(split: Dataset, folder: Path | None) -> Dataset:
    """Text that is an image, by its path from the folder or as base64, as an image; where there are no others."""
    if any(is_image(feature) for feature in split.features.values()):
        return split
    for head, feature in split.features.items():
        if not (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
            continue
        some = [value for value in split[head][:_LOOKED_AT] if value]
        if some and folder is not None and all(_is_file(folder, value) for value in some):
            return with_paths(split, head, folder)
        if some and all(_is_base64(value) for value in some[:3]):
            log.info(f"column {head!r} holds images as base64")
            features = Features(split.features | {head: Image(decode=False)})

            def decoded(values: list[str | None], head: str = head) -> dict[str, list[Any]]:
                return {head: [{"bytes": _content(value), "path": None} for value in values]}

            split = split.map(decoded, input_columns=head, batched=True, batch_size=100, features=features)
            return split.cast_column(head, Image())
    return split


def _with_masks(split: Dataset, folder: Path | None) -> Dataset:
    """Paths of masks, in columns that are called so, as images; where images are there whose masks they could be."""
    if folder is None or not any(is_image(feature) for feature in split.features.values()):
        return split
    for head, feature in list(split.features.items()):
        if not is_mask_name(head) or not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
            continue
        some = [value for value in split.select_columns([head])[:_LOOKED_AT][head] if value]
        if some and all(_is_file(folder, value) for value in some):
            split = with_paths(split, head, folder)
    return split


def _is_file(folder: Path, value: str) -> bool:
    if len(value) > 1000 or "://" in value or Path(value).suffix.lower() not in image_suffixes():
        return False
    return (folder / value.replace("\\", "/")).is_file()


def with_paths(split: Dataset, head: str, folder: Path) -> Dataset:
    """The same dataset with a column of paths as images.

    Args:
        split: The dataset.
        head: Name of the column.
        folder: That relative paths start from.
    """
    values = split[head][:]
    paths = [None if value is None else str(folder / value.replace("\\", "/")) for value in values]
    arrays = {name: split.with_format("arrow")[:][name] for name in split.column_names if name != head}
    images = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )
    features = Features({head: Image()} | {name: f for name, f in split.features.items() if name != head})
    table = InMemoryTable(pa.table({head: images} | arrays).cast(features.arrow_schema))
    key = hashlib.sha256(f"{split._fingerprint} {head} {folder}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Dataset(table, DatasetInfo(features=features), split.split, fingerprint=key)


def _is_base64(value: str) -> bool:
    return value.removeprefix("data:image/")[:60].partition("base64,")[2].startswith(_MAGIC) or (
        len(value) > 60 and value.startswith(_MAGIC) and _opens(_content(value))
    )


def _content(value: str | None) -> bytes | None:
    """Bytes of base64, with or without the head of a data URI; none where it is damaged."""
    if value is None:
        return None
    try:
        return base64.b64decode(value.partition("base64,")[2] if value.startswith("data:") else value)
    except (binascii.Error, ValueError):
        return b""


def _opens(content: bytes | None) -> bool:
    try:
        with PILImage.open(io.BytesIO(content or b"")):
            return True
    except (OSError, PILImage.DecompressionBombError):
        return False


def _by_column(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """The splits that a column of the only one says."""
    if len(splits) != 1:
        return splits
    whole = next(iter(splits.values()))
    for head, feature in whole.features.items():
        if not isinstance(feature, Value | ClassLabel) or not (split_of(head, ["train"]) or split_of(head, [True])):
            continue
        values: list[Any] = whole[head][:]
        if isinstance(feature, ClassLabel):
            values = [None if value in (None, -1) else feature.int2str(value) for value in values]
        if (role_of := split_of(head, values)) is None:
            continue
        rows: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            rows.setdefault(role_of(value) or "", []).append(row)
        without = rows.pop("", [])
        counts = listing(f"{len(found)} {name}" for name, found in rows.items())
        log.info(f"splits: as column {head!r} says ({counts})")
        if without:
            log.info(f"not read: {len(without)} rows with nothing in column {head!r}")
        rest = whole.remove_columns(head)
        return {name: rest.select(rows[name]) for name in names.SPLIT_WORDS if name in rows}
    return splits
