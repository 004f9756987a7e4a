"""Tables of one row a box, its corners in columns of their own: as TensorFlow's and RetinaNet's examples have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune.data.columns import TARGET_NAMES
from finetune.data.folder import matching
from finetune.data.folder.boxes.objects import Annotations, Drawn
from finetune.data.folder.tables import Table
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_SIDES = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
_CLASSES = (*TARGET_NAMES, "classname", "labelname", "name", "classid", "categoryid")


def sides(table: Table) -> list[str]:
    """Headings of the four columns of corners; empty where a table has none."""
    plain = {re.sub(r"[\W_]", "", head.lower()): head for head in table.columns}
    return next(([plain[name] for name in names] for names in _SIDES if all(name in plain for name in names)), [])


def read(tables: Sequence[Table], images: Sequence[File], roles: Sequence[str | None]) -> Annotations | None:
    """Objects of the images that tables of corners name; None where there is no such table.

    Raises:
        DatasetError: A corner is no number.
    """
    boxed = [(table, heads) for table in tables if (heads := sides(table))]
    if not boxed:
        return None
    made = Annotations("a table of corners", "xyxy", used=[table.file.path for table, _ in boxed])
    index = matching.Index(images, roles)
    largest = 0.0
    for table, heads in boxed:
        found = matching.match(table, index, any(roles))
        if found is None:
            continue
        if found.lost or found.twice:
            names = [*found.lost, *found.twice]
            made.left.append(f"{len(names)} rows of {table.file.path} without one image ({listing(names, 3)})")
        plain = {re.sub(r"[\W_]", "", head.lower()): head for head in table.columns if head != found.column}
        kind = next((plain[name] for name in _CLASSES if name in plain), None)
        role = matching.scope(table)
        for place, rows in found.rows.items():
            made.objects.setdefault(place, [])
            for row in rows:
                one = _object(table, row, heads, kind)
                if one is not None:
                    largest = max(largest, *one.box)
                    made.objects[place].append(one)
            if role is not None and not any(roles) and len(boxed) > 1:
                made.roles[place] = role
    if not made.objects:
        return None
    made.form = "xyxy-normalised" if 0 < largest <= 1.05 else "xyxy"
    return made


def _object(table: Table, row: int, heads: Sequence[str], kind: str | None) -> Drawn | None:
    """The box of a row; None where all of its corners are empty: an image without objects."""
    values: list[Any] = [table.columns[head][row] for head in heads]
    if all(value is None for value in values):
        return None
    try:
        box = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{table.file.path}: row {row + 2} has the corners {values}: expected four numbers, or none for an image "
            "without objects"
        ) from error
    label = table.columns[kind][row] if kind is not None else "object"
    if label is None:
        raise DatasetError(f"{table.file.path}: row {row + 2} has a box and no class in column {kind!r}")
    return Drawn(box, str(label))
