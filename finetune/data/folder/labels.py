"""What tables say of a folder's images, beside what its folders say: columns, splits, which of both is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from finetune.data.columns import TARGET_NAMES
from finetune.data.folder import matching, names, tables
from finetune.data.folder.layout import Layout
from finetune.data.folder.matching import Match
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_CORNERS = {"xmin", "ymin", "xmax", "ymax", "x", "y", "w", "h", "width", "height", "bbox", "box"}
_UNKNOWN: set[Any] = {"-1", "-1.0", "", None, -1}
_TRUE, _FALSE = {"1", "1.0", "true", "True", "TRUE", 1}, {"0", "0.0", "false", "False", "FALSE", 0}


@dataclass
class Labels:
    """Columns beside the images.

    Attributes:
        classes: Columns of class names.
        others: Columns of tables.
        order: Classes of a column whose order is given; else they are sorted.
        roles: As `Layout.roles`, with what tables say.
        left: What was left out, for the line that says it.
        notes: What was read in a way that has to be said.
        used: Tables that name images.
    """

    classes: dict[str, list[str | None]]
    others: dict[str, pa.Array] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=dict)
    roles: list[str | None] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    used: list[Match] = field(default_factory=list)


def join(images: Sequence[File], layout: Layout, found: Sequence[tables.Table]) -> Labels:
    """Bring the tables of a folder to its images.

    Args:
        images: All of them.
        layout: What the folders say.
        found: The tables.

    Raises:
        DatasetError: Tables contradict each other or the folders, or do not say which image they mean.
    """
    labels = Labels(dict(layout.columns), roles=list(layout.roles), notes=list(layout.notes))
    if not found:
        return labels
    has_splits = any(role for role in layout.roles)
    index = matching.Index(images, layout.roles)
    matches = [one for table in found if (one := matching.match(table, index, has_splits)) is not None]
    labels.used = matches = [one for one in matches if one.rows or one.twice]
    if not matches:
        return labels
    _check(images, matches, labels)
    columns = _columns(len(images), matches)
    _several(columns, matches, labels)
    text = all(match.table.text for match in matches)
    _split(images, columns, matches, labels, has_splits)
    _one_hot(columns, labels, {place for match in matches for place in match.rows})
    _folders_or_columns(columns, labels, text)
    for head, values in columns.items():
        labels.others[_free(head, labels)] = tables.typed(values) if text else array(values)
    named = {place for match in matches for place in match.rows}
    without = [
        image.path for place, image in enumerate(images) if place not in named and labels.roles[place] is not None
    ]
    if without:
        where = listing(match.table.file.path for match in matches)
        labels.left.append(f"{len(without)} images without a row in {where} ({listing(without, 3)})")
    return labels


def _check(images: Sequence[File], matches: Sequence[Match], labels: Labels) -> None:
    owner: dict[int, Match] = {}
    for match in matches:
        path = match.table.file.path
        if match.twice:
            raise DatasetError(
                f"{path}: {len(match.twice)} names in column {match.column!r} are those of several images "
                f"({listing(match.twice, 3)}): write their paths from the folder of the table"
            )
        if match.lost:
            labels.left.append(f"{len(match.lost)} rows of {path} without an image ({listing(match.lost, 3)})")
        for place, rows in match.rows.items():
            if place in owner:
                raise DatasetError(
                    f"{owner[place].table.file.path} and {path} both name {images[place].path}: choose one of them by "
                    f"--dataset FOLDER/{path}, or move the other away"
                )
            owner[place] = match
            differ = _differing(match, rows)
            if len(differ) > 1 or any(head.lower().replace("_", "") in _CORNERS for head in differ):
                raise DatasetError(
                    f"{path} has {len(rows)} rows of {images[place].path} that differ in {listing(differ)}: several "
                    "boxes an image (object-detection) are not supported yet; expected one row each, or rows that "
                    "differ in their class alone"
                )


def _differing(match: Match, rows: Sequence[int]) -> list[str]:
    """Columns, besides the images' names, in which rows of one image differ."""
    others = [(head, values) for head, values in match.table.columns.items() if head != match.column]
    return [head for head, values in others if any(values[row] != values[rows[0]] for row in rows[1:])]


