"""What stands in the target columns of a multi-label dataset: sets of classes, or a yes or no for each; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.errors import SchemaError

UNKNOWN = -1
"""Of a class of an image: neither yes nor no, so that it stays out of loss and scores."""
DELIMITERS = ("|", ";", ",", "/")
_PLURALS = ("tags", "labels", "classes", "categories")
"""Names of a column in which a space may stand between classes, as in `haze primary`."""
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
_UNKNOWN = {"-1", "-1.0", "", "nan", "none", "null"}


def is_missing(value: Any) -> bool:
    """Null, NaN or empty text."""
    return value is None or value == "" or value != value


def is_vector(rows: Iterable[Any]) -> bool:
    """Whether lists of numbers are a yes or no for each class, and not the numbers of classes.

    All are of one length, of two or more, and hold nothing but 0, 1 and unknown ones; a list of classes would name one
    of them twice.

    Args:
        rows: Lists, or null.
    """
    known = [row for row in rows if row is not None]
    lengths = {len(row) for row in known}
    if len(lengths) != 1 or lengths <= {0, 1}:
        return False
    if any(isinstance(value, str) for row in known for value in row):
        return False
    if not all(is_missing(value) or value in (0, 1, UNKNOWN) for row in known for value in row):
        return False
    return lengths != {2} or any(row[0] == row[1] or UNKNOWN in row or None in row for row in known)


def yes_or_no(value: Any, where: str) -> int:
    """1, 0 or `UNKNOWN` of an entry.

    Raises:
        SchemaError: It is something else.
    """
    text = "" if is_missing(value) else str(value).strip().lower()
    if text in _UNKNOWN:
        return UNKNOWN
    if text not in _YES | _NO:
        raise SchemaError(
            f"{where} holds {value!r}; expected 0 or 1 (or true and false) for each class, -1 or null where it is "
            "not known. Name the columns or the list of the classes by --target-column"
        )
    return int(text in _YES)


def vectors(rows: Sequence[Any], count: int, where: str) -> np.ndarray:
    """int8 `[N, count]` of rows of a yes or no for each class; all unknown where a row is null.

    Raises:
        SchemaError: A row is of another length, or an entry something else.
    """
    found = np.full((len(rows), count), UNKNOWN, dtype=np.int8)
    for place, row in enumerate(rows):
        if row is None:
            continue
        if len(row) != count:
            raise SchemaError(f"{where} has {len(row)} entries in row {place}, and {count} in others: expected as many")
        found[place] = [yes_or_no(value, where) for value in row]
    return found


def sets(rows: Sequence[Any], index: dict[Any, int], where: str) -> np.ndarray:
    """int8 `[N, K]` of rows of lists of classes: an empty list is no class, null an image without a label.

    In a split whose lists are all empty nobody has named the classes: its images have no label.

    Raises:
        SchemaError: A class is not among the declared ones.
    """
    found = np.zeros((len(rows), len(index)), dtype=np.int8)
    for place, row in enumerate(rows):
        if row is None:
            found[place] = UNKNOWN
            continue
        for value in row:
            if is_missing(value):
                continue
            if value not in index:
                known = ", ".join(map(str, list(index)[:6]))
                raise SchemaError(
                    f"{where} names the class {value!r} in row {place}, which is not declared: expected one of "
                    f"{known}{', ...' if len(index) > 6 else ''}; correct the name, or declare it"
                )
            found[place, index[value]] = 1
    if not (found > 0).any():
        found[:] = UNKNOWN
    return found


def picked(value: Any, path: Sequence[str]) -> list[Any] | None:
    """The values at a path of structs and lists, in one list; None where the outermost is null."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        found: list[Any] = []
        for one in value:
            if isinstance(one, list | tuple | dict):
                found += picked(one, path) or []
            elif not path:
                found.append(one)
        return found
    if not path:
        return [value]
    return picked(value.get(path[0]), path[1:]) or [] if isinstance(value, dict) else []


def delimiter(texts: Iterable[Any], column: str) -> str | None:
    """What stands between the classes of strings that name several; None where each string is one class.

    The parts must recur: more than half of them in several of the strings, and there are fewer parts than strings or
    some string is one part alone. And they must be a set: where all strings have as many parts, each at its own place
    (`tomato/healthy`, `potato/healthy`), they are the levels of one name.

    Args:
        texts: Values of the column; null is left out.
        column: Its name.
    """
    distinct = {text.strip() for text in texts if isinstance(text, str) and text.strip()}
    spaces = (" ",) if column.lower() in _PLURALS else ()
    marks: tuple[str, ...] = (*DELIMITERS, *spaces)
    for mark in marks:
        if any(mark in text for text in distinct) and _recur([split(text, mark) for text in sorted(distinct)]):
            return mark
    return None


def split(text: str, mark: str) -> list[str]:
    """Names between delimiters."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def _recur(found: Sequence[Sequence[str]]) -> bool:
    counts = Counter(part for parts in found for part in set(parts))
    several = [parts for parts in found if len(parts) > 1]
    if not several or 2 * sum(count > 1 for count in counts.values()) <= len(counts):
        return False
    if len(counts) >= len(found) and not any(len(parts) == 1 for parts in found):
        return False
    places = {(part, place) for parts in found for place, part in enumerate(parts)}
    return len({len(parts) for parts in found}) > 1 or len(places) > len(counts)
