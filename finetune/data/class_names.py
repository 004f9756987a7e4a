"""Class names that look like a mistake in the data; they are used as they are, and remarked on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from finetune.errors import listing

_MISSING = {"nan", "none", "null", "n/a", "na", "#n/a", "unknown", "-1"}


def remarks(classes: Sequence[str]) -> Iterator[str]:
    """Names that differ only in case, spaces or Unicode form, and names that stand for a missing label.

    Args:
        classes: As the dataset has them.

    Returns:
        One sentence for each kind that occurs.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_plain(name), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if alike:
        yield f"classes that differ only in case, spaces or Unicode form: {listing(alike)}; merge them if they are one"
    missing = [name for name in classes if _plain(name) in _MISSING]
    # Languages and chemistry have classes "nan" and "na", and -1 is a class of -1, 0, 1: it stays the user's choice.
    if missing:
        yield f"classes that look like missing labels: {listing(map(repr, missing))}; if they are, make them null"


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
