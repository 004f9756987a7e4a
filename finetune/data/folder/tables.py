"""Tables beside images, read as they are written: csv, tsv, json, jsonl, parquet -> columns."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.folder.tree import File, image_suffixes
from finetune.errors import DatasetError

_INTEGER = re.compile(r"0|-?[1-9]\d*")
_DECIMAL = re.compile(r"-?\d*\.\d+(?:[eE][-+]?\d+)?|-?\d+[eE][-+]?\d+")


@dataclass(frozen=True)
class Table:
    """A table of a tree.

    Attributes:
        file: Where it is.
        columns: Values of each row by heading; None for an empty field. Of csv and tsv all are text.
        text: Whether all are text.
    """

    file: File
    columns: dict[str, list[Any]]
    text: bool

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), []))


def read(file: File) -> Table | None:
    """Read a table; None where the file holds none.

    Raises:
        DatasetError: It is damaged.
    """
    suffix = Path(file.name).suffix.lower()
    if suffix == ".parquet":
        try:
            return Table(file, pq.read_table(file.place).to_pydict(), text=False)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"cannot read {file.path}: {' '.join(str(error).split())[:200]}") from error
    try:
        text = _decoded(Path(file.place).read_bytes())
        if suffix in (".csv", ".tsv"):
            return _delimited(file, text)
    except (OSError, csv.Error) as error:
        raise DatasetError(f"cannot read {file.path}: {error}") from error
    rows = _objects(file, text, lines=suffix != ".json")
    if not rows:
        return None
    headings = dict.fromkeys(name for row in rows for name in row)
    return Table(file, {name: [row.get(name) for row in rows] for name in headings}, text=False)


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # as spreadsheets on Windows write it


def _objects(file: File, text: str, lines: bool) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except ValueError as error:
        if not lines:
            return []
        raise DatasetError(f"{file.path} is not one JSON object a line: {error}") from error
    return found if isinstance(found, list) and all(isinstance(row, dict) for row in found) else []


def _delimited(file: File, text: str) -> Table | None:
    first, _, others = text.partition("\n")
    delimiter = None
    if (said := re.fullmatch(r"sep=(.)\s*", first)) is not None:  # as Excel writes it
        delimiter, text = said[1], others
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or _delimiter(text)) if row]
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return None
    if any(Path(cell.strip()).suffix.lower() in image_suffixes() for cell in rows[0]):
        heads = ["file_name", "label"] if len(rows[0]) == 2 else [f"column_{n + 1}" for n in range(len(rows[0]))]
        rows = [heads, *rows]
        if len(heads) == 2 and Path(rows[1][1].strip()).suffix.lower() in image_suffixes():
            rows[0] = heads[::-1]
    heads = _headings(rows[0])
    while heads and heads[-1] == "" and all(len(row) < len(heads) or not row[-1].strip() for row in rows[1:]):
        heads.pop()  # a delimiter at the end of each line
    for number, row in enumerate(rows[1:], 2):
        if (len(row) != len(heads) and any(cell.strip() for cell in row[len(heads) :])) or len(row) < len(heads) - 1:
            raise DatasetError(
                f"{file.path}: row {number} has {len(row)} fields, the heading has {len(heads)} ({', '.join(heads)}): "
                "put fields that hold the separator into double quotes"
            )
    columns = {
        head: [(row[place].strip() or None) if place < len(row) else None for row in rows[1:]]
        for place, head in enumerate(heads)
    }
    return Table(file, columns, text=True)


def _headings(row: Sequence[str]) -> list[str]:
    heads: list[str] = []
    for place, cell in enumerate(row):
        head = cell.strip() or (f"column_{place + 1}" if place < len(row) - 1 else "")
        while head in heads:
            head += "_"
        heads.append(head)
    return heads


def _delimiter(text: str) -> str:
    """The separator that splits the first lines into most fields of the same number."""
    lines = [line for line in text.splitlines()[:20] if line.strip()] or [""]

    def fields(delimiter: str) -> int:
        counts = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter))
        most, often = max(counts.items(), key=lambda item: item[1], default=(1, 0))
        return most if often >= 0.8 * len(lines) else 1

    return max((",", ";", "\t", "|"), key=fields)


def typed(values: Sequence[Any]) -> pa.Array:
    """A column of text as numbers, where every field is written as Python writes that number; else as it is written.

    So 001 stays a name, and so do NA and 1.10 beside 1.1.

    Args:
        values: Text, or None of an empty field.
    """
    present = {value for value in values if value is not None}
    if present and all(_INTEGER.fullmatch(value) and len(value) < 19 for value in present):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    numbers = [value for value in present if not _INTEGER.fullmatch(value)]
    if numbers and all(_DECIMAL.fullmatch(value) for value in numbers):
        if len({float(value) for value in present}) == len(present):
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values, pa.string())
