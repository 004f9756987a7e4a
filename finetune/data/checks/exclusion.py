"""Lists of rows to leave out, as `doctor --fix` and `labels --fix` write them and `--exclude` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import DatasetError, listing


def to_text(rows: Mapping[str, Mapping[int, str]]) -> str:
    """A file's content: by split of the source, rows and why each is left out.

    Args:
        rows: By the source's split: row -> reason.
    """
    content = {split: {str(row): why for row, why in sorted(of.items())} for split, of in sorted(rows.items()) if of}
    return json.dumps({"exclude": content}, indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> dict[str, list[int]]:
    """Rows by split of the source.

    Either what `to_text` gives, or JSON lists: `{"train": [3, 17]}`.

    Raises:
        DatasetError: It cannot be read, or is of another form.
    """
    shape = 'expected {"SPLIT": [row, ...]}, or what doctor --fix writes'
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"--exclude {path}: {error.strerror or error}; {shape}") from error
    except ValueError as error:
        raise DatasetError(f"--exclude {path} is not JSON: {error}; {shape}") from error
    found = content.get("exclude", content) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise DatasetError(f"--exclude {path}: {shape}, got {type(content).__name__}")
    made: dict[str, list[int]] = {}
    for split, rows in found.items():
        try:
            made[split] = sorted({int(row) for row in rows})
        except (TypeError, ValueError) as error:
            raise DatasetError(f"--exclude {path}: the rows of {split!r} are no whole numbers: {shape}") from error
        if made[split] and made[split][0] < 0:
            raise DatasetError(f"--exclude {path}: row {made[split][0]} of {split!r}: rows count from 0")
    return made


def check(path: Path, rows: Mapping[str, Sequence[int]], sizes: Mapping[str, int]) -> None:
    """Whether the dataset has these rows.

    Raises:
        DatasetError: It has not: the list is of another dataset.
    """
    for split, of in rows.items():
        if split not in sizes:
            raise DatasetError(f"--exclude {path} names split {split!r}; this dataset has {listing(sizes)}")
        if of and max(of) >= sizes[split]:
            raise DatasetError(
                f"--exclude {path} names row {max(of)} of {split!r}, which has {sizes[split]}: it was made for another "
                "dataset"
            )


def kept(rows: np.ndarray, left_out: Sequence[int]) -> np.ndarray:
    """int64, `rows` without those."""
    remaining: np.ndarray = np.setdiff1d(rows, np.asarray(left_out, dtype=np.int64))
    return remaining