def _several(columns: dict[str, list[Any]], matches: Sequence[Match], labels: Labels) -> None:
    """A column in which rows of one image differ becomes lists: the classes of each image, one a row."""
    heads = {head for match in matches for rows in match.rows.values() for head in _differing(match, rows)}
    if len(heads) != 1:
        return
    (head,) = heads
    found: list[list[str] | None] = [None] * len(columns[head])
    for match in matches:
        values = match.table.columns.get(head, [])
        for place, rows in match.rows.items() if values else ():
            found[place] = [str(values[row]) for row in rows if values[row] is not None] or None
    del columns[head]
    folders = {name for name in labels.classes.get("label", []) if name is not None}
    if len(folders) < 2 or all(map(names.is_part, folders)):
        labels.classes = {}
    known = head if any(word in head.lower() for word in (*TARGET_NAMES, "categor", "tag")) else "labels"
    labels.others[_free(known, labels)] = pa.array(found, pa.list_(pa.string()))
    labels.notes.append(f"classes: several rows an image, a class each, in column {head!r}")


def _columns(count: int, matches: Sequence[Match]) -> dict[str, list[Any]]:
    """Values of each image by heading, over all tables."""
    columns: dict[str, list[Any]] = {}
    for match in matches:
        for head, values in match.table.columns.items():
            if head == match.column:
                continue
            column = columns.setdefault(head, [None] * count)
            for place, rows in match.rows.items():
                column[place] = values[rows[0]]
    return columns


def _split(
    images: Sequence[File], columns: dict[str, list[Any]], matches: Sequence[Match], labels: Labels, has_splits: bool
) -> None:
    """Splits that a column says, or the names of tables."""
    named = matching.split_columns(columns)
    if len(named) > 1:
        raise DatasetError(f"{len(named)} columns say the split ({listing(named)}): expected one, rename the others")
    if named:
        said = columns.pop(named[0])
        role_of = matching.split_of(named[0], said) or (lambda value: None)
        for place, value in enumerate(said):
            role = role_of(value)
            if has_splits and role is not None and labels.roles[place] not in (role, None):
                raise DatasetError(
                    f"{images[place].path} lies in a folder of the {labels.roles[place]} split, and column "
                    f"{named[0]!r} of {matches[0].table.file.path} says {value!r}: expected the same; rename the "
                    "column, or move the image"
                )
            if not has_splits:
                labels.roles[place] = role
        if not has_splits:
            labels.notes.append(f"splits: as column {named[0]!r} says")
        _say_unplaced(labels, f"nothing in column {named[0]!r}")
        return
    scopes = {id(match): matching.scope(match.table) for match in matches}
    if has_splits or not all(scopes.values()):
        return
    labels.roles = [None] * len(images)
    for match in matches:
        for place in match.rows:
            labels.roles[place] = scopes[id(match)]
    labels.notes.append(f"splits: by the names of the tables, {listing(match.table.file.path for match in matches)}")
    _say_unplaced(labels, f"no row in {listing(match.table.file.path for match in matches)}")


def _say_unplaced(labels: Labels, why: str) -> None:
    number = sum(role is None for role in labels.roles)
    if number and number < len(labels.roles):
        labels.left.append(f"{number} images with {why}")


def _folders(labels: Labels, rows: set[int]) -> list[tuple[str, int]]:
    """Class folder of each image that has a row, where there are several that could be classes."""
    column = labels.classes.get("label", [])
    named = [(name, place) for place, name in enumerate(column) if name is not None and place in rows]
    distinct = {name for name, _ in named}
    return named if len(distinct) > 1 and not all(map(names.is_part, distinct)) else []


