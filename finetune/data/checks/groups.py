"""Images that belong together (of one patient, scene or video) are held out together, or a test says too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from datasets import DatasetDict

from finetune.console import log
from finetune.errors import SchemaError, SplitError, listing, suggest

if TYPE_CHECKING:
    from finetune.data.splits import Splits

TRIES = 200
"""Random choices of groups, of which the one is taken that is nearest to a stratified share."""


def read(source: DatasetDict, column: str, roles: Mapping[str, str]) -> dict[str, np.ndarray]:
    """int64, the group of each row, by split of the source; equal values are one group in all splits.

    Args:
        source: The dataset.
        column: Of the groups; a row without a value is a group of its own.
        roles: By role, the splits that are used.

    Raises:
        SchemaError: There is no such column.
    """
    made: dict[str, np.ndarray] = {}
    known: dict[str, int] = {}
    alone = -1
    for name in roles.values():
        names = source[name].column_names
        if column not in names:
            raise SchemaError(
                f"--group-column: no column {column!r} in split {name!r}{suggest(column, names) or '.'} Columns: "
                f"{listing(names)}"
            )
        numbers = []
        for value in source[name][column][:]:
            if value is None:
                numbers.append(alone)
                alone -= 1
            else:
                numbers.append(known.setdefault(str(value), len(known)))
        made[name] = np.array(numbers, dtype=np.int64)
    return made


def draw(groups: np.ndarray, strata: np.ndarray, images: float, rng: np.random.Generator, keep: int) -> np.ndarray:
    """Bool `[N]`: whole groups of about so many images, each stratum as near to its share as chance has it.

    Args:
        groups: int64 `[N]`.
        strata: int64 `[N]`.
        images: To be drawn.
        rng: Draws.
        keep: Groups that must stay.

    Raises:
        SplitError: There are too few groups.
    """
    numbers, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) < keep + 1:
        raise SplitError(
            f"--group-column: {len(numbers)} groups, and at least {keep + 1} are needed to hold some out: name splits "
            "by --val-split and --test-split, or leave the flag out"
        )
    _, which = np.unique(strata, return_inverse=True)
    table = np.zeros((len(numbers), which.max() + 1))  # images by group and stratum
    np.add.at(table, (of, which), 1)
    wanted = table.sum(axis=0) * images / len(groups)
    best, least = np.zeros(len(numbers), dtype=bool), np.inf
    for _ in range(TRIES):
        order = rng.permutation(len(numbers))
        totals = np.cumsum(sizes[order])
        # The number of groups whose images are nearest to what is wanted; one at least, and `keep` stay.
        count = int(np.abs(totals - images).argmin()) + 1
        chosen = order[: min(count, len(numbers) - keep)]
        off = np.abs(table[chosen].sum(axis=0) - wanted).sum()
        lost = (table.sum(axis=0) - table[chosen].sum(axis=0) <= 0).sum()  # strata that would be gone from the rest
        if off + len(groups) * lost < least:
            best = np.zeros(len(numbers), dtype=bool)
            best[chosen], least = True, off + len(groups) * lost
    drawn: np.ndarray = best[of]
    return drawn


def say(made: Splits, groups: Mapping[str, np.ndarray]) -> None:
    """How many groups each role has, and which it shares with training."""
    found = {role: set(groups[part.source][part.rows].tolist()) for role, part in made.parts.items()}
    counts = ", ".join(f"{role} {len(of)}" for role, of in found.items())
    log.info(f"groups: {counts}{'; held out whole' if made.held_out else ''}")
    for role in ("validation", "test"):
        if shared := found[role] & found["train"]:
            log.info(f"warning: {len(shared)} of the {len(found[role])} groups of {role} are in train too")
