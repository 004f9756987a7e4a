"""Deterministic train, validation and test: the numbers we report come from images that nothing was selected on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.data.checks import groups
from finetune.data.columns import UNLABELLED
from finetune.errors import SplitError, listing, suggest
from finetune.task import Schema

ROLES = ("train", "validation", "test")
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class SplitRows:
    """The images of one of our splits.

    Attributes:
        source: Name of the source's split.
        rows: Their rows there, int64, ascending.
        targets: What there is to learn of them, `[len(rows), ...]`; of a class its index, int64.
        whole: Whether `rows` is every row of the source's split.
    """

    source: str
    rows: np.ndarray
    targets: np.ndarray
    whole: bool = False

    def to_json(self) -> dict[str, Any]:
        """As splits.json has it."""
        return {"source": self.source, "rows": "all" if self.whole else self.rows.tolist()}


@dataclass(frozen=True)
class Splits:
    """Train, validation and test.

    Attributes:
        parts: By role, see `ROLES`.
        held_out: For each carved split: the source's split and the share asked for.
        ignored: Splits of the source that were not used.
    """

    parts: dict[str, SplitRows]
    held_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Images of each split."""
        return {role: len(part.rows) for role, part in self.parts.items()}


def assign(names: Sequence[str], asked: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Which of the source's splits plays which role.

    Three splits are taken as they are. With train and one other, that other is the test split, whatever its name, and
    validation has to be carved; with train alone, both have. A single split is train.

    Args:
        names: The source's splits that have labels.
        asked: Splits that the user named, by role.

    Returns:
        By role, the source's split; roles to be carved are absent.

    Raises:
        SplitError: A named split does not exist, or none is recognised as train.
    """
    wanted = {role: _meant(name, names) for role, name in (asked or {}).items() if name}
    for role, name in wanted.items():
        if name not in names:
            option = {"train": "--train-split", "validation": "--val-split", "test": "--test-split"}[role]
            hint = suggest(name, names) or "."
            raise SplitError(f"{option}: no labelled split {name!r}{hint} Splits: {listing(names)}")
    free = [name for name in names if name not in wanted.values()]
    found = dict(wanted)
    for role in ROLES:
        if role not in found:
            known = [name for name in free if name.lower() in _NAMES[role]]
            if known:
                found[role] = known[0]
    if "train" not in found:
        others = [name for name in free if name not in found.values()]
        if not free:
            raise SplitError(f"no split is left to train on: {listing(names)} is all there is, and has another role")
        if len(names) != 1 and len(others) != 1:
            raise SplitError(f"no split is called train ({listing(names)}): name one by --train-split")
        found["train"] = others[0] if others else names[0]
        found = {role: name for role, name in found.items() if role == "train" or name != found["train"]}
    if "test" not in found:
        others = [name for name in free if name not in found.values()]
        if "validation" in found and "validation" not in wanted:
            found["test"] = found.pop("validation")
        elif "validation" not in found and len(others) == 1:
            found["test"] = others[0]
    return {role: found[role] for role in ROLES if role in found}


def _meant(asked: str, names: Sequence[str]) -> str:
    """The split that a user means: `val` is `validation`, where only that is there."""
    if asked in names:
        return asked
    same = [name for known in _NAMES.values() if asked.lower() in known for name in names if name.lower() in known]
    return same[0] if len(same) == 1 else asked


def to_evaluate(names: Sequence[str], asked: str | None = None) -> str:
    """The split to evaluate a finished model on.

    Args:
        names: The source's splits that have labels.
        asked: What the user named; `val`, `valid`, `validation` and `dev` are one name.

    Returns:
        The source's name of it: test, else validation, else the only one.

    Raises:
        SplitError: There is no such split, or none is recognised.
    """
    if asked is not None and asked in names:
        return asked
    roles = [role for role in ROLES if asked and asked.lower() in _NAMES[role]] if asked else ["test", "validation"]
    found = [name for role in roles for name in names if name.lower() in _NAMES[role]]
    if found:
        return found[0]
    if asked:
        raise SplitError(f"--split: no labelled split {asked!r}{suggest(asked, names) or '.'} Splits: {listing(names)}")
    if len(names) > 1:
        raise SplitError(f"no split is called test or validation ({listing(names)}): name one by --split")
    return names[0]


def carve(labels: np.ndarray, fraction: float, rng: np.random.Generator, keep: int = 1) -> np.ndarray:
    """Draw a stratified share of a split.

    Args:
        labels: Class indices, int64 `[N]`.
        fraction: Share to draw, of every class; the total is `round(fraction * N)`, or a class's minimum of 1 each.
        rng: Draws.
        keep: Images of each class that must stay.

    Returns:
        bool `[N]`, True where drawn.

    Raises:
        ValueError: A class has fewer than `keep + 1` images.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < keep + 1:
        raise ValueError(f"class {classes[counts.argmin()]} has {counts.min()} images, {keep + 1} are needed")
    share = fraction * counts
    take = np.clip(np.floor(share).astype(np.int64), 1, counts - keep)
    missing = round(fraction * len(labels)) - int(take.sum())
    # Largest remainder first; ties by class index, so that the result does not depend on the sort.
    for index in np.lexsort((classes, take - share)):
        if missing <= 0:
            break
        if take[index] < counts[index] - keep:
            take[index] += 1
            missing -= 1
    drawn = np.zeros(len(labels), dtype=bool)
    for label, number in zip(classes, take, strict=True):
        drawn[rng.permutation(np.flatnonzero(labels == label))[:number]] = True
    return drawn


def subset(labels: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
    """Rows of at most `size` labelled images, each class in its share; all labelled ones without `size`.

    Args:
        labels: Class indices of a whole split, int64 `[N]`.
        size: How many at most.
        rng: Draws.

    Returns:
        int64 rows, ascending.
    """
    rows = np.flatnonzero(labels != UNLABELLED)
    if size is None or len(rows) <= size:
        return rows
    # Position within its class, as a share of it: the smallest `size` of these are a stratified sample.
    order = rng.permutation(rows)
    rank = np.empty(len(order))
    for label in np.unique(labels[order]):
        members = labels[order] == label
        rank[members] = (np.arange(members.sum()) + rng.random()) / members.sum()
    return np.sort(order[np.argsort(rank, kind="stable")[:size]])


def ratio(counts: Sequence[int]) -> float:
    """Images of the largest class over those of the smallest that has any.

    Args:
        counts: Images of each class.
    """
    present = [count for count in counts if count]
    return max(present) / min(present) if present else 1.0


def sampled(splits: Splits, schema: Schema, role: str, size: int, seed: int) -> Splits:
    """The same splits, one role with at most `size` images, drawn by stratum; the very same where there are no more."""
    part = splits.parts[role]
    if len(part.rows) <= size:
        return splits
    chosen = schema.draw(part.targets, size, np.random.default_rng(seed))
    few = SplitRows(part.source, part.rows[chosen], part.targets[chosen])
    return dataclasses.replace(splits, parts=splits.parts | {role: few})


def make(
    targets: Mapping[str, np.ndarray],
    usable: Mapping[str, np.ndarray],
    roles: Mapping[str, str],
    schema: Schema,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    belongs: np.ndarray | None = None,
) -> Splits:
    """Make train, validation and test; what the source lacks is carved from its train, stratified and seeded.

    Args:
        targets: By source split, what there is to learn of every row.
        usable: By source split, the rows that may be used (labelled, decodable), int64.
        roles: By role, the source's split, see `assign`.
        schema: Says what is a stratum.
        val_fraction: Share of train to hold out for validation where it is carved.
        test_fraction: Share of train to hold out for the test where it is carved.
        seed: Of the draw.
        belongs: int64, the group of every row of train's source: what is carved are then whole groups.

    Raises:
        SplitError: A split is empty, or a stratum has too few images to be split.
    """
    for role, source in roles.items():
        if len(usable[source]) == 0:
            raise SplitError(f"the {role} split ({source!r}) has no usable image: expected labelled images that decode")
    fractions = {"test": test_fraction, "validation": val_fraction}
    carved = [role for role in fractions if role not in roles]
    source = roles["train"]
    rows = usable[source]
    schema.check_sizes(targets[source][rows], carved)
    parts = {}
    held_out = {}
    total = len(rows)
    rng = np.random.default_rng(seed)
    for position, role in enumerate(carved):
        # A share of the whole split, also where another part of it is gone already.
        share = fractions[role] * total / len(rows)
        keep = len(carved) - position
        if belongs is None:
            drawn = schema.carve(targets[source][rows], share, rng, keep)
        else:
            strata = schema.strata(targets[source][rows])
            drawn = groups.draw(belongs[rows], strata, fractions[role] * total, rng, keep)
        parts[role] = SplitRows(source, rows[drawn], targets[source][rows[drawn]])
        held_out[role] = {"from": source, "fraction": fractions[role]}
        rows = rows[~drawn]
    for role in roles:
        chosen = rows if role == "train" else usable[roles[role]]
        every = targets[roles[role]]
        parts[role] = SplitRows(roles[role], chosen, every[chosen], whole=len(chosen) == len(every))
    ignored = tuple(name for name in targets if name not in roles.values())
    return Splits({role: parts[role] for role in ROLES}, held_out, ignored)
