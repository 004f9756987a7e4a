"""One class an image, written as a 1 among zeros: in a list, or in a column for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.data.columns import UNLABELLED
from finetune.errors import SchemaError
from finetune.tasks.classification.schema import DatasetSchema


@dataclass(frozen=True)
class OneHotSchema(DatasetSchema):
    """Classes of which each row names one, by its place.

    Attributes:
        sources: The column of lists or structs, or the columns of 0 and 1.
    """

    sources: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The list's, or one for each class."""
        return self.sources

    @property
    def explains(self) -> tuple[str, ...]:
        """Nothing: the values may name several classes a row, which is another task's."""
        return ()

    def read(self, split: Dataset) -> Sequence[Any]:
        """Rows of 0 and 1."""
        return rows(split, self.sources)

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Nothing: no split declares names."""

    def with_values(self, columns: Iterable[Sequence[Any]]) -> DatasetSchema:
        """The same, with the classes.

        Raises:
            SchemaError: A row has no 1, or several.
        """
        known = [row for column in columns for row in column if row is not None]
        if not known or any(_place(row) is None for row in known):
            raise SchemaError(
                f"{self.target_column!r} does not have one 1 and else zeros in each row: expected one class an image; "
                "where an image may show several, give --task multi-label-classification"
            )
        first = known[0]
        names = list(first) if isinstance(first, Mapping) else range(len(first))
        several = tuple(map(str, names)) if len(self.sources) == 1 else self.sources
        return dataclasses.replace(self, classes=several, values=tuple(range(len(several))))

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Class indices, int64; `UNLABELLED` where a row is null."""
        places = [None if row is None else _place(row) for row in column]
        return np.array([UNLABELLED if place is None else place for place in places], dtype=np.int64)


def rows(split: Dataset, columns: Sequence[str]) -> list[Any]:
    """What stands in a column of lists or structs, or side by side in several columns; null where all are null."""
    if len(columns) == 1:
        return list(split[columns[0]][:])
    found = zip(*(split[name][:] for name in columns), strict=True)
    return [None if all(value is None for value in row) else list(row) for row in found]


def _place(row: Any) -> int | None:
    """Where the one 1 stands; None where there is none, or something else than zeros beside it."""
    values = list(row.values()) if isinstance(row, Mapping) else list(row)
    ones = [place for place, value in enumerate(values) if value == 1]
    zeros = sum(value == 0 for value in values)
    return ones[0] if len(ones) == 1 and zeros == len(values) - 1 else None
