"""Colours of classes: given on the command line, in a file, or in one that lies beside the masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.beside.pixels import packed
from finetune.errors import SchemaError

FILES = ("class_dict.csv", "label_colors.txt", "labelmap.txt", "palette.json", "colors.json", "mask_colors.csv")
"""Files of a dataset's folder that are read without being named: those of Kaggle's copies, CamVid and CVAT."""

_FORM = "name=r,g,b;name=r,g,b or a file: csv (name,r,g,b), lines (r g b name), JSON ({name: [r, g, b]})"
_NUMBER = r"(\d{1,3})"
_FIRST = re.compile(rf"\s*{_NUMBER}[\s,;]+{_NUMBER}[\s,;]+{_NUMBER}[\s,;:]+(.*?)\s*")  # 64 128 64 Animal
_LAST = re.compile(rf"\s*(.*?)\s*[=,;:\t ]\s*{_NUMBER}[\s,]+{_NUMBER}[\s,]+{_NUMBER}\s*(?::.*)?")  # road,1,2,3
_HEX = re.compile(r"\s*(.*?)\s*[=,;:\t ]\s*#([0-9a-fA-F]{6})\s*")  # road=#804080


def read(given: str) -> dict[int, str]:
    """Name of each packed colour, of `--mask-colors`.

    Args:
        given: Colours, or a file of them.

    Raises:
        SchemaError: It is neither.
    """
    path = Path(given).expanduser()
    try:
        is_file = path.is_file()
    except OSError:  # too long for a path
        is_file = False
    if is_file:
        return read_file(path)
    if "=" not in given:
        raise SchemaError(f"--mask-colors {given}: no such file, and no colours; expected {_FORM}")
    return _named(given.split(";"), f"--mask-colors {given}")


def read_file(path: Path) -> dict[int, str]:
    """The same of a file.

    Raises:
        SchemaError: It holds none, or something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return _named(_of_json(json.loads(text)), path.name)
    except (OSError, ValueError) as error:
        raise SchemaError(f"cannot read the colours in {path}: {error}; expected {_FORM}") from error
    return _named(text.splitlines(), path.name, heading=True)


def _of_json(found: Any) -> Iterator[str]:
    """As lines: `{name: [r, g, b]}`, `[[r, g, b], ...]`, or `[{"name": ..., "color": ...}]`."""
    if isinstance(found, dict):
        entries = list(found.items())
    elif isinstance(found, list):
        entries = [(_name(entry, place), _colour(entry)) for place, entry in enumerate(found)]
    else:
        raise ValueError(f"got {type(found).__name__}")
    for name, colour in entries:
        yield f"{name}={colour}" if isinstance(colour, str) else f"{name}={','.join(map(str, colour))}"


def _name(entry: Any, place: int) -> str:
    return str(entry.get("name", entry.get("label"))) if isinstance(entry, dict) else f"class {place}"


def _colour(entry: Any) -> Any:
    return entry.get("color", entry.get("colour", entry.get("rgb"))) if isinstance(entry, dict) else entry


def _named(lines: Any, where: str, heading: bool = False) -> dict[int, str]:
    named: dict[int, str] = {}
    for place, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith(("#", "//")):
            continue
        if (found := _parsed(line)) is None:
            if heading and place == 0:  # name,r,g,b
                continue
            raise SchemaError(f"{where}: no colour in {line.strip()!r}; expected {_FORM}")
        colour, name = found
        if named.get(colour, name) != name:
            raise SchemaError(f"{where}: {named[colour]!r} and {name!r} have one colour: expected one for each class")
        named[colour] = name
    if not named:
        raise SchemaError(f"{where} holds no colours; expected {_FORM}")
    return named


def _parsed(line: str) -> tuple[int, str] | None:
    if match := _HEX.fullmatch(line):
        value = int(match[2], 16)
        return packed(value >> 16, value >> 8 & 255, value & 255), match[1]
    if match := _FIRST.fullmatch(line):
        red, green, blue, name = match.groups()
    elif match := _LAST.fullmatch(line):
        name, red, green, blue = match.groups()
    else:
        return None
    if not name or max(int(red), int(green), int(blue)) > 255:
        return None
    return packed(int(red), int(green), int(blue)), name
