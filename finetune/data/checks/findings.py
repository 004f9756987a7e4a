"""What was found in a dataset, one entry each, from a note to what makes numbers untrue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.text import counted

Severity = Literal["note", "warning", "serious"]


@dataclass(frozen=True)
class Finding:
    """One thing.

    Attributes:
        key: For programs.
        severity: `serious`: numbers would be untrue; `warning`: look at it; `note`: good to know.
        title: For people, in one line.
        lines: More of it.
        images: Places of images that show it; several that belong together in one entry.
        captions: A line for each of these entries.
    """

    key: str
    severity: Severity
    title: str
    lines: tuple[str, ...] = ()
    images: tuple[tuple[int, ...], ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Counts what there is one of as one."""
        object.__setattr__(self, "title", counted(self.title))

    def to_json(self, rows: Sequence[Sequence[tuple[str, int]]]) -> dict[str, Any]:
        """As `--json` has it; `rows` are split and row of `images`."""
        return {
            "key": self.key,
            "severity": self.severity,
            "title": self.title,
            "lines": list(self.lines),
            "images": [[{"split": split, "row": row} for split, row in of] for of in rows],
        }
