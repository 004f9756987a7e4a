"""What a schema may bring besides `finetune.task.Schema`: flags of its own, and targets that are read with the images.

Protocols that are asked for by `isinstance`: a task that has nothing of this does not mention it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from finetune.task import Schema


@runtime_checkable
class Flagged(Protocol):
    """Of a schema that depends on flags that its task alone has."""

    def flagged(self, flags: Mapping[str, Any]) -> Schema:
        """The same, as those of these flags say that are given, by field.

        Raises:
            SchemaError: They say nothing that can be.
        """


@dataclass(frozen=True)
class Examined:
    """What was found in what stands beside the images.

    Attributes:
        schema: Which knows now what there is to learn.
        targets: By split `[N, ...]`, also of rows that were not looked at, which have none.
        faults: By split, why a row cannot be used.
    """

    schema: Schema
    targets: dict[str, np.ndarray]
    faults: dict[str, dict[int, str]]


@runtime_checkable
class Examining(Protocol):
    """Of a schema whose targets are read with the images: all are looked at once, before the splits are made.

    `Schema.encode` then only says which rows have one.
    """

    def examined(self, opened: Any, rows: Mapping[str, np.ndarray], max_pixels: int) -> Examined:
        """Look at the targets of some rows.

        Args:
            opened: A `finetune.data.source.Source`.
            rows: By split, of images that decode.
            max_pixels: Larger ones are not decoded.

        Raises:
            SchemaError: They are nothing to learn from.
        """

    def remembered(self, facts: Mapping[str, Any]) -> Schema:
        """The same as it was in a run, without a look: `facts` is result.json's `dataset`, with `Schema.facts`."""

    def counted(self, targets: Mapping[str, np.ndarray]) -> Iterator[str]:
        """What there is of each class, by role of the splits, a line each."""
