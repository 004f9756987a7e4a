"""A folder of images, tables or data files -> DatasetDict, or the files that a reader of `datasets` takes.

`datasets` reads folders too, but lets files drop out in silence: where a name has the word `test` it reads nothing
else, it does not follow links, mixes the images of `Train/` and `Test/`, takes 001 in a table for 1 and NA for nothing.
Here what a folder is follows from its whole tree at once, and every file is either read or said to be left out.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image, NamedSplit
from datasets.table import InMemoryTable

from finetune.console import log, shown
from finetune.data.columns import UNLABELLED
from finetune.data.folder import (
    archives,
    labels,
    layout,
    matching,
    named,
    names,
    pairs,
    references,
    shards,
    tables,
    tree,
)
from finetune.data.folder.boxes import find as boxes
from finetune.data.folder.boxes import panoptic, with_objects
from finetune.data.folder.names import SPLIT_WORDS
from finetune.data.folder.shards import Shards
from finetune.data.folder.tables import Table
from finetune.data.folder.tree import File, Tree
from finetune.errors import DatasetError, listing


@dataclass
class Folder:
    """What a folder turned out to be.

    Attributes:
        splits: By name; images are not decoded.
        remark: Why there is nothing to learn, where there is not.
    """

    splits: DatasetDict
    remark: str = ""


@dataclass
class _Found:
    """Files of a tree by what they are for, and what was left, by reason."""

    images: list[File]
    tables: list[Table] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def read(root: Path, only: Path | None = None) -> Folder | Shards | None:
    """Decide what a folder is, and read it as far as it holds images and tables.

    Args:
        root: The folder.
        only: The one table in it that counts; all do when not given.

    Returns:
        The images; or files for a reader of `datasets`; or None where there is nothing that we know.

    Raises:
        DatasetError: It can be read in several ways, or not at all.
    """
    found = tree.walk(root)
    data = _data(found, only)
    if data:
        planned = shards.plan(data)
        _say_shards(planned, found, data)
        return planned
    found = _unpacked(found)
    whole, found = found, named.without(found)
    drawn = panoptic.find(_with(whole, only))
    found = panoptic.without(found, panoptic.find(whole) if only else drawn)
    chosen = only is not None and bool(drawn)
    if not chosen and (paired := pairs.find(found.images)) is not None:
        return _of_pairs(root, found, paired)
    sources = _tables(found, only)
    annotated = boxes.find(_with(found, only), sources, drawn)
    if annotated is not None:
        return Folder(with_objects.splits(root, whole, found, annotated))
    if not found.images:
        return _of_tables(sources) if sources else None
    return _of_images(root, found, sources)


def _with(found: Tree, only: Path | None) -> Tree:
    """The tree with one file beside the images, where that alone counts."""
    if only is None:
        return found
    chosen = [file for file in (*found.tables, *found.others) if file.place == str(only)]
    return Tree(images=found.images, others=chosen)


def read_table(path: Path) -> Folder | Shards | None:
    """Read a table, and the images that it names, in its own folder or elsewhere.

    Args:
        path: Of the table.

    Raises:
        DatasetError: It is damaged, or can be read in several ways.
    """
    table = tables.read(File((), shown(path.name), str(path)))
    if table is None:
        return _of_json(path) if path.suffix.lower() == ".json" else None
    if any(_are_files(path.parent, values) for values in table.columns.values()):
        return _of_tables([table])  # wherever the images lie: nothing else of the folder counts
    return read(path.parent, only=path)


def _of_json(path: Path) -> Folder | Shards | None:
    """The images that a file is about: beside it, or beside its folder where that is one of annotations."""
    found = read(path.parent, only=path)
    above = names.kind(path.parent.name) == "masks"
    return read(path.parent.parent, only=path) if found is None and above else found


def _are_files(folder: Path, values: Sequence[Any]) -> bool:
    some = [value for value in values[:100] if value is not None]
    return bool(some) and all(isinstance(value, str) and _is_image_file(folder, value) for value in some)


def _is_image_file(folder: Path, value: str) -> bool:
    place = Path(value.replace("\\", "/"))  # tables come from other systems
    return place.suffix.lower() in tree.image_suffixes() and (folder / place).is_file()


def _data(found: Tree, only: Path | None) -> list[File]:
    """The files that are the data set, of the first kind there is; parquet files beside images may be tables."""
    if only is not None:
        return []
    by_suffix: dict[str, list[File]] = {}
    for file in found.data:
        suffix = os.path.splitext(file.name)[1].lower()
        if suffix == ".parquet" and found.images and not shards.holds_images(file.place):
            found.tables.append(file)
        elif suffix == ".tar" and archives.is_plain(file.place):
            found.archives.append(file)
        else:
            by_suffix.setdefault(suffix, []).append(file)
    kind = next((suffix for suffix in shards.READERS if suffix in by_suffix), None)
    return by_suffix[kind] if kind else []


def _tables(found: Tree, only: Path | None) -> list[Table]:
    """The tables that can be read; where folders could be the classes, one that cannot is only said."""
    sources = []
    classes = len({image.folders for image in found.images}) > 1
    for file in found.tables:
        if only is not None and file.place != str(only):
            continue
        try:
            table = tables.read(file)
        except DatasetError as error:
            if not classes or only is not None:
                raise
            log.info(f"warning: {error}")
            continue
        if table is not None:
            sources.append(table)
    return sources


def _unpacked(found: Tree) -> Tree:
    """The same tree with what its archives hold, where there are no images beside them."""
    if found.images or not found.archives:
        return found
    inner = Tree(tables=found.tables, others=found.others, readme=found.readme)
    for file in found.archives:
        name = file.name.lower()
        stem = file.name[: -len(next(s for s in (*tree.ARCHIVES, ".tar") if name.endswith(s)))]
        above = file.folders if len(found.archives) == 1 else (*file.folders, stem)
        held = tree.walk(archives.unpack(file.place), above)
        inner.images += held.images
        inner.tables = inner.tables + held.tables
        inner.others = inner.others + held.others + held.data + held.archives
    inner.images.sort(key=lambda file: file.path)
    return inner


def _say_shards(planned: Shards, found: Tree, data: Sequence[File]) -> None:
    counts = ", ".join(f"{len(paths)} as {name}" for name, paths in planned.files.items())
    kind = os.path.splitext(data[0].name)[1]
    log.info(f"read: {len(data) - len(planned.left)} {kind} files ({counts})")
    left = []
    if found.images:
        where = sorted({file.folders[0] if file.folders else "." for file in found.images})
        left.append(f"{len(found.images)} pictures beside them (in {listing(where, 3)})")
    taken = {id(file) for file in data}
    others = [f for f in (*found.tables, *found.data, *found.archives, *found.others) if id(f) not in taken]
    if others:
        left.append(f"{_by_suffix(others)} files")
    if left:
        log.info(f"not read: {'; '.join(left)}")
    if planned.left:
        log.info(
            f"warning: left out: {len(planned.left)} files that no split's name is on ({listing(planned.left, 3)})"
        )


def _by_suffix(files: Sequence[File]) -> str:
    counts = Counter(os.path.splitext(file.name.lower())[1] or "no suffix" for file in files)
    return listing((f"{n} {suffix}" for suffix, n in counts.most_common()), 6)


def _of_images(root: Path, found: Tree, sources: Sequence[Table]) -> Folder:
    decided = layout.decide([image.folders for image in found.images], found.readme)
    shown_only = [
        place
        for place, image in enumerate(found.images)
        if image.folders[:1] and image.folders[0] in decided.illustrations
    ]
    joined = labels.join(found.images, decided, [t for t in sources if "submission" not in t.file.name.lower()])
    columns = _class_columns(joined)
    kept: dict[str, list[int]] = {}
    outside = set(shown_only)
    for place, role in enumerate(joined.roles):
        if role is not None and place not in outside:
            kept.setdefault(role or "train", []).append(place)
    used = {id(match.table.file) for match in joined.used}
    unread = [*found.others, *(f for f in (*found.tables, *found.archives, *found.data) if id(f) not in used)]
    _say(root, found, decided, joined, kept, unread)
    key = _key(root, found, joined, columns)
    splits = DatasetDict(
        {name: _dataset(found.images, kept[name], columns, joined, name, key) for name in SPLIT_WORDS if name in kept}
    )
    if not splits:
        raise DatasetError(f"no image of {shown(str(root))} belongs to a split: {'; '.join(joined.left)}")
    return Folder(splits, "" if columns or joined.others else _nothing_to_learn(kept, unread))


def _of_pairs(root: Path, found: Tree, paired: pairs.Pairs) -> Folder:
    """Images and masks: two columns."""
    key = hashlib.sha256(os.fsencode(root))
    for file in found.images:
        key.update(f"{file.path} {file.state}\n".encode())
    counts = ", ".join(f"{len(rows)} as {name}" for name, rows in paired.rows.items())
    log.info(f"read: {sum(map(len, paired.rows.values()))} images ({counts}); {paired.how}")
    unread = [*found.tables, *found.others, *found.archives, *found.data]
    left = [f"{_by_suffix(unread)} files, no images"] if unread else []
    if left or paired.left:
        log.info(f"not read: {'; '.join([*left, *paired.left])}")
    return Folder(
        DatasetDict(
            {name: pairs.dataset(rows, name, key.hexdigest(), references.of) for name, rows in paired.rows.items()}
        )
    )


def _nothing_to_learn(kept: dict[str, list[int]], unread: Sequence[File]) -> str:
    counts = ", ".join(f"{len(kept[name])} as {name}" for name in SPLIT_WORDS if name in kept)
    near = [f.path for f in unread if os.path.splitext(f.name)[1].lower() in tree.TABLE_SUFFIXES]
    beside = f" ({listing(near, 3)} names none)" if near else ""
    return f"images ({counts}) without class folders and without a table that names them{beside}"


def _class_columns(joined: labels.Labels) -> dict[str, tuple[list[str], list[str | None]]]:
    """Names in their order and values, by column of classes."""
    return {
        head: (joined.order.get(head) or sorted({v for v in values if v is not None}), values)
        for head, values in joined.classes.items()
        if any(value is not None for value in values)
    }


def _dataset(
    images: Sequence[File],
    places: Sequence[int],
    columns: dict[str, tuple[list[str], list[str | None]]],
    joined: labels.Labels,
    split: str,
    key: str,
) -> Dataset:
    features = Features(image=Image())
    arrays: dict[str, Any] = {"image": references.of([images[place] for place in places])}
    for head, (classes, values) in columns.items():
        index = {name: number for number, name in enumerate(classes)}
        features[head] = ClassLabel(names=classes)
        chosen = [UNLABELLED if (value := values[p]) is None else index[value] for p in places]
        arrays[head] = pa.array(chosen, pa.int64())
    if joined.others:
        schema = pa.schema([(head, array.type) for head, array in joined.others.items()])
        features.update(Features.from_arrow_schema(schema))
        rows = pa.array(places, pa.int64())
        arrays.update({head: array.take(rows) for head, array in joined.others.items()})
    table = InMemoryTable.from_pydict(arrays, schema=features.arrow_schema)
    own = hashlib.sha256(f"{key} {split}".encode()).hexdigest()[:16]
    return Dataset(table, DatasetInfo(features=features), NamedSplit(split), fingerprint=own)


def _key(root: Path, found: Tree, joined: labels.Labels, columns: dict[str, tuple[list[str], list[str | None]]]) -> str:
    key = hashlib.sha256(os.fsencode(root))
    for file in (*found.images, *(match.table.file for match in joined.used)):
        key.update(f"{file.path} {file.state}\n".encode())
    key.update(repr([(head, classes) for head, (classes, _) in columns.items()] + list(joined.others)).encode())
    return key.hexdigest()


def _say(
    root: Path,
    found: Tree,
    decided: layout.Layout,
    joined: labels.Labels,
    kept: dict[str, list[int]],
    unread: Sequence[File],
) -> None:
    """One line of what was taken, one of what was left, and what has to be known of either."""
    counts = ", ".join(f"{len(kept[name])} as {name}" for name in SPLIT_WORDS if name in kept)
    by = f" and {listing(match.table.file.path for match in joined.used)}" if joined.used else ""
    classes = ", ".join(f"{head} ({len(set(v) - {None})})" for head, v in joined.classes.items())
    log.info(
        f"read: {sum(map(len, kept.values()))} images ({counts}){by}{f'; classes in {classes}' if classes else ''}"
    )
    left = [f"{_by_suffix(unread)} files, no images"] if unread else []
    left += [f"{n} pictures of the README in {name}" for name, n in decided.illustrations.items()]
    if left or joined.left:
        log.info(f"not read: {'; '.join([*left, *joined.left])}")
    for note in joined.notes:
        log.info(note)
    if decided.outside:
        among = listing((f"{count} in {folder}" for folder, count in decided.outside.most_common()), 6)
        log.info(f"warning: left out: {sum(decided.outside.values())} images outside of the split folders ({among})")
    if empty := _empty(root, found.images):
        log.info(f"warning: no image in {listing(empty)}: no such class")


def _empty(root: Path, images: Sequence[File]) -> list[str]:
    """Folders beside class folders without any file."""
    tops = {image.folders[0] for image in images if len(image.folders) == 1}
    if not tops:
        return []
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"]
    known = {image.folders[0] for image in images if image.folders}
    return sorted(name for path in folders if (name := shown(path.name)) not in known)


def _of_tables(sources: Sequence[Table]) -> Folder:
    """Tables without images beside: rows of paths, or of whatever the caller knows to be images."""
    scopes = [matching.scope(table) for table in sources]
    roles = [(role if all(scopes) else None) or "train" for role in scopes]
    heads = dict.fromkeys(head for table in sources for head in table.columns)
    whole = {head: [v for t in sources for v in t.columns.get(head, [None] * len(t))] for head in heads}
    text = all(table.text for table in sources)
    table = pa.table({h: tables.typed(values) if text else labels.array(values) for h, values in whole.items()})
    of_row = [role for role, source in zip(roles, sources, strict=True) for _ in range(len(source))]
    splits = {}
    for name in SPLIT_WORDS:
        rows = [row for row, role in enumerate(of_row) if role == name]
        if rows:
            splits[name] = Dataset(InMemoryTable(table.take(pa.array(rows))), split=NamedSplit(name))
    log.info(f"read: {sum(map(len, sources))} rows of {listing(table.file.path for table in sources)}")
    return Folder(DatasetDict(splits), _absent(sources))


def _absent(sources: Sequence[Table]) -> str:
    """Which table names images that are not there, as far as the suffixes of its values tell."""
    for table in sources:
        for head, values in table.columns.items():
            some = [value for value in values[:20] if isinstance(value, str)]
            named = some and all(Path(value).suffix.lower() in tree.image_suffixes() for value in some)
            if named and not _are_files(Path(table.file.place).parent, some):
                return f"column {head!r} of {table.file.path} names images that are not there ({listing(some, 2)})"
    return ""
