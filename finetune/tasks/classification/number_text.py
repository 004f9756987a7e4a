"""Text that may be meant as numbers, which a table of mixed kinds makes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.errors import SeveralReadingsError, listing

FEW = 20
"""Different numbers in text up to which these may be grades or versions."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def check(column: str, values: Sequence[str]) -> None:
    """Whether text is no measured numbers: many different ones, some with a decimal point.

    Args:
        column: Its name.
        values: What stands there, each once.

    Raises:
        SeveralReadingsError: It may be; the message names the flags of both readings.
    """
    if len(values) <= FEW or not all(map(_DECIMAL.fullmatch, values)) or not any("." in value for value in values):
        return
    raise SeveralReadingsError(
        f"column {column!r} holds {len(values)} different numbers as text ({listing(values, 4)}): they can be read as "
        f"numbers (--task image-regression --target-column {column}) or as classes (--task image-classification "
        f"--target-column {column})"
    )
