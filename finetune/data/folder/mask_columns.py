"""Columns that name masks of objects by their paths -> the same with images, each by the path of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, List, Value
from datasets.table import InMemoryTable

from finetune.data.columns import is_image
from finetune.data.features import Leaf, element, leaves
from finetune.data.folder import named

_LOOKED_AT = 100  # values by which a column of paths is told


def read(split: Dataset, folder: Path | None, roots: Sequence[str] | None) -> Dataset:
    """The same dataset with masks where paths of them stand in lists; files that are not there are said by who reads.

    Args:
        split: The dataset.
        folder: That paths start from, or from the folder of their image, or one between.
        roots: Folders in which files may be read; of `folder` when not given.
    """
    base = folder or (Path(roots[0]) if roots else None)
    images = [name for name, feature in split.features.items() if is_image(feature)]
    if base is None or not images:
        return split
    for head, feature in list(split.features.items()):
        for leaf in leaves((head,), feature):
            if not _may_be(leaf) or not _are_paths(split, leaf):
                continue
            split = _with_images(split, leaf, images[0], base, roots)
    return split


def _may_be(leaf: Leaf) -> bool:
    text = isinstance(leaf.feature, Value) and leaf.feature.dtype in ("string", "large_string")
    return text and leaf.lists > 0 and leaf.name not in ("counts", "size") and any(map(named.is_key, leaf.path))


def _are_paths(split: Dataset, leaf: Leaf) -> bool:
    some = split.select_columns([leaf.path[0]])[:_LOOKED_AT][leaf.path[0]]
    texts = [text for value in some for text in _values(value, leaf.path[1:]) if text]
    return bool(texts) and all(named.is_path(text) for text in texts)


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _values(inner, path)
    elif path and isinstance(value, dict):
        yield from _values(value.get(path[0]), path[1:])
    elif not path:
        yield value


def _with_images(split: Dataset, leaf: Leaf, image: str, base: Path, roots: Sequence[str] | None) -> Dataset:
    """The paths of a leaf, from the folder of the row's image or one above it, as images."""
    head = leaf.path[0]
    whole = split.with_format("arrow")[:]
    places = [str(path or "") for path in pc.struct_field(whole[image], "path").to_pylist()]
    values = [
        _changed(value, leaf.path[1:], partial(_image, starts=_starts(place, base), base=base, roots=roots))
        for value, place in zip(whole[head].to_pylist(), places, strict=True)
    ]
    features = Features(split.features | {head: _feature(split.features[head], leaf)})
    arrays = {name: whole[name] for name in split.column_names if name != head}
    arrays[head] = pa.array(values, features.arrow_schema.field(head).type)
    made: Any = InMemoryTable(pa.table({name: arrays[name] for name in features}).cast(features.arrow_schema))
    key = hashlib.sha256(f"{split._fingerprint} {leaf.path} {base}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Dataset(made, DatasetInfo(features=features), split.split, fingerprint=key)


def _starts(place: str, base: Path) -> list[Path]:
    """The folder of an image that lies in the dataset's."""
    parent = Path(place).parent
    return [parent] if place and parent.is_relative_to(base) else []


def _image(value: str | None, starts: list[Path], base: Path, roots: Sequence[str] | None) -> dict[str, Any] | None:
    return {"bytes": None, "path": named.resolved(value, starts, base, roots)} if value else None


def _changed(value: Any, path: Sequence[str], change: Callable[[Any], Any]) -> Any:
    """A value with another one at each end of a path of names."""
    if isinstance(value, list):
        return [_changed(inner, path, change) for inner in value]
    if path and isinstance(value, dict):
        return value | {path[0]: _changed(value.get(path[0]), path[1:], change)}
    return change(value)


def _feature(feature: Any, leaf: Leaf) -> Any:
    """The feature of a column with an image in place of a leaf."""

    def of(inner: Any, path: Sequence[str]) -> Any:
        if isinstance(inner, dict) and path:
            return inner | {path[0]: of(inner[path[0]], path[1:])}
        if isinstance(inner, list):
            return List(of(inner[0], path))
        if (held := element(inner)) is not None:
            return type(inner)(of(held, path))
        return Image()

    return of(feature, leaf.path[1:])
