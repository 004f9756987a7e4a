"""Which row of a table is about which image: by the names that a column holds, however they are written."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from finetune.data.folder import names
from finetune.data.folder.tables import Table
from finetune.data.folder.tree import File, image_suffixes

_SAMPLE = 200  # rows by which the column of names is found
_HEADINGS = (
    "file_name",
    "filename",
    "file",
    "image",
    "img",
    "image_name",
    "image_id",
    "image_path",
    "path",
    "filepath",
    "id",
)


@dataclass
class Match:
    """What a table says of the images.

    Attributes:
        table: The table.
        column: Its column of names.
        rows: For each image that it names, its rows.
        lost: Names without an image.
        twice: Names that several images have.
    """

    table: Table
    column: str
    rows: dict[int, list[int]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)


class Index:
    """Images by their names."""

    def __init__(self, images: Sequence[File], roles: Sequence[str | None]) -> None:
        self.images = images
        self.roles = roles
        self.by_path = {image.path: place for place, image in enumerate(images)}
        self.by_name: dict[str, list[int]] = {}
        self.by_stem: dict[str, list[int]] = {}
        for place, image in enumerate(images):
            name = image.name.lower()
            self.by_name.setdefault(name, []).append(place)
            self.by_stem.setdefault(os.path.splitext(name)[0], []).append(place)
        self.suffixes = image_suffixes()

    def find(self, name: str, folders: tuple[str, ...], role: str | None) -> list[int]:
        """Images that a name in a table can mean; several where it does not say which.

        Args:
            name: As the table has it.
            folders: Of the table.
            role: Of the table; only images of that split are meant.
        """
        plain = posixpath.normpath(name.strip().replace("\\", "/"))
        for exact in (posixpath.normpath("/".join((*folders, plain))), plain):
            if (place := self.by_path.get(exact)) is not None:
                return [place]
        *above, last = [part.lower() for part in plain.split("/") if part not in ("", ".", "..")] or [""]
        found = self.by_name.get(last, [])
        if not found and os.path.splitext(last)[1] not in self.suffixes:
            found = self.by_stem.get(last, [])
        found = [place for place in found if self._within(place, above)]
        if role is not None:
            found = [place for place in found if self.roles[place] in (role, "")]
        if len(found) > 1 and folders:
            near = [place for place in found if self.images[place].folders[: len(folders)] == folders]
            found = near or found
        return found

    def _within(self, place: int, above: Sequence[str]) -> bool:
        """Whether an image lies in the folders that a name has, as far as both have some."""
        folders = [folder.lower() for folder in self.images[place].folders]
        common = min(len(folders), len(above))
        return common == 0 or folders[-common:] == list(above[-common:])


def match(table: Table, index: Index, has_splits: bool) -> Match | None:
    """Find the images that a table names; None where it names none.

    Args:
        table: The table.
        index: All images.
        has_splits: Whether there are split folders, whose images alone a table of that name is about.
    """
    role = scope(table) if has_splits else None
    folders = table.file.folders
    best: tuple[int, int, str] | None = None
    for head, values in table.columns.items():
        some = [str(value) for value in values[:: max(1, len(values) // _SAMPLE)] if _is_name(value)]
        found = [places for value in some if (places := index.find(value, folders, role))]
        # A column of classes 0 and 1 may name images 0.png and 1.png, but not many.
        score = len({places[0] for places in found})
        known = head.lower() in _HEADINGS
        if found and (2 * len(found) >= len(some) or known) and (best is None or (score, known) > best[:2]):
            best = (score, known, head)
    if best is None:
        return None
    result = Match(table, best[2])
    for row, value in enumerate(table.columns[result.column]):
        places = index.find(str(value), folders, role) if _is_name(value) else []
        if len(places) == 1:
            result.rows.setdefault(places[0], []).append(row)
        else:
            (result.twice if places else result.lost).append(str(value))
    return result


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and 0 < len(str(value)) < 4096


def scope(table: Table) -> str | None:
    """The split that the name of a table says it is about."""
    return names.role(os.path.splitext(table.file.name)[0])


def split_columns(columns: Mapping[str, Collection[Any]]) -> list[str]:
    """Columns that say the split of each row.

    Args:
        columns: Values by heading.
    """
    return [head for head, values in columns.items() if split_of(head, values) is not None]


def split_of(head: str, values: Collection[Any]) -> Callable[[Any], str | None] | None:
    """How a column says the split of a row: by its name, or by yes and no (`is_valid`); None of another column.

    Args:
        head: Of the column.
        values: In it.
    """
    present = {value for value in values if isinstance(value, str | int | float)}
    if not present:
        return None
    if (role := names.flag(head, present)) is not None:
        return partial(names.flagged, role)
    plain = re.sub(r"[\W_]", "", head.lower())
    if plain not in ("split", "splits", "subset", "partition", "phase", "datasplit", "datasetsplit", "set", "usage"):
        return None
    if not all(isinstance(value, str) and names.split_name(value) is not None for value in present):
        return None
    return lambda value: None if value is None else names.split_name(value)
