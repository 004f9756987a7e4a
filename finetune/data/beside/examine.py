"""A look at what stands beside the images: what can be used of it, and what there is to learn, before the splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.data.scan import BadImage
from finetune.errors import DatasetError, listing
from finetune.examining import Examining
from finetune.task import Schema

_MOST = 0.1
"""Share of the rows that may be left out for a fault; from more of them on the dataset is at fault."""


@dataclass
class Looked:
    """What there is to learn, and of which rows.

    Attributes:
        schema: Which knows its classes now.
        targets: By split `[N, ...]`.
        rows: By split, those that were looked at.
        bad: By split, those of them that are left out.
        unlabelled: By split, how many have nothing to learn from.
    """

    schema: Schema
    targets: dict[str, np.ndarray]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    bad: dict[str, list[BadImage]] = field(default_factory=dict)
    unlabelled: dict[str, int] = field(default_factory=dict)


def look(
    opened: Any,
    found: Schema,
    targets: Mapping[str, np.ndarray],
    names: Sequence[str],
    scan: Callable[[str, np.ndarray], list[BadImage]],
    max_samples: int | None,
    max_pixels: int,
    rng: np.random.Generator,
) -> Looked:
    """Look at images and what stands beside them.

    Args:
        opened: A `finetune.data.source.Source`.
        found: A schema that examines.
        targets: By split, which rows have something to look at.
        names: Of the splits that are looked at.
        scan: Name of a split and rows of it -> images that do not decode.
        max_samples: Of each split at most.
        max_pixels: Larger ones are not decoded.
        rng: Draws the samples.

    Raises:
        DatasetError: Too many rows cannot be used.
        SchemaError: There is nothing to learn from.
    """
    if not isinstance(found, Examining):  # for types alone: the caller has asked
        raise TypeError(f"{type(found).__name__} does not examine")
    seen = Looked(found, dict(targets))
    for name in names:
        _check_present(name, found.labelled(targets[name]), found.target_column)
        seen.rows[name] = found.draw(targets[name], max_samples, rng)
        seen.bad[name] = scan(name, seen.rows[name])
    decode = {name: np.setdiff1d(rows, [image.row for image in seen.bad[name]]) for name, rows in seen.rows.items()}
    said = found.examined(opened, decode, max_pixels)
    seen.schema, seen.targets = said.schema, said.targets
    for name, rows in decode.items():
        faults = said.faults.get(name, {})
        _check_faults(name, faults, len(rows), found.target_column)
        seen.bad[name] = sorted(
            [*seen.bad[name], *(BadImage(row, reason, beside=True) for row, reason in faults.items())],
            key=lambda image: image.row,
        )
        usable = np.setdiff1d(rows, list(faults))
        nothing = len(usable) - int(seen.schema.labelled(seen.targets[name][usable]).sum())
        seen.unlabelled[name] = nothing + int((~found.labelled(targets[name])).sum())
    return seen


def usable(seen: Looked, split: str) -> np.ndarray:
    """Rows of a split that decode and have something to learn from, int64."""
    rows = np.setdiff1d(seen.rows[split], [image.row for image in seen.bad[split]])
    kept: np.ndarray = rows[seen.schema.labelled(seen.targets[split][rows])]
    return kept


def _check_present(split: str, present: np.ndarray, column: str) -> None:
    missing = np.flatnonzero(~present)
    if _too_many(len(missing), len(present)):
        raise DatasetError(
            f"{len(missing)} of {len(present)} rows of the {split!r} split have nothing in column {column!r} (rows "
            f"{listing(missing)}): expected it for every image, or for none of a split; take the images without out of "
            "the dataset"
        )


def _check_faults(split: str, faults: Mapping[int, str], count: int, column: str) -> None:
    if _too_many(len(faults), count):
        row = min(faults)
        raise DatasetError(
            f"{len(faults)} of {count} rows of the {split!r} split cannot be used for what stands in column {column!r} "
            f"(rows {listing(sorted(faults))}), more than a tenth. Row {row}: {faults[row]}"
        )


def _too_many(bad: int, count: int) -> bool:
    return bad > max(1, _MOST * count)