def _one_hot(columns: dict[str, list[Any]], labels: Labels, rows: set[int]) -> None:
    """A column of 0 and 1 for each class becomes the classes, where each image has one."""
    if any(head.lower() in TARGET_NAMES for head in columns):
        return
    known = _TRUE | _FALSE
    heads = [h for h, v in columns.items() if all(isinstance(v[p], str | int | float) and v[p] in known for p in rows)]
    chosen = {place: [head for head in heads if columns[head][place] in _TRUE] for place in rows}
    if len(heads) < 2 or any(len(found) != 1 for found in chosen.values()):
        heads = _yes_or_no(columns, rows)
        chosen = {place: [head for head in heads if columns[head][place] in _TRUE] for place in rows}
    if len(heads) < 2 or not rows:
        return
    count = len(labels.roles)
    said = {(name, chosen[place][0]) for name, place in _folders(labels, rows) if len(chosen[place]) == 1}
    others = bool(said) and any(name != head for name, head in said)
    if others:
        labels.notes.append(f"classes: the folders; the table has columns of yes or no ({listing(heads, 6)})")
    if others or any(len(found) != 1 for found in chosen.values()):
        for head in heads:  # several classes an image, or none: columns of yes or no say so to whoever asks
            known_of = [columns[head][place] if place in chosen else None for place in range(count)]
            values = [None if value in _UNKNOWN else value in _TRUE for value in known_of]
            labels.others[head] = pa.array(values, pa.bool_())
            del columns[head]
        return
    labels.classes = {"label": [next(iter(chosen.get(place, ())), None) for place in range(count)]}
    labels.order["label"] = heads
    labels.notes.append(f"classes: the {len(heads)} columns of 0 and 1 ({listing(heads, 6)})")
    for head in heads:
        del columns[head]


def _yes_or_no(columns: dict[str, list[Any]], rows: set[int]) -> list[str]:
    """Columns of 0 and 1, some of whose entries may be unknown: empty, or -1 where there are zeros too."""
    read = {head: {values[place] for place in rows} for head, values in columns.items() if _hashable(values, rows)}
    heads = [head for head, seen in read.items() if seen <= _TRUE | _FALSE | _UNKNOWN and seen & (_TRUE | _FALSE)]
    return heads if any(read[head] & _FALSE for head in heads) else []


def _hashable(values: Sequence[Any], rows: set[int]) -> bool:
    return all(isinstance(values[place], str | int | float | None) for place in rows)


def _folders_or_columns(columns: dict[str, list[Any]], labels: Labels, text: bool) -> None:
    """Where folders and a column both could be the classes: the same, or which of them, or both to choose from."""
    if "label" in labels.order or not labels.classes or not columns:
        return
    named = [head for head in columns if head.lower() in TARGET_NAMES]
    if "label" not in labels.classes:  # several readings of the folders
        if named:
            labels.notes.append(f"classes: column {named[0]!r} of the table, not the folders")
            labels.classes = {}
        return
    folders = labels.classes["label"]
    distinct = {name for name in folders if name is not None}
    may_learn = named or [head for head, values in columns.items() if len(set(map(str, values))) > 1]
    if may_learn and (len(distinct) < 2 or all(names.is_part(name) for name in distinct)):
        labels.notes.append(f"folders of parts, not classes: {listing(sorted(distinct), 6)}") if len(
            distinct
        ) > 1 else None
        labels.classes = {}
        return
    for head in list(columns):
        pairs = {(f, str(c)) for f, c in zip(folders, columns[head], strict=True) if f is not None and c is not None}
        if pairs and all(f == c for f, c in pairs):
            labels.classes["label"] = folders = [
                f if f is not None else None if c is None else str(c)
                for f, c in zip(folders, columns[head], strict=True)
            ]
            del columns[head]
        elif head in named and len(pairs) == len(dict(pairs)) == len({c for _, c in pairs}) > 1:
            del columns[head]  # numbers or other names of the same classes
            labels.notes.append(f"classes: the folders; column {head!r} says the same in other words")
    named = [head for head in columns if head.lower() in TARGET_NAMES]
    if not named:
        if columns:
            labels.notes.append(
                "classes: the folders; to learn a column of the table name it by --target-column "
                f"({listing(columns, 6)})"
            )
        return
    labels.classes = {"folder": folders}
    for head in named:
        values = [None if value is None else str(value) for value in columns.pop(head)]
        labels.classes[head] = values
    labels.notes.append(f"warning: the folders and column {named[0]!r} of the table say different classes")


def _free(head: str, labels: Labels) -> str:
    while head == "image" or head in labels.classes or head in labels.others:
        head += "_"
    return head


def array(values: Sequence[Any]) -> pa.Array:
    """A column of whatever a JSON file or parquet holds; mixed kinds as text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
